//! The four hosts, what is done to them, and what must be true meanwhile and afterwards.

mod shown;
mod step;
mod talk;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use privnet::agent::ErrorCode;
use privnet::agent::views::{MemberView, NetworkView};
use privnet_tests::lab::{
    Container, Cut, Etcd, Host, Lab, Options, Space, say, underlay_address, wait_until, wait_within,
};

pub use self::step::Step;
use self::step::Way;
use self::talk::{Talk, Threads, look_of};

/// Addresses for thirteen members: each has another holder soon.
const SUBNET: &str = "10.92.0.0/28";
pub const HOSTS: usize = 4;
/// The containers that come and go, beside one on each host that stays.
pub const COMERS: usize = 6;
const ALL: usize = HOSTS + COMERS;
/// The number of the host that has etcd.
const ETCD: u8 = 5;
/// What the row of an address says that nothing holds.
const NO_HOLDER: &str = r#""holder":null"#;
/// For how long a name may be answered and its member not, between hosts that reach the store and each other.
const BOUND: Duration = Duration::from_secs(2);
/// What a busy machine adds to it.
const SLACK: Duration = Duration::from_secs(2);
const LATER: Duration = Duration::from_secs(90);
/// When WireGuard tries a handshake again that met a cut between two hosts (its REKEY_TIMEOUT).
const RETRY: Duration = Duration::from_secs(5);

/// Whether a container is a member, as its owner knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Membership {
    Member(Ipv4Addr),
    None,
    /// The store did not answer the last change.
    Unknown,
}

/// Four hosts, their containers, and what is wrong at present.
pub struct Fleet {
    talk: Talk,
    threads: Vec<Threads>,
    containers: Vec<Container>,
    memberships: Vec<Membership>,
    network: NetworkView,
    cuts: BTreeMap<(u8, u8), Cut>,
    /// When the cut between two hosts ended, by both in either order.
    rejoined: BTreeMap<[u8; 2], Instant>,
    changes: u64,
    holders: BTreeMap<Ipv4Addr, BTreeSet<usize>>,
    hosts: Vec<Host>,
    of_etcd: Space,
    etcd: Etcd,
    has_copy: bool,
    begun_unix_seconds: u64,
}

impl Fleet {
    pub fn start(lab: &Lab) -> Self {
        let begun_unix_seconds = shown::now_unix_seconds();
        let mut spaces = lab.underlay(ETCD, 1500);
        let of_etcd = spaces.pop().expect("five");
        let mut etcd = Etcd::new(of_etcd.clone(), ETCD);
        etcd.start();
        let options = Options::ebpf().with_etcd(etcd.url());
        let hosts: Vec<Host> = (1..).zip(spaces).map(|(number, space)| lab.host_in(space, number, &options)).collect();
        // Names that nobody keeps for long, so that an address rests for two seconds only.
        let network: NetworkView =
            hosts[0].cli().json(&["network", "create", "shop", "--subnet", SUBNET, "--ttl", "1"]).expect("the network");
        let name = |number: usize| match number.checked_sub(HOSTS) {
            None => format!("asker-{}", number + 1),
            Some(comer) => format!("web-{}", comer + 1),
        };
        let containers: Vec<Container> = (0..ALL).map(|number| lab.container(&name(number))).collect();
        let mut fleet = Self {
            talk: Talk::default(),
            threads: Vec::new(),
            memberships: vec![Membership::None; ALL],
            containers,
            network,
            cuts: BTreeMap::new(),
            rejoined: BTreeMap::new(),
            changes: 0,
            holders: BTreeMap::new(),
            hosts,
            of_etcd,
            etcd,
            has_copy: false,
            begun_unix_seconds,
        };
        for host in &fleet.hosts {
            wait_until("each host knows the network", || host.networks().is_ok_and(|networks| networks.len() == 1));
        }
        for number in 0..HOSTS {
            fleet.attach(number);
        }
        let suffix = fleet.hosts[0].members().expect("members")[0].member.hostname.clone();
        let (_, suffix) = suffix.split_once(".asker.").expect("a name");
        let names: Vec<String> = (fleet.containers.iter())
            .map(|container| format!("{}.{}.{suffix}", container.number, container.kind))
            .collect();
        for (number, container) in fleet.containers.iter().enumerate() {
            fleet.threads.push(fleet.talk.read(&container.space, &names[number]));
            if number < HOSTS {
                let others = names.iter().cloned().enumerate().filter(|(other, _)| *other != number).collect();
                let Membership::Member(own) = fleet.memberships[number] else { panic!("an asker is a member") };
                let look = look_of(&fleet.hosts[number], fleet.network.id, own);
                fleet.threads.push(fleet.talk.write(&container.space, number, others, look));
            }
        }
        fleet
    }

    pub fn take(&mut self, step: Step) {
        say(&format!("--- {step:?}"));
        match step {
            Step::Attach(comer) => self.attach(HOSTS + comer % COMERS),
            Step::Detach(comer) => self.detach(HOSTS + comer % COMERS),
            Step::CutFromStore(host, way) => self.cut(number_of(host), ETCD, way),
            Step::CutApart(host, other, way) => {
                if host % HOSTS != other % HOSTS {
                    self.cut(number_of(host), number_of(other), way);
                }
            }
            Step::Lose(prefixes) => {
                let there = self.etcd.records(&[]);
                let is_there = |prefix: &&&str| there.keys().any(|key| key.starts_with(**prefix));
                let prefixes: Vec<&str> = prefixes.iter().filter(is_there).copied().collect();
                if !prefixes.is_empty() {
                    self.etcd.delete(&prefixes);
                }
            }
            Step::LoseMember(host) => {
                let asker = format!("members/{}/{}.asker.", self.network.id, number_of(host));
                if self.etcd.records(&[]).keys().any(|key| key.starts_with(&asker)) {
                    self.etcd.delete(&[&asker]);
                }
            }
            Step::KillAgent(host) => {
                let host = host % HOSTS;
                if !self.hosts[host].has_ended() {
                    self.hosts[host].kill();
                }
                self.expect();
            }
            Step::RestartStore => self.restart(|_| {}),
            Step::CopyStore => {
                if !std::mem::replace(&mut self.has_copy, true) {
                    self.restart(Etcd::back_up_data);
                }
            }
            Step::PutCopyBack => {
                if std::mem::take(&mut self.has_copy) {
                    self.restart(Etcd::put_data_back);
                }
            }
            Step::Mend => self.mend(),
        }
    }

    /// Ends every fault, and says what must be true then. How many changes were made.
    pub fn finish(mut self) -> u64 {
        self.mend();
        wait_within("every datagram is answered", LATER, || self.talk.all_are_answered());
        let (read, misdirected, longest, of) = self.talk.close(std::mem::take(&mut self.threads));
        let reused = self.holders.values().filter(|holders| holders.len() > 1).count();
        say(&format!(
            "{read} datagrams came, {} to another member; the longest time without an answer was {longest:?} ({of}); {} changes, \
             {reused} of {} addresses had several holders",
            misdirected.len(),
            self.changes,
            self.holders.len(),
        ));
        assert!(read > 1000 && reused > 0, "{read} datagrams, {reused} addresses");
        assert!(misdirected.is_empty(), "{} datagrams came to another member: {misdirected:?}", misdirected.len());
        assert!(longest < BOUND + SLACK, "a name was answered and its member not for {longest:?}, {of}");

        // The store has what is there, and nothing of what is not.
        let there = self.wanted();
        self.hosts_are_shown();
        let rows = |etcd: &Etcd, of: &str| etcd.records(&[]).keys().filter(|key| key.starts_with(of)).count();
        for of in ["members/", "public-keys/"] {
            let records = self.etcd.records(&[]).into_iter().filter(|(key, _)| key.starts_with(of));
            let records: Vec<String> = records.map(|(key, value)| format!("{key} {value}")).collect();
            wait_until(format!("the store has the {of} of {there:?}, and has {records:#?}"), || {
                rows(&self.etcd, of) == there.len()
            });
        }
        wait_until("the addresses that the store has as held are those of the members", || {
            self.held_addresses() == there.iter().map(|(_, address)| *address).collect()
        });
        for number in 0..ALL {
            self.detach(number);
        }
        wait_until("nothing is left in the store", || {
            ["members/", "public-keys/", "member-names/"].iter().all(|of| rows(&self.etcd, of) == 0)
        });
        // The row of an address stays, and says that its holder has ended.
        wait_until("no address is held", || self.held_addresses().is_empty());
        for host in &self.hosts {
            wait_until("every host knows that nobody is left", || host.members().expect("members").is_empty());
            wait_until(format!("nothing is left on {}: {:?}", host.name, host.leftovers()), || {
                // The DNS process and its directory stay with the agent.
                !host.leftovers().iter().any(|left| left.starts_with("namespace") || left.starts_with("pin"))
            });
        }
        self.changes
    }

    /// The addresses whose rows in the store name a holder.
    fn held_addresses(&self) -> BTreeSet<Ipv4Addr> {
        let is_held = |row: &str| !row.contains(NO_HOLDER);
        let rows =
            self.etcd.records(&[]).into_iter().filter(|(key, row)| key.starts_with("addresses/") && is_held(row));
        rows.map(|(key, _)| key.rsplit('/').next().and_then(|address| address.parse().ok()).expect("an address"))
            .collect()
    }

    fn host_of(&self, container: usize) -> &Host {
        &self.hosts[container % HOSTS]
    }

    fn attach(&mut self, container: usize) {
        if self.memberships[container] != Membership::None {
            return;
        }
        let begun = Instant::now();
        loop {
            if self.host_of(container).has_ended() {
                return;
            }
            match self.host_of(container).attach(&self.network, &self.containers[container], None) {
                Ok(attached) => {
                    let address = attached.member.address;
                    self.memberships[container] = Membership::Member(address);
                    self.holders.entry(address).or_default().insert(container);
                    break;
                }
                // An address that was let go rests for as long as somebody may remember its name.
                Err(error) if error.code == ErrorCode::PoolExhausted && begun.elapsed() < LATER => {}
                Err(error) => {
                    self.must_be_excused(container, &error.message);
                    self.memberships[container] = Membership::Unknown;
                    break;
                }
            }
        }
        self.changes += 1;
        self.expect();
    }

    fn detach(&mut self, container: usize) {
        if self.memberships[container] == Membership::None || self.host_of(container).has_ended() {
            return;
        }
        self.talk.expect_nothing_of(container);
        self.memberships[container] = match self.host_of(container).detach(&self.network, &self.containers[container]) {
            Ok(_) => Membership::None,
            Err(error) => {
                self.must_be_excused(container, &error.message);
                Membership::Unknown
            }
        };
        self.changes += 1;
        self.expect();
    }

    /// A change fails only where the store is not reached.
    #[track_caller]
    fn must_be_excused(&self, container: usize, message: &str) {
        let own = number_of(container);
        assert!(
            !self.reaches_store(container),
            "a change on h{own} failed: {message}\n{}",
            self.host_of(container).log_tail()
        );
    }

    fn cut(&mut self, one: u8, other: u8, way: Way) {
        let ways: &[(u8, u8)] = match way {
            Way::Both => &[(one, other), (other, one)],
            Way::Out => &[(one, other)],
            Way::In => &[(other, one)],
        };
        for (from, to) in ways {
            let space = if *from == ETCD { &self.of_etcd } else { &self.hosts[usize::from(*from) - 1].space };
            // Nothing is expected from before it is cut.
            let cut = || Cut::new(space, underlay_address(*to));
            self.cuts.entry((*from, *to)).or_insert_with(cut);
        }
        self.expect();
    }

    /// Ends the store, does something with its data, and starts it; then every host that reaches it has found it again.
    fn restart(&mut self, act: impl Fn(&Etcd)) {
        self.etcd.kill();
        act(&self.etcd);
        self.etcd.start();
        for (number, host) in self.hosts.iter().enumerate() {
            wait_within(format!("{} has found the store: {:?}", host.name, host.status()), LATER, || {
                !self.reaches_store(number) || host.status().expect("status").store_age_seconds.is_none()
            });
        }
    }

    /// Ends what is cut and starts what was killed; what is known of all members is right soon, everywhere.
    fn mend(&mut self) {
        for (one, other) in std::mem::take(&mut self.cuts).into_keys() {
            self.rejoined.extend([[one, other], [other, one]].map(|hosts| (hosts, Instant::now())));
        }
        for host in &self.hosts {
            if host.has_ended() {
                host.start();
            }
        }
        let mended = Instant::now();
        self.expect();
        for container in 0..ALL {
            if self.memberships[container] == Membership::Unknown {
                wait_within(format!("container {container} is none"), LATER, || {
                    let answer = self.host_of(container).detach(&self.network, &self.containers[container]);
                    answer.map_or_else(|error| error.code == ErrorCode::MemberNotFound, |_| true)
                });
                self.memberships[container] = Membership::None;
            }
        }
        let wanted = self.wanted();
        for host in &self.hosts {
            let mut said = String::new();
            wait_within(format!("{} knows {wanted:?}", host.name), LATER, || {
                let status = host.status().expect("status");
                let members = host.members().expect("members").into_iter();
                let name = |member: &MemberView| format!("{}-{}", member.member.kind, member.member.number);
                let known: BTreeSet<_> = members.map(|member| (name(&member), member.member.address)).collect();
                let wrong: Vec<_> = known.symmetric_difference(&wanted).collect();
                let text = format!("{}: {wrong:?}, {:?}", host.name, status.problems);
                if text != said {
                    say(&format!("{:?} after the end of the faults: {text}", mended.elapsed()));
                    said = text;
                }
                wrong.is_empty() && status.problems.is_empty() && status.members == status.members_ready
            });
        }
        self.expect();
        wait_within("every datagram is answered", LATER, || self.talk.all_are_answered());
        say(&format!("whole again after {:?}", mended.elapsed()));
    }

    /// The members that there are.
    fn wanted(&self) -> BTreeSet<(String, Ipv4Addr)> {
        let all = self.containers.iter().zip(&self.memberships);
        all.filter_map(|(container, membership)| match membership {
            Membership::Member(address) => Some((format!("{}-{}", container.kind, container.number), *address)),
            Membership::None | Membership::Unknown => None,
        })
        .collect()
    }

    /// Whether the agent of a container's host runs and reaches the store.
    fn reaches_store(&self, container: usize) -> bool {
        self.hear_each_other(number_of(container), ETCD) && !self.hosts[container % HOSTS].has_ended()
    }

    fn hear_each_other(&self, one: u8, other: u8) -> bool {
        !self.cuts.contains_key(&(one, other)) && !self.cuts.contains_key(&(other, one))
    }

    /// Datagrams must be answered between members whose hosts reach the store and each other.
    fn expect(&self) {
        let now = Instant::now();
        let expected_since = |sender: usize, reader: usize| {
            let is_expected = sender < HOSTS
                && sender != reader
                && matches!(self.memberships[reader], Membership::Member(_))
                && self.reaches_store(sender)
                && self.reaches_store(reader)
                && self.hear_each_other(number_of(sender), number_of(reader));
            let hosts = [number_of(sender), number_of(reader)];
            let rejoined = self.rejoined.get(&hosts).map_or(now, |rejoined| *rejoined + RETRY);
            is_expected.then(|| rejoined.max(now))
        };
        self.talk.expect(expected_since, 0..ALL);
    }
}

/// The number of a host, which its containers have as their first.
fn number_of(host: usize) -> u8 {
    u8::try_from(host % HOSTS).expect("four") + 1
}
