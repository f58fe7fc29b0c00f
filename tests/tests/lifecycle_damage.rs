//! Random damage to the files of a state directory and to the records in the store: the agent starts, names what was damaged,
//! and ends nothing that runs.
//!
//! ```text
//!  h1: agent, web-1, db-1, db-2, db-3 ── underlay ── h2: etcd   a stream of datagrams from web-1 to db-1, throughout
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use privnet_tests::lab::probe::{Server, Stream};
use privnet_tests::lab::{Etcd, Host, Joined, Lab, Options, figure, say, wait_until};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

const SUBNET: &str = "10.92.0.0/24";
const PORT: u16 = 7000;
const PACE: Duration = Duration::from_millis(1);
/// How often each file and each record is damaged: each time from another seed.
const ROUNDS: u64 = 2;
/// What is not put back byte for byte, and what an agent refuses the store for.
const PASSING: [&str; 4] = ["presences/", "vteps/", "fences/", "fleet"];
/// A number that is damaged upwards a little cannot be told from a later one, nor a version from that of a newer build, nor
/// another membership in a row from one that was given the address.
const NUMBERS: [&str; 4] = [r#""version""#, r#""serial""#, r#""count""#, r#""member""#];

/// Half of it, something else, a number that is absurdly high, or it with some bits changed, and text all the same.
fn damaged(random: &mut StdRng, whole: &str) -> Vec<u8> {
    let mut bytes = whole.as_bytes().to_vec();
    match random.random_range(0..5) {
        0 => bytes.truncate(random.random_range(0..whole.len() - 2)),
        1 => bytes.iter_mut().for_each(|byte| *byte = random.random_range(b' '..b'~')),
        2 => bytes = whole.replace(r#""serial":"#, r#""serial":1099511627776"#).into_bytes(),
        _ => {}
    }
    let end_of = |name: &str| whole.find(name).map(|at| at..at + name.len() + 20);
    let numbers: Vec<_> = NUMBERS.iter().filter_map(|name| end_of(name)).collect();
    while bytes == whole.as_bytes() {
        let at = random.random_range(0..bytes.len());
        if !numbers.iter().any(|number| number.contains(&at)) {
            bytes[at] ^= 1 << random.random_range(0..7_u32);
        }
    }
    bytes
}

/// What a container's WireGuard is: another one after it was made anew.
fn device_of(host: &Host, member: &Joined) -> (Option<u64>, Option<i32>) {
    (member.app.ifindex("wg0"), host.wireguard_of(member).map(|process| process.pid))
}

fn file_of(directory: &Path, extension: &str, which: usize) -> PathBuf {
    let entries = fs::read_dir(directory).expect("the directory").map(|entry| entry.expect("an entry").path());
    let mut found: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|its| its == extension)).collect();
    found.sort();
    found.swap_remove(which)
}

#[test]
fn what_is_damaged_is_named_and_mended_and_ends_nothing() {
    let lab = Lab::new("what_is_damaged_is_named_and_mended_and_ends_nothing");
    let mut spaces = lab.underlay(2, 1500);
    let mut etcd = Etcd::new(spaces.pop().expect("two"), 2);
    etcd.start();
    let host = lab.host_in(spaces.remove(0), 1, &Options::ebpf().with_etcd(etcd.url()));
    let network = host.network("shop", SUBNET);
    let members = ["web-1", "db-1", "db-2", "db-3"].map(|name| lab.member(&host, &network, name));
    let [web, db, ..] = &members;
    let server = Server::echo(&db.app, PORT);
    wait_until("web reaches db", || web.pings(db.address()));
    let stream = Stream::start(&web.app, (db.address(), PORT), PACE);
    let settled = || {
        wait_until(format!("all are well: {:?}", host.status()), || {
            host.status().is_ok_and(|status| status.problems.is_empty() && status.members_ready == members.len())
        });
    };
    settled();
    let devices = members.each_ref().map(|member| device_of(&host, member));

    // Records, all at once, while the agent runs. It tells anew of its host: of that record the key is compared.
    let records = || -> BTreeMap<String, String> {
        let text = |key: &str, text| if key.starts_with("hosts/") { String::new() } else { text };
        etcd.records(&PASSING).into_iter().map(|(key, value)| (key.clone(), text(&key, value))).collect()
    };
    wait_until("each is ready in the store", || !records().values().any(|record| record.contains(r#""attaching""#)));
    let whole = records();
    let (mut count, mut longest) = (0, Duration::ZERO);
    for seed in 0..ROUNDS {
        let mut random = StdRng::seed_from_u64(seed);
        let now = etcd.records(&PASSING);
        let damage: BTreeMap<String, Vec<u8>> =
            now.iter().map(|(key, value)| (key.clone(), damaged(&mut random, value))).collect();
        count += damage.len();
        etcd.overwrite(&damage);
        let begun = Instant::now();
        wait_until(format!("the records of round {seed} are as they were"), || {
            etcd.records(&["hosts/"]) != now && records() == whole
        });
        longest = longest.max(begun.elapsed());
        stream.flows();
    }
    settled();
    figure(&format!("{count} records were damaged, and as they were within {} ms", longest.as_millis()));

    // Files, all at once but for one entry of the journal, which says whose the others are.
    let (state, mut count) = (host.paths().state.clone(), 0);
    let mut longest = Duration::ZERO;
    for seed in 0..ROUNDS {
        let mut random = StdRng::seed_from_u64(seed);
        host.kill();
        let said_before = fs::read_to_string(&host.paths().log).expect("the log").len();
        let journal = state.join("members");
        let of_journal = (0..members.len() - 1).map(|which| file_of(&journal, "json", which));
        let of_keys = [file_of(&journal, "key", members.len() - 1)];
        let others = ["snapshot", "machine", "instance", "fleet"].map(|name| state.join(name));
        for path in of_journal.chain(of_keys).chain(others) {
            let whole = fs::read_to_string(&path).expect("text");
            let mut bytes = damaged(&mut random, &whole);
            // What is one value has no checksum: another value is another one. An empty file is what a power cut leaves.
            if path.ends_with("instance") || bytes.is_empty() {
                bytes = whole.as_bytes()[..whole.len() / 3].to_vec();
            }
            say(&format!("round {seed}: {} is damaged", path.display()));
            fs::write(&path, bytes).expect("written");
            count += 1;
        }
        let begun = Instant::now();
        host.start();
        settled();
        longest = longest.max(begun.elapsed());
        stream.flows();
        let log = fs::read_to_string(&host.paths().log).expect("the log");
        let said = &log[said_before..];
        for name in ["snapshot", "machine", "instance", "fleet"] {
            let path = state.join(name).display().to_string();
            assert!(said.contains(&path) && state.join(name).with_extension("damaged").exists(), "{name}: {said}");
        }
        assert_eq!(said.matches(".json.corrupt now: it is made again").count(), members.len() - 1, "{said}");
        assert!(said.contains("the private key of "), "{said}");
        assert_eq!(records(), whole, "the store has what it had");
    }
    assert_eq!(members.each_ref().map(|member| device_of(&host, member)), devices, "no device was made anew");
    let (sent, lost) = stream.finish();
    figure(&format!(
        "{count} files were damaged; all were well {} ms after the start; {} of {sent} datagrams were lost",
        longest.as_millis(),
        lost.len()
    ));

    // The keys are those of before: a device that is made anew has them.
    for member in &members {
        if let Some(process) = host.wireguard_of(member) {
            privnet_tests::lab::process::kill(process.pid, rustix::process::Signal::KILL);
            wait_until("another process is there", || {
                host.wireguard_of(member).is_some_and(|now| now.pid != process.pid)
            });
        }
    }
    wait_until("web reaches all", || members[1..].iter().all(|member| web.pings(member.address())));
    settled();
    drop(server);
    lab.finish();
}
