//! A host whose agent is of the build before membership ids: what it writes into the store, and how it reads the others.
//!
//! It has no datapath. It follows the whole store from its start, as that agent does, and notes each record that it could
//! not act on.

#![allow(missing_docs, reason = "the fields are those of the frozen records")]

pub mod records;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use privnet::model::PublicKey;
use privnet::store::{self, Entry, EtcdOptions, Event, Expected, LeaseId, Store as _, Transaction};
use privnet_tests::lab::{Space, say, wait_until};
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use self::records::{
    Address, Container, Holder, Host, Instance, Label, Member, MemberPointer, NameOptions, Network, NetworkPointer,
    Presence, State, decode, encode, rewrite,
};

/// What that build reads of the store: the first five it follows, the others it asks for.
const ROOMS: [&str; 8] = ["networks", "members", "addresses", "hosts", "presences", "names", "vnis", "public-keys"];
/// How long a host of that build is taken to be there after it was heard last.
const TTL: Duration = Duration::from_secs(300);

/// A host whose agent is of the build before.
pub struct OldHost {
    pub name: Label,
    space: Space,
    vtep: Ipv4Addr,
    url: String,
    image: Arc<Mutex<Image>>,
    following: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

/// The store as the old agent has seen it.
#[derive(Default)]
struct Image {
    records: BTreeMap<String, Vec<u8>>,
    /// How many records of each room were read.
    read: BTreeMap<String, usize>,
    /// What could not be acted on, one line each.
    faults: Vec<String>,
}

impl Image {
    fn put(&mut self, key: &str, value: &[u8]) {
        match rewrite(key, value) {
            Ok(_) => {
                let (room, _) = key.split_once('/').unwrap_or_default();
                *self.read.entry(room.to_owned()).or_default() += 1;
            }
            Err(fault) => self.faults.push(format!("{key} {fault}: {}", String::from_utf8_lossy(value))),
        }
        self.records.insert(key.to_owned(), value.to_vec());
    }
}

impl OldHost {
    /// Starts the agent of host `number`: it tells of itself, and reads and follows the store.
    pub fn start(space: Space, number: u8, url: &str) -> Self {
        let name = Label(format!("h{number}"));
        let vtep = privnet_tests::lab::underlay_address(number);
        let image = Arc::default();
        let mut host = Self { name, space, vtep, url: url.to_owned(), image, following: None };
        host.announce();
        host.follow();
        host
    }

    /// Ends the agent and starts it again: what it knew is read anew.
    pub fn restart(&mut self) {
        say(&format!("[{}] the old agent starts again", self.name));
        self.end();
        self.image().records.clear();
        self.announce();
        self.follow();
    }

    /// Tells of itself under a new lease.
    pub fn announce(&self) {
        let host = Host {
            name: self.name.clone(),
            vtep: self.vtep,
            agent_version: "0.1.0".to_owned(),
            applied_revision: 0,
            clock_steps: 0,
        };
        let presence = Presence { instance: Instance("7b1f0f5e-8d1c-4f5e-9f0e-3f6b0c2d9a11".to_owned()) };
        let (host_key, presence_key) = (format!("hosts/{}", self.name), format!("presences/{}", self.name));
        self.in_store(async move |store| {
            let lease = store.grant_lease(TTL).await.expect("a lease");
            let transaction = Transaction::new().put(key(&host_key), encode(&host)).put_leased(
                key(&presence_key),
                encode(&presence),
                lease,
            );
            store.commit(transaction).await.expect("told");
        });
    }

    /// Creates a network, as `privnet network create` did.
    pub fn create_network(&self, name: &str, vni: u32, subnet: &str) -> Network {
        let network = Network {
            id: records::NetworkId(format!("pn-ad0fd6a1-d05e-40ea-bf63-{vni:012x}")),
            name: records::NetworkName(name.to_owned()),
            vni,
            subnet: subnet.parse().expect("a subnet"),
            mtu: 1390,
            created_unix_seconds: 1_700_000_000,
            names: NameOptions::default(),
        };
        let pointer = encode(&NetworkPointer { network: network.id.clone() });
        self.commit(
            Transaction::new()
                .require(key(&format!("names/{name}")), Expected::Absent)
                .put(key(&format!("names/{name}")), pointer.clone())
                .put(key(&format!("vnis/{vni}")), pointer)
                .put(key(&format!("networks/{}", network.id)), encode(&network))
                .put(key("fences/networks"), []),
        );
        network
    }

    /// Makes a container a member at an address that is free, and says that it is ready.
    pub fn attach(&self, network: &Network, container: &str, address: Ipv4Addr, public_key: PublicKey) -> Member {
        let (row, row_key) = (self.row(network, address), address_key(network, address));
        assert!(row.as_ref().is_none_or(|row| row.holder.is_none()), "{row:?}");
        let parts: Vec<&str> = container.splitn(3, '.').collect();
        let container = Container {
            app: records::AppId(parts[2].to_owned()),
            kind: Label(parts[1].to_owned()),
            number: parts[0].parse().expect("a number"),
        };
        let member = Member {
            network: network.id.clone(),
            container,
            address,
            generation: row.map_or(0, |row| row.generation.wrapping_add(1)),
            public_key,
            wireguard_port: 51_820,
            host: self.name.clone(),
            state: State::Attaching,
            ports: [records::Port("http=8080".to_owned())].into(),
        };
        let holder = Holder(member.container.to_string());
        let held = Address { holder: Some(holder.clone()), generation: member.generation, released_unix_seconds: None };
        self.commit(
            Transaction::new()
                .require(key(&format!("networks/{}", network.id)), Expected::Exists)
                .require(key(&member_key(&member)), Expected::Absent)
                .require(key(&public_key_key(&member)), Expected::Absent)
                .put(key(&member_key(&member)), encode(&member))
                .put(key(&row_key), encode(&held))
                .put(key(&public_key_key(&member)), encode(&MemberPointer { holder }))
                .put(key(&format!("fences/members/{}", network.id)), []),
        );
        let ready = Member { state: State::Ready, ..member };
        self.commit(Transaction::new().put(key(&member_key(&ready)), encode(&ready)));
        ready
    }

    /// Ends a membership of its own: the address is free, and rests.
    pub fn detach(&self, network: &Network, member: &Member, released_unix_seconds: u64) {
        let freed =
            Address { holder: None, generation: member.generation, released_unix_seconds: Some(released_unix_seconds) };
        self.commit(
            Transaction::new()
                .require(key(&member_key(member)), Expected::Exists)
                .delete(key(&member_key(member)))
                .delete(key(&public_key_key(member)))
                .put(key(&address_key(network, member.address)), encode(&freed)),
        );
    }

    /// The record of an address as the store has it now.
    pub fn row(&self, network: &Network, address: Ipv4Addr) -> Option<Address> {
        let entry = self.entry(&address_key(network, address))?;
        Some(decode(&entry.value).expect("a record"))
    }

    /// A record that it follows, as it has seen it.
    pub fn seen<T: DeserializeOwned>(&self, key: &str) -> Option<T> {
        let image = self.image();
        image.records.get(key).map(|value| decode(value).unwrap_or_else(|fault| panic!("{key} {fault}")))
    }

    /// A key as the store has it now.
    pub fn entry(&self, text: &str) -> Option<Entry> {
        let key = key(text);
        self.in_store(async move |store| store.get(&key).await.expect("an answer"))
    }

    /// Writes a text under a key that exists, as some other build does.
    pub fn overwrite(&self, text: &str, value: &str) {
        let lease = self.entry(text).and_then(|entry| entry.lease);
        let (key, value) = (key(text), value.as_bytes().to_vec());
        let put = match lease {
            Some(lease) => Transaction::new().put_leased(key.clone(), value, lease),
            None => Transaction::new().put(key.clone(), value),
        };
        self.commit(put.require(key, Expected::Exists));
    }

    /// All that is its own in the store: of itself, its members, their addresses and keys.
    pub fn own(&self, network: &Network, members: &[&Member]) -> Vec<Entry> {
        let of_member =
            |member: &&Member| [member_key(member), address_key(network, member.address), public_key_key(member)];
        let of_itself = [format!("hosts/{}", self.name), format!("presences/{}", self.name)];
        let keys = of_itself.into_iter().chain(members.iter().flat_map(of_member));
        keys.map(|key| self.entry(&key).unwrap_or_else(|| panic!("{key} is gone"))).collect()
    }

    /// Waits until it has seen the store as it is, and returns the faults that it noted since it was asked last.
    pub fn faults(&self) -> Vec<String> {
        wait_until(format!("{} has seen all", self.name), || {
            let listed: BTreeMap<String, Vec<u8>> = self.in_store(async |store| {
                let mut listed = BTreeMap::new();
                for room in ROOMS {
                    let listing = store.list(&prefix(room)).await.expect("a listing");
                    listed
                        .extend(listing.entries.into_iter().map(|entry| (entry.key.to_string(), entry.value.to_vec())));
                }
                listed
            });
            self.image().records == listed
        });
        std::mem::take(&mut self.image().faults)
    }

    /// How many records of a room it has read.
    pub fn read(&self, room: &str) -> usize {
        self.image().read.get(room).copied().unwrap_or_default()
    }

    /// Lets its lease end, as when its agent is not heard for long.
    pub fn is_not_heard(&self) {
        let presence = self.entry(&format!("presences/{}", self.name)).expect("it is there");
        let lease: LeaseId = presence.lease.expect("its lease");
        self.in_store(async move |store| store.revoke_lease(lease).await.expect("ended"));
    }

    fn commit(&self, transaction: Transaction) {
        self.in_store(async move |store| store.commit(transaction).await.expect("committed"));
    }

    fn follow(&mut self) {
        let (stop, stopped) = oneshot::channel();
        let (space, url, image) = (self.space.clone(), self.url.clone(), Arc::clone(&self.image));
        let (listed, all) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            space.inside(move || block_on(follow(&url, &image, listed, stopped)));
        });
        all.recv().expect("the store was read");
        self.following = Some((stop, thread));
    }

    fn end(&mut self) {
        if let Some((stop, thread)) = self.following.take() {
            let _ = stop.send(());
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "the old agent panicked");
        }
    }

    fn image(&self) -> MutexGuard<'_, Image> {
        self.image.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with the store, from the host's namespace.
    fn in_store<T: Send + 'static>(&self, act: impl AsyncFnOnce(&store::Etcd) -> T + Send + 'static) -> T {
        let url = self.url.clone();
        self.space.inside(move || block_on(async { act(&open(&url)).await }))
    }
}

impl Drop for OldHost {
    fn drop(&mut self) {
        self.end();
    }
}

/// Reads every room and follows it, until it is told to stop.
async fn follow(
    url: &str,
    image: &Arc<Mutex<Image>>,
    listed: std::sync::mpsc::Sender<()>,
    stopped: oneshot::Receiver<()>,
) {
    let store = open(url);
    let mut rooms = JoinSet::new();
    for room in ROOMS {
        let listing = store.list(&prefix(room)).await.expect("a listing");
        for entry in listing.entries {
            image.lock().unwrap_or_else(PoisonError::into_inner).put(entry.key.as_str(), &entry.value);
        }
        let mut watch = store.watch(&prefix(room), listing.revision).await.expect("a watch");
        let image = Arc::clone(image);
        rooms.spawn(async move {
            while let Some(event) = watch.next().await {
                let mut image = image.lock().unwrap_or_else(PoisonError::into_inner);
                match event {
                    Event::Put { key, value, .. } => image.put(key.as_str(), &value),
                    Event::Delete { key, .. } => drop(image.records.remove(key.as_str())),
                    Event::Resync(reason) => image.faults.push(format!("the watch ended: {reason:?}")),
                }
            }
        });
    }
    let _ = listed.send(());
    let _ = stopped.await;
}

fn open(url: &str) -> store::Etcd {
    store::Etcd::new(&EtcdOptions::new(vec![url.to_owned()])).expect("a URL")
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future)
}

pub fn member_key(member: &Member) -> String {
    format!("members/{}/{}", member.network, member.container)
}

pub fn address_key(network: &Network, address: Ipv4Addr) -> String {
    format!("addresses/{}/{address}", network.id)
}

fn public_key_key(member: &Member) -> String {
    let hex: String = member.public_key.bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("public-keys/{}/{hex}", member.network)
}

fn key(text: &str) -> store::Key {
    text.parse().expect("a key")
}

fn prefix(room: &str) -> store::Prefix {
    format!("{room}/").parse().expect("a prefix")
}
