//! Question by question: what the product's names mean.

use super::*;
use crate::names::Rcode;

/// Two networks: `shop` with three web containers, a worker and another app's backend; `bank` with one web container.
pub fn catalogue() -> Catalogue {
    let shop = vec![
        member(&format!("1.web.{APP}"), "10.240.0.2", &["http=8080", "admin=9000"]),
        member(&format!("2.web.{APP}"), "10.240.0.3", &["http=8081"]),
        member(&format!("10.web.{APP}"), "10.240.1.4", &[]),
        member(&format!("1.worker.{APP}"), "10.240.0.5", &["gossip=7946/udp"]),
        member(&format!("3.backend.{OTHER_APP}"), "10.240.0.6", &[]),
    ];
    let bank = vec![member(&format!("1.web.{APP}"), "10.240.4.2", &[])];
    Catalogue::from([
        (network(SHOP), names("shop", "10.240.0.0/22", shop)),
        (network(BANK), names("bank", "10.240.4.0/22", bank)),
    ])
}

/// What `client` gets for a name below the suffix: the addresses, or why there are none.
fn look(client: &DnsClient, name: &str) -> Result<Vec<String>, &'static str> {
    let asked = format!("{name}.private-network.internal.");
    match ask(&zones(&catalogue()), client, &asked, QueryType::A) {
        Resolution::Elsewhere => Err("elsewhere"),
        Resolution::Answered(answer) if answer.rcode == Rcode::NameError => Err("no such name"),
        Resolution::Answered(answer) if answer.answers.is_empty() => Err("no address"),
        Resolution::Answered(answer) => Ok(addresses(&answer).iter().map(ToString::to_string).collect()),
    }
}

#[test]
fn a_name_means_what_the_product_says() {
    let shop = client(&[SHOP]);
    let webs = || Ok(vec!["10.240.0.2".to_owned(), "10.240.0.3".to_owned(), "10.240.1.4".to_owned()]);
    let one = |address: &str| Ok(vec![address.to_owned()]);
    for network in [SHOP, "shop"] {
        assert_eq!(look(&shop, &format!("{APP}.{network}")), webs());
        assert_eq!(look(&shop, &format!("web.{APP}.{network}")), webs());
        assert_eq!(look(&shop, &format!("1.web.{APP}.{network}")), one("10.240.0.2"));
        assert_eq!(look(&shop, &format!("10.web.{APP}.{network}")), one("10.240.1.4"));
        assert_eq!(look(&shop, &format!("2.{APP}.{network}")), one("10.240.0.3"), "no type means web");
        assert_eq!(look(&shop, &format!("worker.{APP}.{network}")), one("10.240.0.5"));
        assert_eq!(look(&shop, &format!("1.worker.{APP}.{network}")), one("10.240.0.5"));
        assert_eq!(look(&shop, &format!("3.backend.{OTHER_APP}.{network}")), one("10.240.0.6"));
        assert_eq!(look(&shop, &format!("{OTHER_APP}.{network}")), Err("no address"), "it exists and has no web");
        assert_eq!(look(&shop, network), Err("no address"));
    }
    assert_eq!(look(&shop, &format!("WEB.{}.Shop", APP.to_uppercase())), webs());
}

#[test]
fn an_app_has_its_name_where_it_has_its_id_and_nowhere_else() {
    let app = "shop-api".parse::<crate::model::AppName>().expect("a name").id();
    let of = |number: u8| member(&format!("{number}.backend.{app}"), &format!("10.240.0.{}", number + 1), &["http=80"]);
    let catalogue = Catalogue::from([
        (network(SHOP), names("shop", "10.240.0.0/22", vec![of(1), of(2)])),
        (network(BANK), names("bank", "10.240.4.0/22", vec![])),
    ]);
    let zones = zones(&catalogue);
    let look = |networks: &[&str], name: &str| -> Vec<String> {
        let name = format!("{name}.private-network.internal.");
        match ask(&zones, &client(networks), &name, QueryType::A) {
            Resolution::Answered(answer) => {
                let mut found = addresses(&answer);
                found.sort_unstable();
                found.into_iter().map(|address| address.to_string()).collect()
            }
            Resolution::Elsewhere => Vec::new(),
        }
    };
    let both = ["10.240.0.2", "10.240.0.3"].map(str::to_owned).to_vec();
    for name in ["backend.shop-api.shop".to_owned(), format!("backend.{app}.shop"), "backend.SHOP-API.shop".to_owned()]
    {
        assert_eq!(look(&[SHOP], &name), both, "{name}");
    }
    assert_eq!(look(&[SHOP], &format!("2.backend.shop-api.{SHOP}")), ["10.240.0.3"]);
    for (networks, name) in [
        (&[SHOP][..], "backend.shop-apis.shop"),
        (&[SHOP], "web.shop-api.shop"),
        (&[SHOP], "backend.ap-shop-api.shop"),
        (&[BANK], "backend.shop-api.bank"),
        (&[BANK], "backend.shop-api.shop"),
    ] {
        assert_eq!(look(networks, name), Vec::<String>::new(), "{name}");
    }
}

#[test]
fn what_does_not_exist_does_not_exist_in_any_spelling() {
    let shop = client(&[SHOP]);
    for name in [
        format!("4.web.{APP}.{SHOP}"),
        format!("01.web.{APP}.{SHOP}"),
        format!("+1.web.{APP}.{SHOP}"),
        format!("0.web.{APP}.{SHOP}"),
        format!("99999999999.web.{APP}.{SHOP}"),
        format!("web.1.{APP}.{SHOP}"),
        format!("x.1.web.{APP}.{SHOP}"),
        format!("db.{APP}.{SHOP}"),
        format!("web.web.{APP}.{SHOP}"),
        format!("web.{}.{SHOP}", APP.replace("ap-a7", "ap-c7")),
        format!("web.{}.{SHOP}", APP.replace('-', "")),
        format!("web.{}.{SHOP}", &APP[3..]),
        format!("web.{APP}"),
        format!("{APP}.shop.shop"),
        format!("_http.{APP}.{SHOP}"),
        format!("_tcp.worker.{APP}.{SHOP}"),
        format!("_members._members.{SHOP}"),
        "nowhere".to_owned(),
        "_members".to_owned(),
        r"\000".to_owned(),
        r"sh\.op".to_owned(),
    ] {
        assert_eq!(look(&shop, &name), Err("no such name"), "{name}");
    }
    // The suffix counts by labels, not by letters.
    let zones = zones(&catalogue());
    for stranger in [r"x\.private-network.internal.", "myprivate-network.internal.", "internal.", "example.org.", "."] {
        assert_eq!(ask(&zones, &shop, stranger, QueryType::A), Resolution::Elsewhere, "{stranger}");
    }
}

#[test]
fn another_networks_names_do_not_exist_and_ones_own_do() {
    let (shop, bank, both, none) = (client(&[SHOP]), client(&[BANK]), client(&[SHOP, BANK]), client(&[]));
    for name in [format!("{APP}.{BANK}"), format!("1.web.{APP}.bank"), BANK.to_owned(), "bank".to_owned()] {
        assert_eq!(look(&shop, &name), Err("no such name"), "{name}");
        assert_eq!(look(&none, &name), Err("no such name"), "{name}");
        for insider in [&bank, &both] {
            assert_ne!(look(insider, &name), Err("no such name"), "{name}");
        }
    }
    assert_eq!(look(&bank, &format!("{APP}.bank")), Ok(vec!["10.240.4.2".to_owned()]));
    assert_eq!(look(&shop, &format!("{APP}.{SHOP}")).map(|found| found.len()), Ok(3), "the same app elsewhere");
    // Nor does the address: a question for it is a question like any other.
    let zones = zones(&catalogue());
    let pointer = "2.4.240.10.in-addr.arpa.";
    assert_eq!(ask(&zones, &shop, pointer, QueryType::Ptr), Resolution::Elsewhere);
    assert!(matches!(ask(&zones, &bank, pointer, QueryType::Ptr), Resolution::Answered(_)));
}

#[test]
fn a_networks_name_that_two_of_ones_networks_bear_is_nobodys() {
    let mut catalogue = catalogue();
    catalogue.get_mut(&network(BANK)).expect("there").head.name = "shop".parse().expect("a name");
    let zones = zones(&catalogue);
    let name = format!("{APP}.shop.private-network.internal.");
    let exists = |client: &DnsClient| match ask(&zones, client, &name, QueryType::A) {
        Resolution::Answered(answer) => answer.rcode == Rcode::NoError,
        Resolution::Elsewhere => panic!("forwarded"),
    };
    assert!(exists(&client(&[SHOP])) && exists(&client(&[BANK])));
    assert!(!exists(&client(&[SHOP, BANK])));
}

#[test]
fn nothing_of_a_type_and_nothing_at_all_carry_the_soa_of_their_zone() {
    let (zones, shop) = (zones(&catalogue()), client(&[SHOP]));
    let suffix = "private-network.internal.";
    for (name, kind, rcode, apex) in [
        (format!("1.web.{APP}.{SHOP}.{suffix}"), 28, Rcode::NoError, format!("{SHOP}.{suffix}")),
        (format!("1.web.{APP}.{SHOP}.{suffix}"), 65, Rcode::NoError, format!("{SHOP}.{suffix}")),
        (format!("1.web.{APP}.sHop.{suffix}"), 16, Rcode::NoError, format!("shop.{suffix}")),
        (format!("_tcp.web.{APP}.shop.{suffix}"), 33, Rcode::NoError, format!("shop.{suffix}")),
        (format!("4.web.{APP}.{SHOP}.{suffix}"), 1, Rcode::NameError, format!("{SHOP}.{suffix}")),
        (format!("x.{suffix}"), 1, Rcode::NameError, suffix.to_owned()),
        (suffix.to_owned(), 28, Rcode::NoError, suffix.to_owned()),
        ("9.0.240.10.in-addr.arpa.".to_owned(), 12, Rcode::NameError, "0.240.10.in-addr.arpa.".to_owned()),
        ("x.2.0.240.10.in-addr.arpa.".to_owned(), 12, Rcode::NameError, "0.240.10.in-addr.arpa.".to_owned()),
        ("02.0.240.10.in-addr.arpa.".to_owned(), 12, Rcode::NameError, "0.240.10.in-addr.arpa.".to_owned()),
        ("2.0.240.10.in-addr.arpa.".to_owned(), 1, Rcode::NoError, "0.240.10.in-addr.arpa.".to_owned()),
        ("3.240.10.in-addr.arpa.".to_owned(), 12, Rcode::NoError, "3.240.10.in-addr.arpa.".to_owned()),
    ] {
        let Resolution::Answered(answer) = ask(&zones, &shop, &name, QueryType::from(kind)) else { panic!("{name}") };
        assert_eq!((answer.rcode, answer.answers.len()), (rcode, 0), "{name} {kind}");
        let [soa] = &answer.authority[..] else { panic!("{name}: {answer:?}") };
        assert!(matches!(soa.data, Data::Soa(_)), "{name}");
        let asked: Name = name.parse().expect("a name");
        assert_eq!(owner(&asked, soa), apex.parse().expect("a name"), "{name}");
        assert_eq!(soa.ttl_seconds, 5);
    }
}

#[test]
fn the_apexes_have_their_records() {
    let (zones, shop) = (zones(&catalogue()), client(&[SHOP]));
    for apex in ["private-network.internal.", &format!("{SHOP}.private-network.internal."), "1.240.10.in-addr.arpa."] {
        for kind in [QueryType::Soa, QueryType::Ns] {
            let Resolution::Answered(answer) = ask(&zones, &shop, apex, kind) else { panic!("{apex}") };
            assert_eq!(answer.answers.len(), 1, "{apex} {kind:?}");
            assert_eq!(answer.answers[0].owner, Owner::Asked { skip: 0 });
        }
    }
    let Resolution::Answered(answer) = ask(&zones, &shop, "private-network.internal.", QueryType::A) else { panic!() };
    assert_eq!(addresses(&answer), [SERVER], "the name server has an address");
}

#[test]
fn an_address_has_the_name_of_its_holder() {
    let (zones, shop) = (zones(&catalogue()), client(&[SHOP]));
    let Resolution::Answered(answer) = ask(&zones, &shop, "4.1.240.10.in-addr.arpa.", QueryType::Ptr) else { panic!() };
    let expected: Name = format!("10.web.{APP}.{SHOP}.private-network.internal").parse().expect("a name");
    assert_eq!(answer.answers[0].data, Data::Ptr(expected));
    for stranger in ["4.1.241.10.in-addr.arpa.", "240.10.in-addr.arpa.", "x.240.10.in-addr.arpa.", "in-addr.arpa."] {
        assert_eq!(ask(&zones, &shop, stranger, QueryType::Ptr), Resolution::Elsewhere, "{stranger}");
    }
}

#[test]
fn a_declared_port_is_found_with_the_address_of_its_holder() {
    let (zones, shop) = (zones(&catalogue()), client(&[SHOP]));
    let offers = |name: &str| {
        let name = format!("{name}.{APP}.{SHOP}.private-network.internal.");
        let Resolution::Answered(answer) = ask(&zones, &shop, &name, QueryType::Srv) else { panic!("{name}") };
        assert_eq!(answer.answers.len(), answer.additional.len(), "{name}");
        let mut ports: Vec<u16> = answer
            .answers
            .iter()
            .map(|record| {
                let Data::Srv { port, target } = &record.data else { panic!("{record:?}") };
                assert!(answer.additional.iter().any(|more| more.owner == Owner::Name(target.clone())), "{name}");
                *port
            })
            .collect();
        ports.sort_unstable();
        ports
    };
    assert_eq!(offers("_http._tcp.web"), [8080, 8081]);
    assert_eq!(offers("_http._tcp"), [8080, 8081]);
    assert_eq!(offers("_http._tcp.2.web"), [8081]);
    assert_eq!(offers("_admin._tcp.web"), [9000]);
    assert_eq!(offers("_gossip._udp.worker"), [7946]);
    for nothing in ["_http._udp.web", "_http._tcp.worker", "_gossip._tcp.worker", "_admin._tcp.2.web"] {
        assert_eq!(offers(nothing), [] as [u16; 0], "{nothing}");
    }
}

#[test]
fn an_inventory_lists_a_networks_members_and_no_other() {
    let (zones, shop) = (zones(&catalogue()), client(&[SHOP]));
    let list = |name: &str| {
        let Resolution::Answered(answer) = ask(&zones, &shop, name, QueryType::Txt) else { panic!("{name}") };
        answer.answers.into_iter().map(|record| format!("{:?}", record.data)).collect::<Vec<_>>()
    };
    assert_eq!(
        list("_members.shop.private-network.internal."),
        [
            format!(
                r#"Txt(["web.{APP}", "1 10.240.0.2 admin=9000 http=8080", "2 10.240.0.3 http=8081", "10 10.240.1.4"])"#
            ),
            format!(r#"Txt(["worker.{APP}", "1 10.240.0.5 gossip=7946/udp"])"#),
            format!(r#"Txt(["backend.{OTHER_APP}", "3 10.240.0.6"])"#),
        ]
    );
    assert_eq!(list(&format!("_members.{OTHER_APP}.{SHOP}.private-network.internal.")).len(), 1);
    assert_eq!(list("_members.bank.private-network.internal."), [] as [String; 0]);
}

#[test]
fn anything_is_answered_with_one_record_set() {
    let (zones, shop) = (zones(&catalogue()), client(&[SHOP]));
    for (name, count) in
        [(format!("{APP}.{SHOP}.private-network.internal."), 3), (format!("{SHOP}.private-network.internal."), 1)]
    {
        let Resolution::Answered(answer) = ask(&zones, &shop, &name, QueryType::Any) else { panic!("{name}") };
        assert_eq!(answer.answers.len(), count, "{name}");
    }
}

#[test]
fn addresses_are_shuffled_and_a_large_set_is_drawn_from_fairly() {
    let members =
        (0..100).map(|n| member(&format!("{}.web.{APP}", n + 1), &format!("10.240.0.{}", n + 2), &[])).collect();
    let zones = zones(&Catalogue::from([(network(SHOP), names("shop", "10.240.0.0/22", members))]));
    let name: Name = format!("{APP}.{SHOP}.private-network.internal.").parse().expect("a name");
    let mut random = random();
    let mut firsts = std::collections::BTreeMap::<Ipv4Addr, u32>::new();
    for _ in 0..10_000 {
        let question = Question { name: &name, kind: QueryType::A, most: 10 };
        let Resolution::Answered(answer) = zones.resolve(&client(&[SHOP]), question, &mut random) else { panic!() };
        let Data::A(first) = answer.answers[0].data else { panic!() };
        assert_eq!(addresses(&answer).len(), 10);
        *firsts.entry(first).or_default() += 1;
    }
    assert_eq!(firsts.len(), 100);
    assert!(firsts.values().all(|count| (50..200).contains(count)), "{firsts:?}");
}

#[test]
fn what_one_network_says_about_forwarding_is_heeded_in_all_of_a_containers() {
    use crate::names::Forwarding;
    let mut catalogue = catalogue();
    let forwarding = |catalogue: &Catalogue| zones(catalogue).forwarding(&client(&[SHOP, BANK]));
    assert_eq!(forwarding(&catalogue), Forwarding::Host);
    let server = "192.0.2.1:53".parse().expect("an address");
    catalogue.get_mut(&network(BANK)).expect("there").head.options.forwarding = Forwarding::Servers(vec![server]);
    assert_eq!(forwarding(&catalogue), Forwarding::Servers(vec![server]));
    catalogue.get_mut(&network(SHOP)).expect("there").head.options.forwarding = Forwarding::Off;
    assert_eq!(forwarding(&catalogue), Forwarding::Off);
}
