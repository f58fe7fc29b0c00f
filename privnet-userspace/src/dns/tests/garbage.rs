//! Whatever arrives, the process lives, and says nothing that is not a reply.

use std::collections::BTreeSet;

use domain::base::name::ToLabelIter as _;
use proptest::prelude::*;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use super::*;
use crate::dns::engine::{Engine, Scratch, Step, Transport};
use crate::dns::wire::TCP_MOST_OCTETS;
use crate::soak::Soak;

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

/// In which way a query was answered: the step, the flags and the code, how many records in each section.
type Outcome = (u8, [u8; 10]);

/// Asserts what holds for any query.
fn check(engine: &Engine, bytes: &[u8], transport: Transport) -> Result<Outcome, TestCaseError> {
    let mut reply = vec![7; 3];
    let step = engine.view().handle(
        &engine.counters,
        &mut Scratch::default(),
        &client(&[SHOP]),
        (bytes, transport),
        &mut reply,
    );
    let mut outcome = (0, [0; 10]);
    match step {
        Step::Silence => prop_assert!(bytes.len() < 12 || bytes[2] & 0x80 != 0),
        Step::Forward(_) => {
            let message = Message::from_slice(bytes).expect("a header");
            let question = message.sole_question().expect("a question");
            let labels = question.qname().iter_labels().map(|label| label.as_slice().to_ascii_lowercase());
            // By labels: `shop\015private-network` is one of somebody else's.
            let labels: Vec<Vec<u8>> = labels.filter(|label| !label.is_empty()).collect();
            let is_ours = labels.ends_with(&[b"private-network".to_vec(), b"internal".to_vec()]);
            prop_assert!(!is_ours, "{} was given away", question.qname());
            outcome.0 = 1;
        }
        Step::Reply => {
            let most = if transport == Transport::Udp { 1232 } else { TCP_MOST_OCTETS };
            prop_assert!(reply.len() <= most);
            let message = Message::from_slice(&reply).expect("a header");
            prop_assert!(message.header().qr() && message.header().id().to_be_bytes() == bytes[..2]);
            // Everything that the counts promise is there and well formed.
            let records = message.iter().collect::<Result<Vec<_>, _>>();
            prop_assert!(records.is_ok(), "{:?}", records.err());
            outcome = (2, reply[2..12].try_into().expect("ten octets"));
        }
    }
    Ok(outcome)
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

#[test]
fn the_corpus_is_answered_well() {
    let engine = engine();
    for bytes in corpus() {
        for transport in [Transport::Udp, Transport::Tcp] {
            check(&engine, &bytes, transport).unwrap_or_else(|error| panic!("{bytes:02x?}: {error}"));
        }
    }
}

/// Changes what is in the pool, and puts into the pool whatever is answered in a way that nothing was before.
#[test]
fn a_bounded_time_of_fuzzing_finds_nothing() {
    let soak = Soak::of_time(Duration::from_secs(2));
    let seed = soak.seed();
    let mut random = SmallRng::seed_from_u64(seed);
    let engine = engine();
    let mut pool = corpus();
    for (name, kind) in [(format!("{APP}.{SHOP}.{SUFFIX}"), 1), (format!("_http._tcp.{APP}.shop.{SUFFIX}"), 33)] {
        pool.extend([None, Some(1232)].map(|edns| query_with(&name, Rtype::from_int(kind), Class::IN, edns)));
    }
    let (mut seen, mut tried) = (BTreeSet::new(), 0_u64);
    while soak.goes_on(tried) {
        for _ in 0..256 {
            let bytes = changed(&pool, &mut random);
            let transport = if random.random() { Transport::Udp } else { Transport::Tcp };
            let outcome = check(&engine, &bytes, transport);
            let outcome = outcome.unwrap_or_else(|error| panic!("seed {seed}, {bytes:02x?}: {error}"));
            if seen.insert(outcome) {
                pool.push(bytes);
            }
            tried += 1;
        }
    }
    soak.tell(tried, "queries");
    assert!(tried > 0 && seen.len() > 10, "seed {seed}: {tried} queries, {} ways to be answered", seen.len());
}

/// One of the pool, with a few changes.
fn changed(pool: &[Vec<u8>], random: &mut SmallRng) -> Vec<u8> {
    let mut bytes = pool[random.random_range(0..pool.len())].clone();
    for _ in 0..random.random_range(1..6) {
        let at = random.random_range(0..=bytes.len());
        match random.random_range(0..6) {
            0 | 1 if at < bytes.len() => bytes[at] ^= 1 << random.random_range(0..8),
            2 if at < bytes.len() => bytes[at] = [0, 1, 12, 41, 63, 64, 0xc0, 0xff][random.random_range(0..8)],
            3 => bytes.truncate(at),
            4 => {
                let other = &pool[random.random_range(0..pool.len())];
                let from = random.random_range(0..=other.len());
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            _ => bytes.insert(at, random.random()),
        }
    }
    bytes.truncate(4096);
    bytes
}

/// What was once thought of, or found.
fn corpus() -> Vec<Vec<u8>> {
    let header = |questions: u8, additional: u8| vec![0x12, 0x67, 1, 0, 0, questions, 0, 0, 0, 0, 0, additional];
    let question = b"\x01a\x00\x00\x01\x00\x01";
    vec![
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
    ]
}
