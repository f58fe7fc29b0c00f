//! Names without the suffix: what is ours, yes or no, and what others are asked for.

use super::answers::catalogue;
use super::*;
use crate::names::Rcode;

/// What becomes of a name as it is asked: addresses, that there are none, that there is no such name, or that others are asked.
fn short(zones: &Zones, client: &DnsClient, name: &str, kind: u16) -> String {
    match ask(zones, client, name, QueryType::from(kind)) {
        Resolution::Elsewhere => "elsewhere".to_owned(),
        Resolution::Answered(answer) => {
            let soa = |record: &Record| matches!(record.data, Data::Soa(_));
            assert_eq!(
                answer.authority.iter().filter(|record| soa(record)).count(),
                usize::from(answer.answers.is_empty())
            );
            let found: Vec<String> = addresses(&answer).iter().map(ToString::to_string).collect();
            match (answer.rcode, answer.answers.is_empty()) {
                (Rcode::NameError, _) => "no such name".to_owned(),
                (Rcode::NoError, true) => "no record".to_owned(),
                (Rcode::NoError, false) => found.join(" "),
            }
        }
    }
}

#[test]
fn a_name_that_ends_with_an_id_is_answered_yes_or_no_and_never_asked_elsewhere() {
    let (zones, shop) = (zones(&catalogue()), client(&[SHOP]));
    let webs = "10.240.0.2 10.240.0.3 10.240.1.4";
    for (name, expected) in [
        (format!("3.backend.{OTHER_APP}"), "10.240.0.6"),
        (format!("backend.{OTHER_APP}"), "10.240.0.6"),
        (APP.to_owned(), webs),
        (format!("web.{APP}."), webs),
        (format!("WEB.{}", APP.to_uppercase()), webs),
        (format!("1.worker.{APP}.{SHOP}"), "10.240.0.5"),
        (format!("1.worker.{APP}.{}", SHOP.to_uppercase()), "10.240.0.5"),
        (format!("1.worker.{APP}.shop"), "10.240.0.5"),
        (OTHER_APP.to_owned(), "no record"),
        (SHOP.to_owned(), "no record"),
        (format!("nosuch.{APP}"), "no such name"),
        (format!("9.web.{APP}"), "no such name"),
        (format!("www.example.{APP}"), "no such name"),
        (APP.replace("ap-a7", "ap-c7"), "no such name"),
        (format!("nosuch.{APP}.{SHOP}"), "no such name"),
        (format!("nosuch.{APP}.shop"), "no such name"),
        (format!("web.{}.shop", APP.replace("ap-a7", "ap-c7")), "no such name"),
        (format!("example.{SHOP}"), "no such name"),
        (format!("web.{APP}.{BANK}"), "no such name"),
        (BANK.to_owned(), "no such name"),
        (SHOP.replace("pn-ad", "pn-cd"), "no such name"),
        // Ids in a spelling that names nothing are ids all the same.
        (format!("web.{}", APP.replacen("ap-", "", 1).replace('-', "").replacen("a71d", "ap-a71d", 1)), "no such name"),
        (format!("web.{APP}.pn-{}", SHOP[3..].replace('-', "")), "no such name"),
    ] {
        assert_eq!(short(&zones, &shop, &name, 1), expected, "{name}");
        let aaaa = if expected == "no such name" { expected } else { "no record" };
        assert_eq!(short(&zones, &shop, &name, 28), aaaa, "{name}");
    }
    // The twins: names that only look like these are others'.
    for name in [
        "example.com",
        "nosuch.shop",
        "com",
        "ap-x",
        "web.ap-web",
        "pn-shop",
        &format!("{APP}.example.com"),
        &format!("{SHOP}.example.com"),
        &format!("nosuch.{APP}.bank"),
        &format!("x{APP}"),
        &format!("{APP}x"),
        &APP[3..],
    ] {
        assert_eq!(short(&zones, &shop, name, 1), "elsewhere", "{name}");
    }
    // Without a network, or names, an id is an id.
    for name in [format!("web.{APP}"), SHOP.to_owned()] {
        assert_eq!(short(&zones, &client(&[]), &name, 1), "no such name");
        assert_eq!(short(&Zones::new(), &shop, &name, 1), "no such name");
    }
}

#[test]
fn a_readable_name_without_the_suffix_is_answered_where_it_exists_and_asked_elsewhere_where_it_does_not() {
    let id = |name: &str| name.parse::<crate::model::AppName>().expect("a name").id();
    let of = |app: &str, kind: &str, address: &str| member(&format!("1.{kind}.{}", id(app)), address, &[]);
    let shop =
        vec![of("dev", "web", "10.240.0.2"), of("dev", "backend", "10.240.0.3"), of("shop", "api", "10.240.0.4")];
    let zones = zones(&Catalogue::from([
        (network(SHOP), names("shop", "10.240.0.0/22", shop)),
        (network(BANK), names("bank", "10.240.4.0/22", vec![of("teller", "web", "10.240.4.2")])),
    ]));
    let (inside, outside) = (client(&[SHOP]), client(&[BANK]));
    for (name, expected) in [
        ("dev", "10.240.0.2"),
        ("web.dev", "10.240.0.2"),
        ("Backend.DEV", "10.240.0.3"),
        ("1.backend.dev.shop", "10.240.0.3"),
        // An app and a network of one name: both are found.
        ("api.shop", "10.240.0.4"),
        ("api.shop.shop", "10.240.0.4"),
        ("dev.shop", "10.240.0.2"),
    ] {
        assert_eq!(short(&zones, &inside, name, 1), expected, "{name}");
        // As for any name that exists: that it has no such record is ours to say.
        for kind in [28, 16, 65] {
            assert_eq!(short(&zones, &inside, name, kind), "no record", "{name} {kind}");
        }
        assert_eq!(short(&zones, &outside, name, 1), "elsewhere", "{name}");
    }
    for name in
        ["nosuch.dev", "2.web.dev", "www.example.dev", "nosuch.shop", "x.api.shop", "nosuch.dev.shop", "example.app"]
    {
        assert_eq!(short(&zones, &inside, name, 1), "elsewhere", "{name}");
    }
    // The top-level domains `shop` and `dev` are there as well, with what belongs to a zone: NS, SOA, DS, DNSKEY.
    for kind in [2, 6, 43, 48] {
        assert_eq!(short(&zones, &inside, "dev", kind), "elsewhere", "{kind}");
        assert_eq!(short(&zones, &inside, "web.dev", kind), "no record", "{kind}");
        assert_eq!(short(&zones, &inside, "shop", kind), "elsewhere", "{kind}");
    }
    assert_eq!(short(&zones, &inside, "shop", 1), "no record", "the app exists, and has no web");
    assert_eq!(short(&zones, &outside, "bank", 1), "elsewhere", "a network alone has no address");
    assert_eq!(short(&zones, &client(&[SHOP, BANK]), "teller", 1), "10.240.4.2");
}

#[test]
fn of_a_containers_networks_the_first_that_has_it_answers() {
    let shop = vec![
        member(&format!("1.web.{APP}"), "10.240.0.2", &[]),
        member(&format!("1.job.{OTHER_APP}"), "10.240.0.3", &[]),
    ];
    let bank = vec![
        member(&format!("1.web.{APP}"), "10.240.4.2", &[]),
        member(&format!("1.web.{OTHER_APP}"), "10.240.4.3", &[]),
    ];
    let zones = zones(&Catalogue::from([
        (network(SHOP), names("shop", "10.240.0.0/22", shop)),
        (network(BANK), names("bank", "10.240.4.0/22", bank)),
    ]));
    assert_eq!(short(&zones, &client(&[SHOP, BANK]), &format!("web.{APP}"), 1), "10.240.0.2");
    assert_eq!(short(&zones, &client(&[BANK, SHOP]), &format!("web.{APP}"), 1), "10.240.4.2");
    // In `shop` the app is there without a web container: libc goes on with the next domain of its list.
    assert_eq!(short(&zones, &client(&[SHOP, BANK]), OTHER_APP, 1), "10.240.4.3");
    assert_eq!(short(&zones, &client(&[SHOP]), OTHER_APP, 1), "no record");
}

#[test]
fn a_type_of_the_askers_own_app_is_a_name() {
    let id = |name: &str| name.parse::<crate::model::AppName>().expect("a name").id();
    let (own, other) = (id("stall"), id("demo"));
    let shop = vec![
        member(&format!("1.backend.{own}"), "10.240.0.2", &["http=80"]),
        member(&format!("2.backend.{own}"), "10.240.0.3", &[]),
        member(&format!("1.web.{own}"), "10.240.0.4", &[]),
        member(&format!("1.queue.{own}"), "10.240.0.5", &[]),
        member(&format!("1.mail.{other}"), "10.240.0.6", &[]),
        member(&format!("1.web.{}", id("queue")), "10.240.0.7", &[]),
    ];
    let bank = vec![member(&format!("1.vault.{own}"), "10.240.4.2", &[])];
    let zones = zones(&Catalogue::from([
        (network(SHOP), names("shop", "10.240.0.0/22", shop)),
        (network(BANK), names("bank", "10.240.4.0/22", bank)),
    ]));
    let of = |apps: &[crate::model::AppId], networks: &[&str]| DnsClient { apps: apps.to_vec(), ..client(networks) };
    let inside = of(&[own], &[SHOP]);
    for (name, expected) in [
        ("backend", "10.240.0.2 10.240.0.3"),
        ("BACKEND.", "10.240.0.2 10.240.0.3"),
        ("2.backend", "10.240.0.3"),
        ("web", "10.240.0.4"),
        // As before: the app of that name comes first, and its types are no names alone.
        ("queue", "10.240.0.7"),
        ("mail", "elsewhere"),
        ("mail.demo", "10.240.0.6"),
        // A number is no type, and what is no container of the type is the domain of others.
        ("1", "elsewhere"),
        ("3.backend", "elsewhere"),
        ("www.backend", "elsewhere"),
        ("vault", "elsewhere"),
    ] {
        assert_eq!(short(&zones, &inside, name, 1), expected, "{name}");
        let aaaa = if expected == "elsewhere" { expected } else { "no record" };
        assert_eq!(short(&zones, &inside, name, 28), aaaa, "{name}");
    }
    assert_eq!(short(&zones, &inside, "_http._tcp.backend", 33), "");
    assert_eq!(short(&zones, &inside, "_ftp._tcp.backend", 33), "elsewhere");
    for kind in [2, 6, 43, 48] {
        assert_eq!(short(&zones, &inside, "backend", kind), "elsewhere", "what belongs to a zone: {kind}");
    }
    // The twins: of another app, of no app, in another network; and of two apps the older name's comes first.
    assert_eq!(short(&zones, &of(&[other], &[SHOP]), "backend", 1), "elsewhere");
    assert_eq!(short(&zones, &client(&[SHOP]), "backend", 1), "elsewhere");
    assert_eq!(short(&zones, &of(&[own], &[BANK]), "backend", 1), "elsewhere");
    assert_eq!(short(&zones, &of(&[own], &[SHOP, BANK]), "vault", 1), "10.240.4.2");
    assert_eq!(short(&zones, &of(&[other, own], &[SHOP]), "mail", 1), "10.240.0.6");
    assert_eq!(short(&zones, &of(&[other, own], &[SHOP]), "web", 1), "10.240.0.4");
}
