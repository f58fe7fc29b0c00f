//! The table of what is answered how, flag by flag.

use super::*;

const SUFFIX: &str = "private-network.internal.";

/// A responder whose containers may not ask elsewhere, so that all of the table is its own.
fn lab_without_forwarding() -> Lab {
    let lab = Lab::start(3, "/nowhere");
    let mut catalogue = catalogue(3);
    for network in catalogue.values_mut() {
        network.head.options.forwarding = crate::names::Forwarding::Off;
    }
    lab.responder.engine().replace(Difference::between(&Catalogue::new(), &catalogue));
    lab
}

#[tokio::test]
async fn every_row_of_the_table_is_answered_as_it_says() {
    let lab = lab_without_forwarding();
    let (web, gone) = (format!("{APP}.{SHOP}.{SUFFIX}"), format!("x.{APP}.{SHOP}.{SUFFIX}"));
    let (one, service) = (format!("1.web.{web}"), format!("_http._tcp.{web}"));
    let (shop, bank, members) =
        (format!("{SHOP}.{SUFFIX}"), format!("{APP}.{BANK}.{SUFFIX}"), format!("_members.shop.{SUFFIX}"));
    let (short, short_gone, whole) = (format!("web.{APP}."), format!("nosuch.{APP}."), format!("1.web.{APP}.{SHOP}."));
    let table: [(&str, Rtype, Class, Option<u16>, &str); 33] = [
        (&web, Rtype::A, Class::IN, None, "NOERROR qr aa rd q1 a3 n0 +0"),
        (&web, Rtype::A, Class::IN, Some(4096), "NOERROR qr aa rd q1 a3 n0 +1 edns 1232"),
        (&web, Rtype::A, Class::IN, Some(0), "NOERROR qr aa rd q1 a3 n0 +1 edns 1232"),
        (&one, Rtype::A, Class::IN, None, "NOERROR qr aa rd q1 a1 n0 +0"),
        (&one, Rtype::AAAA, Class::IN, None, "NOERROR qr aa rd q1 a0 n1 +0"),
        (&one, Rtype::HTTPS, Class::IN, None, "NOERROR qr aa rd q1 a0 n1 +0"),
        (&one, Rtype::DS, Class::IN, None, "NOERROR qr aa rd q1 a0 n1 +0"),
        (&one, Rtype::ANY, Class::IN, None, "NOERROR qr aa rd q1 a1 n0 +0"),
        (&gone, Rtype::A, Class::IN, None, "NXDOMAIN qr aa rd q1 a0 n1 +0"),
        (&gone, Rtype::AAAA, Class::IN, Some(1232), "NXDOMAIN qr aa rd q1 a0 n1 +1 edns 1232"),
        (&bank, Rtype::A, Class::IN, None, "NXDOMAIN qr aa rd q1 a0 n1 +0"),
        (&shop, Rtype::A, Class::IN, None, "NOERROR qr aa rd q1 a0 n1 +0"),
        (&shop, Rtype::SOA, Class::IN, None, "NOERROR qr aa rd q1 a1 n0 +0"),
        (&shop, Rtype::NS, Class::IN, None, "NOERROR qr aa rd q1 a1 n0 +0"),
        (SUFFIX, Rtype::SOA, Class::IN, None, "NOERROR qr aa rd q1 a1 n0 +0"),
        (SUFFIX, Rtype::A, Class::IN, None, "NOERROR qr aa rd q1 a1 n0 +0"),
        (&service, Rtype::SRV, Class::IN, Some(1232), "NOERROR qr aa rd q1 a3 n0 +4 edns 1232"),
        (&members, Rtype::TXT, Class::IN, None, "NOERROR qr aa rd q1 a1 n0 +0"),
        ("2.0.240.10.in-addr.arpa.", Rtype::PTR, Class::IN, None, "NOERROR qr aa rd q1 a1 n0 +0"),
        ("9.0.240.10.in-addr.arpa.", Rtype::PTR, Class::IN, None, "NXDOMAIN qr aa rd q1 a0 n1 +0"),
        (&short, Rtype::A, Class::IN, None, "NOERROR qr aa rd q1 a3 n0 +0"),
        (&short, Rtype::AAAA, Class::IN, None, "NOERROR qr aa rd q1 a0 n1 +0"),
        (&short_gone, Rtype::A, Class::IN, None, "NXDOMAIN qr aa rd q1 a0 n1 +0"),
        (&short_gone, Rtype::AAAA, Class::IN, Some(1232), "NXDOMAIN qr aa rd q1 a0 n1 +1 edns 1232"),
        (&whole, Rtype::A, Class::IN, None, "NOERROR qr aa rd q1 a1 n0 +0"),
        ("example.org.", Rtype::A, Class::IN, None, "REFUSED qr rd q1 a0 n0 +0"),
        ("nosuch.shop.", Rtype::A, Class::IN, None, "REFUSED qr rd q1 a0 n0 +0"),
        ("shop.", Rtype::DS, Class::IN, None, "REFUSED qr rd q1 a0 n0 +0"),
        ("example.dev.", Rtype::A, Class::IN, None, "REFUSED qr rd q1 a0 n0 +0"),
        (&web, Rtype::A, Class::CH, None, "REFUSED qr rd q1 a0 n0 +0"),
        (&web, Rtype::A, Class::ANY, Some(1232), "REFUSED qr rd q1 a0 n0 +1 edns 1232"),
        (&shop, Rtype::AXFR, Class::IN, None, "REFUSED qr rd q1 a0 n0 +0"),
        (&web, Rtype::TKEY, Class::IN, None, "NOTIMP qr rd q1 a0 n0 +0"),
    ];
    for (name, kind, class, edns, expected) in table {
        let reply = lab.ask(&query_with(name, kind, class, edns)).await;
        assert_eq!(summary(&reply), expected, "{name} {class} {kind}");
        assert_eq!(reply[..2], [0x12, 0x67], "the id");
    }
}

#[tokio::test]
async fn the_letters_of_the_question_are_kept_in_the_reply() {
    let lab = lab_without_forwarding();
    let name = format!("1.WeB.{}.ShOp.pRiVaTe-NeTwOrK.iNtErNaL.", APP.to_uppercase());
    let asked = query(&name, Rtype::A);
    let reply = lab.ask(&asked).await;
    assert_eq!(summary(&reply), "NOERROR qr aa rd q1 a1 n0 +0");
    assert_eq!(reply[12..asked.len()], asked[12..], "the question, octet by octet");
    assert_eq!(reply[asked.len()..][..2], [0xc0, 12], "and its name is the answer's");
}

#[tokio::test]
async fn what_is_wrong_with_a_query_is_said_and_a_right_one_is_answered() {
    let lab = lab_without_forwarding();
    let good = query(&format!("{APP}.{SHOP}.{SUFFIX}"), Rtype::A);
    let with_edns = query_with(&format!("{APP}.{SHOP}.{SUFFIX}"), Rtype::A, Class::IN, Some(1232));
    let opt = with_edns.len() - 11;
    let change = |bytes: &[u8], changes: &[(usize, u8)]| {
        let mut bytes = bytes.to_vec();
        for (at, value) in changes {
            bytes[*at] = *value;
        }
        bytes
    };
    let append = |bytes: &[u8], more: &[u8]| [bytes, more].concat();
    for (what, bytes, expected) in [
        ("as it should be", good.clone(), "NOERROR qr aa rd q1 a3 n0 +0"),
        ("octets after the end", append(&good, b"more"), "NOERROR qr aa rd q1 a3 n0 +0"),
        ("no question", change(&good, &[(5, 0)]), "FORMERR qr rd q0 a0 n0 +0"),
        ("two questions", append(&change(&good, &[(5, 2)]), &good[12..]), "FORMERR qr rd q0 a0 n0 +0"),
        ("a question cut off", good[..20].to_vec(), "FORMERR qr rd q0 a0 n0 +0"),
        ("a header alone", good[..12].to_vec(), "FORMERR qr rd q0 a0 n0 +0"),
        ("a name that points to itself", change(&good, &[(12, 0xc0), (13, 12)]), "FORMERR qr rd q0 a0 n0 +0"),
        ("a label of 64", change(&good, &[(12, 64)]), "FORMERR qr rd q0 a0 n0 +0"),
        ("an answer in a query", change(&good, &[(7, 1)]), "FORMERR qr rd q0 a0 n0 +0"),
        ("a record that is not there", change(&good, &[(11, 1)]), "FORMERR qr rd q0 a0 n0 +0"),
        ("EDNS version 1", change(&with_edns, &[(opt + 6, 1)]), "BADVERS qr rd q1 a0 n0 +1 edns 1232"),
        ("two EDNS", append(&change(&with_edns, &[(11, 2)]), &with_edns[opt..]), "FORMERR qr rd q0 a0 n0 +0"),
        (
            "an EDNS option that nobody knows",
            append(&change(&with_edns, &[(opt + 10, 6)]), &[0xff, 0xf0, 0, 2, 1, 2]),
            "NOERROR qr aa rd q1 a3 n0 +1 edns 1232",
        ),
        (
            "an EDNS option that is cut off",
            append(&change(&with_edns, &[(opt + 10, 5)]), &[0xff, 0xf0, 0, 2, 1]),
            "FORMERR qr rd q0 a0 n0 +0",
        ),
        ("EDNS not at the root", change(&with_edns, &[(opt, 1)]), "FORMERR qr rd q0 a0 n0 +0"),
        ("STATUS", change(&good, &[(2, 0b0001_0001)]), "NOTIMP qr rd q0 a0 n0 +0"),
        ("UPDATE", change(&good, &[(2, 0b0010_1001)]), "NOTIMP qr rd q0 a0 n0 +0"),
    ] {
        assert_eq!(summary(&lab.ask(&bytes).await), expected, "{what}");
    }
    for (what, bytes) in
        [("a response", change(&good, &[(2, 0x81)])), ("eleven octets", good[..11].to_vec()), ("nothing", Vec::new())]
    {
        assert_eq!(lab.ask_for(&bytes, NOTHING).await, None, "{what}");
    }
}

#[tokio::test]
async fn a_snapshot_that_is_too_old_is_not_answered_from() {
    let config = ResponderConfig { threads: 1, max_age: Duration::ZERO, resolv_conf: PathBuf::from("/nowhere") };
    let mut responder = Responder::start(&config).expect("started");
    let (udp, tcp) = sockets();
    let (udp_address, tcp_address) = (udp.local_addr().expect("bound"), tcp.local_addr().expect("bound"));
    responder.serve(CONTAINER, client(&[SHOP]), (udp, tcp), Vec::new()).expect("served");
    let lab = Lab { responder, udp: v4(udp_address), tcp: v4(tcp_address) };
    let asked = query(&format!("{APP}.{SHOP}.{SUFFIX}"), Rtype::A);
    assert_eq!(summary(&lab.ask(&asked).await), "SERVFAIL qr rd ra q1 a0 n0 +0", "it knows no names yet");
    assert_eq!(lab.responder.engine().age(), None);
    lab.responder.engine().replace(Difference::between(&Catalogue::new(), &catalogue(3)));
    assert_eq!(summary(&lab.ask(&asked).await), "SERVFAIL qr rd ra q1 a0 n0 +0", "it knew them a moment ago");
    assert_eq!(lab.responder.engine().counters.read().stale, 2);
}
