//! For any snapshot and any question: the answer is the model's, and the index follows every change.

use proptest::prelude::*;

use super::model::{Model, write_out};
use super::*;
use crate::model::{ContainerRef, Port};
use crate::names::{Rcode, Soa};

const NETWORKS: [(&str, &str, &str); 3] = [
    (SHOP, "shop", "10.240.0.0/22"),
    (BANK, "bank", "10.240.4.0/23"),
    ("pn-cd0fd6a1-d05e-40ea-bf63-c4f8a75a9d8c", "shop", "10.240.6.0/24"),
];
const KINDS: [&str; 3] = ["web", "worker", "db"];
const PORTS: [&str; 4] = ["http=80", "http=81", "dns=53/udp", "dns=53"];

fn some_member(network: usize) -> impl Strategy<Value = MemberNames> {
    (0..2_usize, 0..3_usize, 1..4_u32, 2..30_u8, prop::collection::btree_set(0..PORTS.len(), 0..3)).prop_map(
        move |(app, kind, number, last, ports)| {
            let container: ContainerRef =
                format!("{number}.{}.{}", KINDS[kind], [APP, OTHER_APP][app]).parse().expect("a container");
            let third = [0, 4, 6][network];
            let ports = ports.into_iter().map(|index| PORTS[index].parse::<Port>().expect("a port")).collect();
            MemberNames { container, address: Ipv4Addr::new(10, 240, third, last), ports, further: false }
        },
    )
}

/// Names of members of one network. Some are further names of the member before; else no address is there twice.
fn some_members(network: usize) -> impl Strategy<Value = Vec<MemberNames>> {
    prop::collection::vec((some_member(network), any::<bool>()), 0..8).prop_map(|members| {
        let mut seen = BTreeSet::new();
        let mut containers = BTreeSet::new();
        let mut names: Vec<MemberNames> = Vec::new();
        for (name, is_further) in members {
            let name = match names.last() {
                Some(before) if is_further => MemberNames { address: before.address, further: true, ..name },
                Some(_) | None => name,
            };
            if (name.further || seen.insert(name.address)) && containers.insert(name.container.clone()) {
                names.push(name);
            }
        }
        names
    })
}

fn some_catalogue() -> impl Strategy<Value = Catalogue> {
    let present = prop::collection::vec(any::<bool>(), 3);
    (some_members(0), some_members(1), some_members(2), present).prop_map(|(a, b, c, present)| {
        let all = NETWORKS.iter().zip([a, b, c]).zip(present).filter(|(_, present)| *present);
        all.map(|(((id, name, subnet), members), _)| (network(id), names(name, subnet, members))).collect()
    })
}

fn some_asker() -> impl Strategy<Value = DnsClient> {
    prop::sample::subsequence(NETWORKS.map(|(id, ..)| id).to_vec(), 0..=3).prop_map(|networks| client(&networks))
}

/// A name near one that may exist.
fn some_name() -> impl Strategy<Value = String> {
    let label = prop::sample::select(vec![
        "1", "2", "3", "4", "01", "web", "worker", "db", "x", "_tcp", "_udp", "_http", "_dns", "_members", APP,
        OTHER_APP,
    ]);
    let network = prop::sample::select(vec!["shop", "bank", SHOP, BANK, "pn-x", "x"]);
    let below =
        (prop::collection::vec(label, 0..5), prop::option::weighted(0.95, network)).prop_map(|(labels, network)| {
            let labels: Vec<&str> = labels.into_iter().chain(network).chain(["private-network.internal."]).collect();
            labels.join(".")
        });
    let address = (0..32_u8, 0..8_u8).prop_map(|(d, c)| format!("{d}.{c}.240.10.in-addr.arpa."));
    prop_oneof![8 => below, 1 => address]
}

/// A name without the suffix, of labels that may exist.
fn some_short_name() -> impl Strategy<Value = String> {
    let label = prop::sample::select(vec!["1", "2", "web", "worker", "x", "_tcp", "_http", "_members", APP, OTHER_APP]);
    let stranger = "ap-f71da13f-7c70-4c00-a644-eee8558d8053";
    let last = prop::sample::select(vec![APP, OTHER_APP, stranger, SHOP, BANK, "shop", "bank", "example"]);
    (prop::collection::vec(label, 0..4), last)
        .prop_map(|(labels, last)| labels.into_iter().chain([last]).map(|label| format!("{label}.")).collect())
}

/// What libc would find for a short name with the search list of all of the client's networks; where it finds nothing, whether
/// that is ours to say.
fn expected_short(model: &Model, client: &DnsClient, name: &str, kind: &str) -> Option<Option<BTreeSet<String>>> {
    let labels: Vec<&str> = name.trim_end_matches('.').split('.').collect();
    let last = labels[labels.len() - 1];
    let suffix = "private-network.internal.";
    let below_network = format!("{name}{suffix}");
    let tried: Vec<String> = match last {
        last if last.starts_with("ap-") => client.networks.iter().map(|id| format!("{name}{id}.{suffix}")).collect(),
        last if last.starts_with("pn-") || labels.len() > 1 => vec![below_network],
        _ => Vec::new(),
    };
    let found: Vec<BTreeSet<String>> = tried.iter().filter_map(|name| expected(model, name, kind)).collect();
    let is_network = model.contains_key(&format!("{last}.{suffix}"));
    let is_ours = last.len() == 39 || (is_network && labels.len() > 1 && labels[labels.len() - 2].starts_with("ap-"));
    match found.iter().find(|records| !records.is_empty()).or(found.first()) {
        Some(records) => Some(Some(records.clone())),
        None => is_ours.then_some(None),
    }
}

/// The records of an answer in the model's text, without the inventories and the apexes' own.
fn text(answer: &Answer) -> BTreeSet<String> {
    let lines = answer.answers.iter().filter_map(|record| match &record.data {
        Data::A(address) => Some(format!("A {address}")),
        Data::Ptr(name) => Some(format!("PTR {name}")),
        Data::Srv { port, target } => Some(format!("SRV {port} {target}")),
        Data::Ns(_) | Data::Soa(Soa { .. }) | Data::Txt(_) => None,
    });
    lines.collect()
}

/// What the model has of `kind`; nothing when the name does not exist.
fn expected(model: &Model, name: &str, kind: &str) -> Option<BTreeSet<String>> {
    let records = model.get(name)?;
    Some(records.iter().filter(|record| record.starts_with(&format!("{kind} "))).cloned().collect())
}

fn check(zones: &Zones, model: &Model, client: &DnsClient, name: &str) -> Result<(), TestCaseError> {
    for (kind, query) in
        [("A", QueryType::A), ("PTR", QueryType::Ptr), ("SRV", QueryType::Srv), ("?", QueryType::Other(28))]
    {
        let resolution = ask(zones, client, name, query);
        let expected = expected(model, name, kind);
        match resolution {
            Resolution::Elsewhere => {
                prop_assert!(name.ends_with("in-addr.arpa.") && expected.is_none(), "{} was given away", name);
            }
            Resolution::Answered(answer) => {
                let exists = answer.rcode == Rcode::NoError;
                prop_assert_eq!(exists.then(|| text(&answer)), expected, "{} {}", name, kind);
                prop_assert_eq!(answer.answers.is_empty(), !answer.authority.is_empty(), "{} {}", name, kind);
            }
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn the_answer_is_the_models(
        catalogue in some_catalogue(),
        client in some_asker(),
        guesses in prop::collection::vec(some_name(), 1..40),
    ) {
        let (zones, model) = (zones(&catalogue), write_out(&catalogue, &client));
        for name in guesses.iter().chain(model.keys()) {
            check(&zones, &model, &client, name)?;
        }
    }

    #[test]
    fn an_index_that_followed_the_changes_answers_like_one_made_anew(
        history in prop::collection::vec(some_catalogue(), 1..5),
        client in some_asker(),
    ) {
        let mut followed = Zones::new();
        let mut before = Catalogue::new();
        for catalogue in history {
            let difference = Difference::between(&before, &catalogue);
            prop_assert_eq!(difference.is_empty(), before == catalogue);
            let line = serde_json::to_string(&difference).expect("JSON");
            followed.apply(serde_json::from_str(&line).expect("reads back"));
            let model = write_out(&catalogue, &client);
            for name in model.keys() {
                check(&followed, &model, &client, name)?;
            }
            let names = catalogue.values().flat_map(|network| network.members.values());
            let members = names.filter(|name| !name.further).count();
            prop_assert_eq!((followed.networks(), followed.members()), (catalogue.len(), members));
            before = catalogue;
        }
    }

    #[test]
    fn a_short_name_is_what_the_search_list_finds_and_an_id_is_never_given_away(
        catalogue in some_catalogue(),
        client in some_asker(),
        names in prop::collection::vec(some_short_name(), 1..40),
    ) {
        let (zones, model) = (zones(&catalogue), write_out(&catalogue, &client));
        for name in &names {
            for (kind, query) in [("A", QueryType::A), ("SRV", QueryType::Srv), ("?", QueryType::Other(28))] {
                let found = match ask(&zones, &client, name, query) {
                    Resolution::Elsewhere => None,
                    Resolution::Answered(answer) => Some((answer.rcode == Rcode::NoError).then(|| text(&answer))),
                };
                prop_assert_eq!(found, expected_short(&model, &client, name, kind), "{} {}", name, kind);
            }
        }
    }

    #[test]
    fn any_name_at_all_has_an_answer(labels in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..10), 0..20)) {
        let name = Name::from_labels(labels.iter().map(Vec::as_slice)).expect("short labels");
        let (zones, client) = (zones(&Catalogue::new()), client(&[SHOP]));
        let _ = zones.resolve(&client, Question { name: &name, kind: QueryType::Any, most: 3 }, &mut random());
    }
}
