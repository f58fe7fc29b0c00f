//! What an operator does: a network is ended with its members, a member of a host that is away is ended, and a host is forgotten,
//! taken back, or emptied.

use uuid::Uuid;

use super::lab::{HOSTS, Lab, about, host_record, new_network, presence, presence_of, told_by};
use crate::agent::revival;
use crate::model::{HostName, Member};
use crate::store::claims::{self, End, Forgetting, Forgotten};
use crate::store::records::{self, DrainRecord, EndedBy, Envelope, NetworkMark};
use crate::store::{Expected, Store as _, Transaction, keys};

impl Lab {
    fn here(&self) -> usize {
        usize::from(!self.is_here(0))
    }

    fn absent(&self) -> Option<usize> {
        (0..HOSTS.len()).find(|host| !self.is_here(*host))
    }

    fn time(&self) -> u64 {
        u64::from(self.keys) * 1000
    }

    pub async fn doom(&mut self) {
        if self.doomed.is_some() || self.keys > 200 {
            return;
        }
        if !self.is_whole {
            self.repair().await;
        }
        self.keys += 1;
        let held = self.worlds[self.here()].read(|world| world.networks().values().cloned().collect());
        let network = new_network(&self.store, &format!("doomed{}", self.keys), self.keys, held).await;
        self.follow();
        for key in [keys::network(network.id), keys::name(&network.name), keys::vni(network.vni)] {
            let entry = self.store.get(&key).await.expect("read").expect("it was created");
            self.truth.insert(key, entry.value);
        }
        let id = network.id;
        self.doomed = Some(network);
        for host in self.hosts_here() {
            let written = self.claim_in(id, host, None).await.expect("a whole store takes it");
            self.note(&written);
            self.follow();
        }
    }

    pub async fn end_network(&mut self) {
        let by = self.here();
        self.trust(by).await;
        let Some(network) = self.doomed.take() else { return };
        let (key, host) = (keys::network_mark(network.id), HOSTS[by].parse().expect("a host"));
        let mark =
            NetworkMark { network: network.id, name: network.name.clone(), by: host, at_unix_seconds: self.time() };
        claims::end_network(&self.store, &network, &mark).await.expect("ended");
        self.living.retain(|member| member.network != network.id);
        self.truth.retain(|key, value| about(key, value).and_then(|about| about.network()) != Some(network.id));
        let entry = self.store.get(&key).await.expect("read").expect("the mark");
        self.truth.insert(key, entry.value);
    }

    pub async fn detach_elsewhere(&mut self, which: usize) {
        let by = self.here();
        self.trust(by).await;
        let away = self.pick_of(which, false);
        if let Some(member) = away.filter(|member| self.is_whole || self.has_members_in(by, member.network)) {
            let end = End { by: EndedBy::Operator, at_unix_seconds: self.time() };
            self.end(&member, end, by).await;
        }
    }

    pub async fn forget(&mut self) {
        let Some(host) = self.absent().filter(|host| self.forgotten[*host].is_none()) else { return };
        let by = self.here();
        self.trust(by).await;
        let knows_all = self.networks().all(|network| self.has_members_in(by, network));
        if !self.is_whole && (!knows_all || self.members_of(host).next().is_none()) {
            self.repair().await;
        }
        if self.is_here(host) {
            return;
        }
        // Another end in the same second cannot be told from it.
        self.keys += 1;
        let members: Vec<Member> = self.members_of(host).cloned().collect();
        let name: HostName = HOSTS[host].parse().expect("a host");
        let wish = Forgetting {
            host: name.clone(),
            instances: members.iter().filter_map(|member| member.instance).collect(),
            is_forced: false,
            by: HOSTS[by].parse().expect("a host"),
            at_unix_seconds: self.time(),
        };
        let Forgotten::Instances(instances) = claims::forget_host(&self.store, &wish).await.expect("asked") else {
            return;
        };
        self.follow();
        self.forgotten[host] = Some(members.iter().map(|member| member.id).collect());
        for key in instances.into_iter().map(keys::instance_mark) {
            let entry = self.store.get(&key).await.expect("read").expect("the mark");
            self.truth.insert(key, entry.value);
        }
        self.truth.remove(&host_record(host));
        if let Some(drain) = self.store.get(&keys::drain(&name)).await.expect("read") {
            self.truth.insert(drain.key, drain.value);
        }
        for member in members {
            self.forget_records(&member);
            let row = keys::address(member.network, member.address);
            let ended = self.worlds[by]
                .belief(|belief| belief.records().find(|(key, _)| **key == row).map(|(_, value)| value.clone()));
            self.truth.insert(row, ended.expect("the row says the end"));
        }
        self.is_whole = false;
        if self.doomed.as_ref().is_some_and(|network| !self.living.iter().any(|member| member.network == network.id)) {
            self.end_network().await;
        }
    }

    pub async fn adopt(&mut self) {
        let Some(host) = (0..HOSTS.len()).find(|host| self.forgotten[*host].is_some()) else { return };
        self.repair().await;
        self.remember(host);
        self.read_again(host).await;
        self.keys += 1;
        let next = Uuid::from_u128(u128::from(self.keys) << 64);
        let mark = self.worlds[host].read(|world| world.instance_mark(self.instances[host]).cloned());
        let mark = mark.expect("the store is whole");
        let ended = self.forgotten[host].take().expect("it is forgotten");
        for (id, stored) in std::mem::take(&mut self.journals[host]) {
            if !self.worlds[host].read(|world| revival::is_free(world, &stored.record)) {
                continue;
            }
            let written = claims::revive_member(&self.store, &stored, next, self.time(), &mark).await.expect("asked");
            if let Some(written) = written {
                assert!(ended.contains(&id), "{written:?} had ended before");
                self.note(&written);
            }
            self.follow();
        }
        let drain = keys::drain(&HOSTS[host].parse().expect("a host"));
        let known = self.worlds[host]
            .belief(|belief| belief.records().find(|(key, _)| **key == drain).map(|(_, value)| value.clone()));
        match known {
            Some(value) => drop(self.truth.insert(drain, value)),
            None => drop(self.truth.remove(&drain)),
        }
        self.instances[host] = next;
        let told = told_by(host, 3 + u64::from(self.keys), next);
        self.truth.insert(host_record(host), told.clone());
        let announced = Transaction::new().put(presence(host), presence_of(next)).put(host_record(host), told);
        self.store.commit(announced).await.expect("there");
        self.follow();
        // That it was drained it alone may know.
        self.repair().await;
    }

    pub async fn drain(&mut self, host: usize, draining: bool) {
        if !self.is_here(host) {
            return;
        }
        let by = self.here();
        self.trust(by).await;
        let name: HostName = HOSTS[host].parse().expect("a host");
        let key = keys::drain(&name);
        let entry = self.store.get(&key).await.expect("read");
        let before = entry.as_ref().map(|entry| records::read::<DrainRecord>(entry).expect("a record"));
        let was_draining = before.as_ref().is_some_and(|before| before.record.draining);
        if !self.is_whole || was_draining == draining {
            return;
        }
        let seen = self.worlds[by].belief(|belief| belief.serial(&key));
        let envelope = before.map_or_else(Envelope::first, |before| before.envelope.next()).above(seen);
        let record =
            DrainRecord { host: name.clone(), draining, by: HOSTS[by].parse().expect("a host"), at_unix_seconds: 1 };
        let value = records::encode(&record, &envelope);
        let telling = Transaction::new().require(keys::host(&name), Expected::Exists).put(key.clone(), value.clone());
        if self.store.commit(telling).await.is_ok() {
            self.truth.insert(key, value);
        }
    }
}
