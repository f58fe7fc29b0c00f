//! What happens to the hosts and to the store, one step after another.

use super::super::Belief;
use super::APP;
use super::lab::{HOSTS, LATER, Lab, is_passing};
use crate::model::{ContainerRef, Member, MemberId, PublicKey};
use crate::store::claims::{self, End, MemberClaim, NameClaim, NameWish};
use crate::store::{Entry, Key, Listing, Memory, Prefix, Store as _, Transaction, keys};

#[derive(Clone, Debug)]
pub enum Step {
    Attach { host: usize },
    Detach { which: usize },
    Name { which: usize },
    Unname { which: usize },
    Lose(&'static str),
    LoseOne(usize),
    Restore(usize),
    Repair,
}

fn wish(kind: &str) -> NameWish {
    NameWish {
        app: APP.parse().expect("an app"),
        app_name: None,
        kind: kind.parse().expect("a type"),
        number: None,
        own: [].into(),
        elsewhere: [].into(),
        ports: [].into(),
    }
}

impl Lab {
    async fn attach(&mut self, host: usize) {
        self.keys += 1;
        let claim = MemberClaim {
            id: MemberId::new(self.keys.into()),
            network: self.network.id,
            name: wish("web"),
            address: None,
            host: HOSTS[host].parse().expect("a host"),
            instance: None,
            public_key: PublicKey::new([self.keys; 32]),
            wireguard_port: 51820,
            now_unix_seconds: u64::from(self.keys) * 1000,
        };
        // A network that is lost refuses it.
        let Ok(written) = claims::claim_member(&self.store, &claim, &*self.worlds[host]).await else { return };
        for other in &self.living {
            assert_ne!(other.address, written.member.address, "{other:?} {written:?}");
            assert_ne!(other.container, written.member.container, "{other:?} {written:?}");
        }
        self.note(&written);
    }

    async fn detach(&mut self, member: Member) {
        let (world, end) = (self.world_of(&member.host), End::by_its_host(u64::from(self.keys) * 1000));
        let ended = claims::release_member(&self.store, &member, end, &*world).await;
        assert!(ended.expect("released").is_some(), "{member:?} was not there");
        let pointers = member.names.iter().map(|name| keys::member_name(member.network, &name.container));
        let of_member =
            [keys::member(member.network, &member.container), keys::public_key(member.network, member.public_key)];
        for key in pointers.chain(of_member) {
            self.truth.remove(&key);
        }
        let row = keys::address(member.network, member.address);
        let entry = self.store.get(&row).await.expect("read").expect("the end is recorded");
        self.truth.insert(row, entry.value);
        self.living.retain(|other| other.id != member.id);
    }

    async fn name(&mut self, member: &Member) {
        let claim = NameClaim {
            network: member.network,
            member: member.id,
            known_as: member.container.clone(),
            name: wish("side"),
        };
        let world = self.world_of(&member.host);
        let written = claims::add_name(&self.store, &claim, &*world).await.expect("named");
        self.note(&written);
    }

    /// Takes its oldest name from a membership that has another one.
    async fn unname(&mut self, member: &Member) {
        let (world, end) = (self.world_of(&member.host), End::by_its_host(1));
        let name: &ContainerRef = &member.container;
        let released = claims::release_name(&self.store, member.network, member.id, name, end, &*world).await;
        match released.expect("released").expect("it had the name") {
            claims::Released::Name(written) => self.note(&written),
            claims::Released::Membership(_) => unreachable!("it has another name"),
        }
    }

    async fn lose(&mut self, lost: Vec<Key>) {
        if lost.is_empty() {
            return;
        }
        let transaction = lost.into_iter().fold(Transaction::new(), Transaction::delete);
        self.store.commit(transaction).await.expect("deleted");
        self.is_whole = false;
        self.follow();
    }

    /// Another store with an earlier content, as after a restore.
    async fn restore(&mut self, content: Listing) {
        self.store = Memory::new();
        for batch in content.entries.chunks(100) {
            let put = |transaction: Transaction, entry: &Entry| transaction.put(entry.key.clone(), entry.value.clone());
            self.store.commit(batch.iter().fold(Transaction::new(), put)).await.expect("restored");
        }
        self.is_whole = false;
        self.read_again().await;
    }

    /// Writes all that is due until nothing is, with pauses that let another host's turn come.
    async fn repair(&mut self) {
        for round in 0.. {
            assert!(
                round < 10,
                "it never ends: {:?}",
                self.worlds.each_ref().map(|world| world.belief(|b| b.repairs(self.now)))
            );
            self.now += LATER;
            let due: Vec<_> = self.worlds.iter().map(|world| world.belief(|belief| belief.repairs(self.now))).collect();
            if due.iter().all(Vec::is_empty) {
                break;
            }
            for repair in due.into_iter().flatten() {
                // The other host may have been first.
                let _ = self.store.commit(repair.transaction).await;
            }
            self.follow();
        }
        self.is_whole = true;
    }

    pub async fn step(&mut self, step: &Step) {
        match step {
            Step::Attach { host } => {
                // A host that knows no more than the store waits for the others.
                let has_members = self.living.iter().any(|member| member.host.as_str() == HOSTS[*host]);
                if !has_members && self.worlds[*host].belief(Belief::stepped_back).is_some() {
                    self.repair().await;
                }
                self.attach(*host).await;
            }
            Step::Detach { which } => {
                // A network that is lost with its last member is gone.
                if self.living.len() == 1 && !self.is_whole {
                    self.repair().await;
                }
                if let Some(member) = self.pick(*which) {
                    self.detach(member).await;
                }
            }
            // Names are given and taken while the store has the record.
            Step::Name { which } if self.is_whole => {
                if let Some(member) = self.pick(*which).filter(|member| member.names.len() < 3) {
                    self.name(&member).await;
                }
            }
            Step::Unname { which } if self.is_whole => {
                if let Some(member) = self.pick(*which).filter(|member| !member.names.is_empty()) {
                    self.unname(&member).await;
                }
            }
            // A network without members that is lost is gone.
            Step::Lose("" | "networks/") | Step::LoseOne(_) if self.living.is_empty() => {}
            Step::Lose("") => {
                let everything = self.listing().await.entries.into_iter().map(|entry| entry.key);
                self.lose(everything.filter(|key| !is_passing(key)).collect()).await;
            }
            Step::Lose(prefix) => {
                let prefix: Prefix = prefix.parse().expect("a prefix");
                let lost = self.store.list(&prefix).await.expect("listed").entries.into_iter().map(|entry| entry.key);
                self.lose(lost.collect()).await;
            }
            Step::LoseOne(which) => {
                let entries = self.listing().await.entries;
                let lost: Vec<Key> =
                    entries.into_iter().map(|entry| entry.key).filter(|key| !is_passing(key)).collect();
                self.lose(lost.get(which % lost.len().max(1)).cloned().into_iter().collect()).await;
            }
            Step::Restore(which) if !self.earlier.is_empty() => {
                let content = self.earlier[which % self.earlier.len()].clone();
                self.restore(content).await;
            }
            Step::Repair => self.repair().await,
            Step::Name { .. } | Step::Unname { .. } | Step::Restore(_) => {}
        }
        self.follow();
        self.check_belief(step);
        if self.is_whole {
            self.check_store().await;
            self.earlier.push(self.listing().await);
        }
    }
}
