//! A thousand damaged records: each is again what it was, and no membership ends.

use std::collections::BTreeSet;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::lab::{HOSTS, Lab};
use super::steps::Step;
use crate::model::MemberId;
use crate::store::{Key, Store as _, Transaction, Value};

const SEEDS: u64 = 1000;
/// A number that is damaged upwards a little cannot be told from a later one, nor a version from that of a newer build, nor
/// another membership in a row from one that was given the address.
const NUMBERS: [&str; 4] = [r#""version""#, r#""serial""#, r#""count""#, r#""member""#];

/// Half of it, something else, or it with some bits changed.
fn damaged(random: &mut StdRng, whole: &[u8]) -> Vec<u8> {
    let mut bytes = whole.to_vec();
    let text = String::from_utf8_lossy(whole);
    let numbers: Vec<_> =
        NUMBERS.iter().filter_map(|name| text.find(name).map(|at| at..at + name.len() + 20)).collect();
    match random.random_range(0..4) {
        0 => bytes.truncate(random.random_range(0..whole.len())),
        1 => random.fill(&mut bytes[..]),
        _ => {
            while bytes == whole {
                let at = random.random_range(0..bytes.len());
                if !numbers.iter().any(|number| number.contains(&at)) {
                    bytes[at] ^= 1 << random.random_range(0..8_u32);
                }
            }
        }
    }
    bytes
}

#[tokio::test]
async fn a_damaged_record_ends_nothing_and_is_put_back_as_it_was() {
    let mut lab = Lab::new().await;
    for step in [
        Step::Attach { host: 0 },
        Step::Attach { host: 1 },
        Step::Attach { host: 0 },
        Step::Ready { which: 0 },
        Step::Name { which: 0 },
        Step::Name { which: 2 },
    ] {
        lab.step(&step).await;
    }
    let living: BTreeSet<MemberId> = lab.living.iter().map(|member| member.id).collect();
    let keys: Vec<Key> = lab.truth.keys().cloned().collect();
    for seed in 0..SEEDS {
        // A task that never yields is told of nothing after a while.
        tokio::task::yield_now().await;
        let mut random = StdRng::seed_from_u64(seed);
        let key = keys[random.random_range(0..keys.len())].clone();
        let value: Value = damaged(&mut random, &lab.truth[&key]).into();
        let told = format!("{key} of seed {seed}: {}", String::from_utf8_lossy(&value));
        lab.store.commit(Transaction::new().put(key, value)).await.expect("damaged");
        lab.is_whole = false;
        lab.follow();
        for (world, host) in lab.worlds.iter().zip(HOSTS) {
            let ids: BTreeSet<MemberId> =
                world.read(|world| world.members(lab.network.id).map(|member| member.id).collect());
            assert_eq!(ids, living, "on {host}, with {told}");
        }
        lab.repair().await;
        lab.check_belief(&told);
        lab.check_store().await;
    }
}
