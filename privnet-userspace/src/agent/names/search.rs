//! The search list of a container: what its programs append to a short name. Pure.

use std::net::Ipv4Addr;

use crate::model::{NetworkId, NetworkName};
use crate::names::SUFFIX;

/// Names with fewer dots are looked for in the networks first: `_http._tcp.1.web.ap-<uuid>` has four, so that what is meant
/// within a network is not asked outside of it.
const NDOTS: usize = 5;
/// From how many networks on the list calls them by their names, which are shorter than their ids.
const MANY: usize = 3;
/// The longest line that musl reads, in octets, without its line feed: it ignores what does not fit into 256 octets with line
/// feed and final zero (`resolvconf.c`).
const LINE_OCTETS: usize = 254;

/// A container's search list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Search {
    /// The domains, in the order in which they are tried, without final dots.
    pub domains: Vec<String>,
    /// The networks, by name, whose domains no longer fit into a line that every libc reads.
    pub left_out: Vec<String>,
}

impl Search {
    /// The search list of a container that is in `networks`, in their order; one whose name is not known has its id alone.
    #[must_use]
    pub fn of(networks: &[(NetworkId, Option<NetworkName>)]) -> Self {
        let mut search = Self::default();
        let mut octets = "search".len();
        for (id, name) in networks {
            let label = label(networks, *id, name.as_ref());
            let domain = format!("{label}.{}", SUFFIX.trim_end_matches('.'));
            if octets + 1 + domain.len() > LINE_OCTETS {
                search.left_out.push(name.as_ref().map_or_else(|| id.to_string(), ToString::to_string));
            } else {
                octets += 1 + domain.len();
                search.domains.push(domain);
            }
        }
        search
    }

    /// What libc asks for when a program asks for `name`, in its order: with fewer dots than [`NDOTS`] the name as it is comes
    /// last, otherwise first; with a final dot it comes alone.
    #[must_use]
    pub fn tries(&self, name: &str) -> Vec<String> {
        let itself = format!("{}.", name.trim_end_matches('.'));
        if name.ends_with('.') {
            return vec![itself];
        }
        let searched = self.domains.iter().map(|domain| format!("{name}.{domain}."));
        if name.matches('.').count() < NDOTS {
            searched.chain([itself]).collect()
        } else {
            std::iter::once(itself.clone()).chain(searched).collect()
        }
    }

    /// The content of a `resolv.conf` with the server `address` alone: glibc asks servers in order, musl all at once, and
    /// neither by domain.
    #[must_use]
    pub fn resolv_conf(&self, address: Ipv4Addr) -> String {
        let search = self.domains.join(" ");
        let search = if search.is_empty() { search } else { format!("search {search}\n") };
        format!("{WRITTEN}\nnameserver {address}\n{search}options ndots:{NDOTS}\n")
    }
}

/// The first line of a `resolv.conf` of privnet's.
pub const WRITTEN: &str = "# Written by privnet.";

/// How the list calls a network: by its id; by its name where there are many and the name is shorter, and no other network's.
fn label(networks: &[(NetworkId, Option<NetworkName>)], id: NetworkId, name: Option<&NetworkName>) -> String {
    let id = id.to_string();
    let is_one = networks.iter().filter(|(_, other)| other.as_ref() == name).count() == 1;
    let short = name.filter(|name| networks.len() >= MANY && is_one && name.as_str().len() < id.len());
    short.map_or(id, ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(names: &[&str]) -> Vec<(NetworkId, Option<NetworkName>)> {
        let id = |number: usize| format!("pn-ad0fd6a1-d05e-40ea-bf63-{number:012}").parse().expect("an id");
        names.iter().enumerate().map(|(number, name)| (id(number), name.parse().ok())).collect()
    }

    fn labels(names: &[&str]) -> Vec<String> {
        let label = |domain: &String| domain.strip_suffix(".private-network.internal").expect("the suffix").to_owned();
        Search::of(&networks(names)).domains.iter().map(label).collect()
    }

    #[test]
    fn two_networks_are_listed_by_their_ids_and_three_by_their_names() {
        let ids = ["pn-ad0fd6a1-d05e-40ea-bf63-000000000000", "pn-ad0fd6a1-d05e-40ea-bf63-000000000001"];
        assert_eq!(labels(&["shop"]), ids[..1]);
        assert_eq!(labels(&["shop", "bank"]), ids);
        assert_eq!(labels(&["shop", "bank", "mail"]), ["shop", "bank", "mail"]);
        // A name that two of them bear says nothing.
        assert_eq!(labels(&["shop", "shop", "mail"]), [ids[0], ids[1], "mail"]);
        let long = "n".repeat(60);
        assert_eq!(labels(&[&long, "bank", "mail"]), [ids[0], "bank", "mail"], "the id is shorter");
        assert_eq!(labels(&["", "bank", "mail"]), [ids[0], "bank", "mail"], "its name is not known");
        assert_eq!(labels(&[]), [] as [&str; 0]);
    }

    #[test]
    fn no_line_is_longer_than_musl_reads_and_what_is_left_out_is_told() {
        for count in 0..=64 {
            let names: Vec<String> = (0..count).map(|number| format!("network-{number}")).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let search = Search::of(&networks(&names));
            assert_eq!(search.domains.len() + search.left_out.len(), count);
            let text = search.resolv_conf(Ipv4Addr::new(127, 0, 0, 82));
            // musl reads a line with its line feed into 255 octets and a zero.
            assert!(text.lines().all(|line| line.len() < 255), "{text}");
            assert_eq!(search.left_out.is_empty(), count <= 7, "{count}");
        }
        // One octet decides.
        let fits = |last: usize| {
            let names = ["a".repeat(38), "b".repeat(38), "c".repeat(38), "d".repeat(last)];
            Search::of(&networks(&names.each_ref().map(String::as_str))).left_out.is_empty()
        };
        // "search", three times a blank, 38 and the suffix, a blank, and the suffix once more: 224 octets.
        assert!(fits(30) && !fits(31));
    }

    #[test]
    fn libc_tries_a_short_name_in_the_networks_first_and_a_long_one_as_it_is() {
        let search = Search { domains: vec!["a.x".to_owned(), "b.x".to_owned()], left_out: Vec::new() };
        assert_eq!(search.tries("web.demo"), ["web.demo.a.x.", "web.demo.b.x.", "web.demo."]);
        assert_eq!(search.tries("1.2.3.4.5"), ["1.2.3.4.5.a.x.", "1.2.3.4.5.b.x.", "1.2.3.4.5."]);
        assert_eq!(search.tries("1.2.3.4.5.6"), ["1.2.3.4.5.6.", "1.2.3.4.5.6.a.x.", "1.2.3.4.5.6.b.x."]);
        assert_eq!(search.tries("web.demo."), ["web.demo."], "a final dot says that it is whole");
    }

    #[test]
    fn our_server_stands_alone_with_the_search_list() {
        let text = Search::of(&networks(&["shop", "bank", "mail"])).resolv_conf(Ipv4Addr::new(127, 0, 0, 82));
        let suffix = "private-network.internal";
        let search = format!("search shop.{suffix} bank.{suffix} mail.{suffix}");
        assert_eq!(text, format!("# Written by privnet.\nnameserver 127.0.0.82\n{search}\noptions ndots:5\n"));
    }
}
