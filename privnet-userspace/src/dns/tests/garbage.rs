//! Whatever arrives, the process lives, and says nothing that is not a reply.

use proptest::prelude::*;

use super::*;
use crate::dns::engine::{Desk, Engine, Step, Transport};
use crate::dns::wire::TCP_MOST_OCTETS;

const SUFFIX: &str = "private-network.internal.";

fn engine() -> Engine {
    let engine = Engine::new(Duration::from_secs(60));
    engine.replace(Difference::between(&Catalogue::new(), &catalogue(100)));
    engine
}

/// Queries near the right one: some octets changed, some cut off, some added.
fn some_query() -> impl Strategy<Value = Vec<u8>> {
    let names = prop::sample::select(vec![
        format!("{APP}.{SHOP}.{SUFFIX}"),
        format!("_http._tcp.{APP}.shop.{SUFFIX}"),
        format!("_members.shop.{SUFFIX}"),
        "2.0.240.10.in-addr.arpa.".to_owned(),
        "example.org.".to_owned(),
        SUFFIX.to_owned(),
    ]);
    let base = (names, any::<u16>(), prop::option::of(any::<u16>()))
        .prop_map(|(name, kind, edns)| query_with(&name, Rtype::from_int(kind % 260), Class::IN, edns));
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6);
    let tail = prop::collection::vec(any::<u8>(), 0..20);
    (base, changes, any::<prop::sample::Index>(), tail, any::<bool>()).prop_map(
        |(mut bytes, changes, cut, tail, cuts)| {
            for (at, value) in changes {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            if cuts {
                bytes.truncate(cut.index(bytes.len()));
            }
            bytes.extend(tail);
            bytes
        },
    )
}

/// Asserts what holds for any query.
fn check(engine: &Engine, bytes: &[u8], transport: Transport) -> Result<(), TestCaseError> {
    let mut reply = vec![7; 3];
    let step =
        engine.view().handle(&engine.counters, &mut Desk::default(), &asker(&[SHOP]), (bytes, transport), &mut reply);
    match step {
        Step::Silence => prop_assert!(bytes.len() < 12 || bytes[2] & 0x80 != 0),
        Step::Forward(_) => {
            let message = Message::from_slice(bytes).expect("a header");
            let name = message.sole_question().expect("a question").into_qname().to_string().to_lowercase();
            prop_assert!(!name.ends_with("private-network.internal"), "{} was given away", name);
        }
        Step::Reply => {
            let most = if transport == Transport::Udp { 1232 } else { TCP_MOST_OCTETS };
            prop_assert!(reply.len() <= most);
            let message = Message::from_slice(&reply).expect("a header");
            prop_assert!(message.header().qr() && message.header().id().to_be_bytes() == bytes[..2]);
            // Everything that the counts promise is there and well formed.
            let records = message.iter().collect::<Result<Vec<_>, _>>();
            prop_assert!(records.is_ok(), "{:?}", records.err());
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn nearly_right_queries_are_answered_well(bytes in some_query(), by_tcp in any::<bool>()) {
        check(&engine(), &bytes, if by_tcp { Transport::Tcp } else { Transport::Udp })?;
    }

    #[test]
    fn random_octets_are_answered_well(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        check(&engine(), &bytes, Transport::Udp)?;
    }
}

/// What was once thought of, or found.
#[test]
fn the_corpus_is_answered_well() {
    let engine = engine();
    let header = |questions: u8, additional: u8| vec![0x12, 0x67, 1, 0, 0, questions, 0, 0, 0, 0, 0, additional];
    let question = b"\x01a\x00\x00\x01\x00\x01";
    let corpus: Vec<Vec<u8>> = vec![
        vec![],
        vec![0; 12],
        vec![0xff; 512],
        // A pointer into the header, to itself, past the end, and a chain of them.
        [&header(1, 0)[..], b"\xc0\x00\x00\x01\x00\x01"].concat(),
        [&header(1, 0)[..], b"\xc0\x0c\x00\x01\x00\x01"].concat(),
        [&header(1, 0)[..], b"\xff\xff\x00\x01\x00\x01"].concat(),
        [&header(1, 0)[..], &b"\x01a\xc0\x0c".repeat(50)[..], b"\x00\x00\x01\x00\x01"].concat(),
        // The longest name, one longer, and the deepest.
        [
            &header(1, 0)[..],
            &[&[63][..], &[b'a'; 63]].concat().repeat(3)[..],
            &[61],
            &[b'a'; 61],
            b"\x00\x00\x01\x00\x01",
        ]
        .concat(),
        [&header(1, 0)[..], &[&[63][..], &[b'a'; 63]].concat().repeat(4)[..], b"\x00\x00\x01\x00\x01"].concat(),
        [&header(1, 0)[..], &b"\x01a".repeat(127)[..], b"\x00\x00\x01\x00\x01"].concat(),
        // EDNS: a record with a name that points into the question, with a length past the end, with no length.
        [&header(1, 1)[..], question, b"\xc0\x0c\x00\x29\x04\xd0\x00\x00\x00\x00\x00\x00"].concat(),
        [&header(1, 1)[..], question, b"\x00\x00\x29\x04\xd0\x00\x00\x00\x00\xff\xff"].concat(),
        [&header(1, 1)[..], question, b"\x00\x00\x29\x04\xd0\x00\x00\x00\x00"].concat(),
        // A signature that nobody checks.
        [&header(1, 1)[..], question, b"\x00\x00\xfa\x00\xff\x00\x00\x00\x00\x00\x00"].concat(),
        [&header(1, 255)[..], question].concat(),
        [&header(255, 0)[..], question].concat(),
    ];
    for bytes in corpus {
        for transport in [Transport::Udp, Transport::Tcp] {
            check(&engine, &bytes, transport).unwrap_or_else(|error| panic!("{bytes:02x?}: {error}"));
        }
    }
}
