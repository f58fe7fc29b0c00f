//! Which app, type and number a container is: what was told with its attachment, else its labels, else Compose's, else its name.
//!
//! What Docker's plugin and the CNI plugin know of a container leads to the same names here.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use crate::agent::views::{Attach, Target};

/// The keys that say who a container is.
pub const WISHES: [&str; 4] = ["privnet.app", "privnet.type", "privnet.number", "privnet.address"];
/// What the keys of ports begin with: `privnet.port.http=8080`.
pub const PORT: &str = "privnet.port.";

const COMPOSE_PROJECT: &str = "com.docker.compose.project";
const COMPOSE_SERVICE: &str = "com.docker.compose.service";
const COMPOSE_NUMBER: &str = "com.docker.compose.container-number";
/// The longest label of a domain name, in bytes.
const MAX_LABEL: usize = 63;

/// What a runtime knows of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Container {
    /// Its id.
    pub id: String,
    /// Its name, without the slash.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// Who a container is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The app's id or name.
    pub app: String,
    /// The type.
    pub kind: String,
    /// The number; the lowest that is free when absent.
    pub number: Option<u32>,
    /// Whether another number will do.
    pub is_flexible: bool,
    /// The address.
    pub address: Option<Ipv4Addr>,
    /// The ports, as `http=8080`.
    pub ports: Vec<String>,
}

impl Identity {
    /// Who a container is of which only what was told with its attachment is known; nothing when these do not name app and type.
    ///
    /// # Errors
    /// The sentence for the user.
    pub fn of_wishes(wishes: &BTreeMap<String, String>) -> Result<Option<Self>, String> {
        if wishes.contains_key("privnet.app") && wishes.contains_key("privnet.type") {
            return Self::of(wishes, &Container::default()).map(Some);
        }
        Ok(None)
    }

    /// Who a container is.
    ///
    /// # Errors
    /// The sentence for the user.
    pub fn of(wishes: &BTreeMap<String, String>, container: &Container) -> Result<Self, String> {
        let Container { name, labels, .. } = container;
        let told = |key: &str| wishes.get(key).or_else(|| labels.get(key));
        let by_compose = |key: &str| labels.get(key).filter(|value| !value.is_empty());
        let app = told("privnet.app").cloned();
        let app = app.unwrap_or_else(|| label_of(by_compose(COMPOSE_PROJECT).unwrap_or(name)));
        let kind = told("privnet.type").cloned();
        let kind =
            kind.unwrap_or_else(|| by_compose(COMPOSE_SERVICE).map_or_else(|| "web".to_owned(), |it| label_of(it)));
        let number = told("privnet.number").map(|number| parse("privnet.number", number)).transpose()?;
        // What Compose counts on another host, it counts there.
        let of_compose = by_compose(COMPOSE_NUMBER).and_then(|number| number.parse().ok());
        if labels.contains_key("privnet.address") {
            return Err("privnet.address is a driver-opt of the network, and no label".to_owned());
        }
        let address = wishes.get("privnet.address").map(|address| parse("privnet.address", address)).transpose()?;
        let mut ports: BTreeMap<&str, &str> = BTreeMap::new();
        for (key, value) in labels.iter().chain(wishes) {
            if let Some(port) = key.strip_prefix(PORT) {
                ports.insert(port, value);
            }
        }
        let ports = ports.into_iter().map(|(name, port)| format!("{name}={port}")).collect();
        Ok(Self { app, kind, number: number.or(of_compose), is_flexible: number.is_none(), address, ports })
    }

    /// The name of a container of which nothing is known yet, made up of the digits of its endpoint.
    ///
    /// # Errors
    /// The sentence for the user.
    pub fn made_up(digits: u64, wishes: &BTreeMap<String, String>) -> Result<Self, String> {
        let known = Self::of(wishes, &Container::default())?;
        Ok(Self {
            app: format!("docker-{digits:016x}"),
            kind: "web".to_owned(),
            number: Some(1),
            ports: Vec::new(),
            ..known
        })
    }
}

impl Identity {
    /// What an attach asks for; the namespace is for the caller to say.
    #[must_use]
    pub fn attach(self, network: String) -> Attach {
        let Self { app, kind, number, address, ports, .. } = self;
        let target = Target::Netns(PathBuf::new());
        Attach { network, app, kind: Some(kind), number, address, target, ports, resolv_conf: None, attachment: None }
    }
}

fn parse<T: std::str::FromStr>(key: &str, text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{key} is {text:?}, which is none"))
}

/// A name of a container as a label of a domain name: in lower case, with `-` for what a label does not have.
fn label_of(name: &str) -> String {
    let is_in_label = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let label: String =
        name.to_lowercase().chars().map(|c| if is_in_label(c) { c } else { '-' }).skip_while(|c| *c == '-').collect();
    let is_taken = label.starts_with("ap-") || label.starts_with("pn-");
    let label =
        if is_taken || !label.starts_with(|c: char| c.is_ascii_lowercase()) { format!("c-{label}") } else { label };
    let label: String = label.chars().take(MAX_LABEL).collect();
    label.trim_end_matches('-').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn who(wishes: &[(&str, &str)], name: &str, labels: &[(&str, &str)]) -> (String, String, Option<u32>, bool) {
        let container = Container { id: "c".repeat(64), name: name.to_owned(), labels: map(labels) };
        let Identity { app, kind, number, is_flexible, .. } = Identity::of(&map(wishes), &container).expect("known");
        (app, kind, number, is_flexible)
    }

    #[test]
    fn what_the_endpoint_was_told_comes_before_labels_these_before_composes_and_these_before_the_name() {
        let compose = [(COMPOSE_PROJECT, "shop"), (COMPOSE_SERVICE, "backend"), (COMPOSE_NUMBER, "2"), ("other", "x")];
        let own = [&compose[..], &[("privnet.app", "store"), ("privnet.number", "7")]].concat();
        let is = |app: &str, kind: &str, number, is_flexible| (app.to_owned(), kind.to_owned(), number, is_flexible);
        assert_eq!(who(&[], "eager_fermi", &[]), is("eager-fermi", "web", None, true));
        assert_eq!(who(&[], "shop-backend-2", &compose), is("shop", "backend", Some(2), true));
        assert_eq!(who(&[], "shop-backend-2", &own), is("store", "backend", Some(7), false));
        assert_eq!(who(&[("privnet.type", "db")], "shop-backend-2", &own), is("store", "db", Some(7), false));
        assert_eq!(
            who(&[("privnet.app", "x"), ("privnet.number", "3")], "n", &own),
            is("x", "backend", Some(3), false)
        );
    }

    #[test]
    fn app_and_type_alone_need_nobodys_labels() {
        let both = map(&[("privnet.app", "shop"), ("privnet.type", "db"), ("privnet.address", "10.90.0.7")]);
        let known = Identity::of_wishes(&both).expect("valid").expect("enough");
        assert_eq!((known.app.as_str(), known.kind.as_str()), ("shop", "db"));
        assert_eq!(known.address, Some(Ipv4Addr::new(10, 90, 0, 7)));
        assert_eq!(Identity::of_wishes(&map(&[("privnet.app", "shop")])), Ok(None));
        let made_up = Identity::made_up(0xabc, &map(&[("privnet.address", "10.90.0.7")])).expect("valid");
        assert_eq!(made_up.app, "docker-0000000000000abc");
        assert_eq!(made_up.address, known.address);
    }

    #[test]
    fn ports_of_both_are_declared_and_the_endpoints_win() {
        let container = Container {
            labels: map(&[("privnet.port.http", "80"), ("privnet.port.dns", "53/udp")]),
            ..Container::default()
        };
        let ports = Identity::of(&map(&[("privnet.port.http", "8080")]), &container).expect("known").ports;
        assert_eq!(ports, ["dns=53/udp", "http=8080"]);
    }

    #[test]
    fn what_is_no_number_and_no_address_is_refused_by_its_key() {
        for (key, value) in [("privnet.number", "many"), ("privnet.address", "here")] {
            let refused = Identity::of(&map(&[(key, value)]), &Container::default()).expect_err("refused");
            assert!(refused.contains(key) && refused.contains(value), "{refused}");
        }
    }

    #[test]
    fn any_name_of_dockers_is_a_label() {
        for (name, label) in [
            ("eager_fermi", "eager-fermi"),
            ("Shop.API", "shop-api"),
            ("7days", "c-7days"),
            ("ap-1", "c-ap-1"),
            ("a_", "a"),
            ("__x", "x"),
            ("", "c"),
        ] {
            assert_eq!(label_of(name), label, "{name:?}");
        }
        assert_eq!(label_of(&"a".repeat(100)).len(), MAX_LABEL);
    }
}
