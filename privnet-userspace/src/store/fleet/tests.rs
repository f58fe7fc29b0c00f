//! Stores that are replaced, emptied and set back behind an agent's back.

use std::collections::BTreeSet;

use super::*;
use crate::model::NetworkId;
use crate::store::Memory;

/// A place where one store stands now and another one later, as behind an endpoint.
#[derive(Debug)]
struct Endpoint {
    store: Mutex<Arc<Memory>>,
    /// How many more transactions it takes.
    takes: Mutex<usize>,
}

impl Endpoint {
    fn new() -> Arc<Self> {
        Self::of(Arc::new(Memory::new()), usize::MAX)
    }

    fn of(store: Arc<Memory>, takes: usize) -> Arc<Self> {
        Arc::new(Self { store: Mutex::new(store), takes: Mutex::new(takes) })
    }

    fn now(&self) -> Arc<Memory> {
        Arc::clone(&self.store.lock().expect("no test panics while it holds this"))
    }

    /// Puts another store there, and returns the one that stood there.
    fn replace(&self, store: Arc<Memory>) -> Arc<Memory> {
        std::mem::replace(&mut *self.store.lock().expect("no test panics while it holds this"), store)
    }
}

#[async_trait]
impl Store for Endpoint {
    fn kind(&self) -> StoreKind {
        self.now().kind()
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        self.now().get(key).await
    }

    async fn list(&self, prefix: &Prefix) -> Result<Listing, StoreError> {
        self.now().list(prefix).await
    }

    async fn watch(&self, prefix: &Prefix, after: Revision) -> Result<Watch, StoreError> {
        self.now().watch(prefix, after).await
    }

    async fn commit(&self, transaction: Transaction) -> Result<Revision, CommitError> {
        {
            let mut takes = self.takes.lock().expect("no test panics while it holds this");
            *takes = takes.checked_sub(1).ok_or(StoreError::Closed)?;
        }
        self.now().commit(transaction).await
    }

    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.now().grant_lease(ttl).await
    }

    async fn keep_lease_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.now().keep_lease_alive(lease).await
    }

    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.now().revoke_lease(lease).await
    }
}

fn key() -> Key {
    "a/1".parse().expect("a key")
}

fn put() -> Transaction {
    Transaction::new().put(key(), *b"x")
}

fn refused<T>(outcome: Result<T, CommitError>) -> FleetError {
    match outcome {
        Err(CommitError::Store(StoreError::Fleet(refusal))) => refusal,
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("it was not refused"),
    }
}

/// A store with this record of a fleet, written `serial` times.
async fn store_with(record: &FleetRecord, serial: u64) -> Arc<Memory> {
    let store = Arc::new(Memory::new());
    let mut envelope = Envelope::default();
    for _ in 0..serial {
        envelope = envelope.next();
        let put = Transaction::new()
            .put(keys::fleet_epoch(record.id, record.epoch), [])
            .put(keys::fleet(), records::encode(record, &envelope));
        store.commit(put).await.expect("committed");
    }
    store
}

async fn stored(store: &dyn Store) -> Option<FleetRecord> {
    let entry = store.get(&keys::fleet()).await.expect("read")?;
    Some(records::read(&entry).expect("a record").record)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn agents_that_begin_at_once_on_an_empty_store_are_of_one_fleet() {
    for _ in 0..50 {
        let store: Arc<dyn Store> = Arc::new(Memory::new());
        let joining = [(); 4].map(|()| tokio::spawn(Fleet::join(Arc::clone(&store))));
        let mut ids = Vec::new();
        for fleet in joining {
            ids.push(fleet.await.expect("ended").expect("joined").id());
        }
        ids.dedup();
        assert_eq!(ids.len(), 1);
        assert_eq!(stored(&*store).await.map(|record| (record.id, record.epoch)), Some((ids[0], 1)));
    }
}

#[tokio::test]
async fn an_agent_neither_reads_nor_writes_a_store_that_has_taken_the_place_of_its_own() {
    let place = Endpoint::new();
    let fleet = Fleet::join(place.clone()).await.expect("joined");
    fleet.commit(put()).await.expect("its own store");
    let (record, _) = fleet.record();
    let other = FleetRecord { id: FleetRecord::random().id, ..record.clone() };
    let seen = FleetRecord { epoch: 3, ..record.clone() };
    for (store, expected) in [
        (Arc::new(Memory::new()), FleetError::NoRecord { fleet: record.id }),
        (store_with(&other, 1).await, FleetError::Another { fleet: record.id, found: other.id }),
        (store_with(&seen, 1).await, FleetError::Unreadable { detail: String::new() }),
    ] {
        let is_ours = matches!(expected, FleetError::Unreadable { .. });
        let before = place.replace(Arc::clone(&store));
        let outcome = fleet.commit(put()).await;
        if is_ours {
            // The twin: the operator's word that this one is the fleet's.
            outcome.expect("its own store by a higher epoch");
            assert!(fleet.get(&key()).await.expect("read").is_some());
            place.replace(before);
            let refusal = FleetError::Older { fleet: record.id, epoch: 3, found: 1 };
            assert_eq!(refused(fleet.commit(put()).await), refusal);
            assert_eq!(fleet.refusal(), Some(refusal));
            continue;
        }
        assert_eq!(refused(outcome), expected);
        assert_eq!(store.get(&key()).await.expect("read"), None, "nothing was written");
        assert!(matches!(fleet.get(&key()).await, Err(StoreError::Fleet(error)) if error == expected));
        assert!(matches!(fleet.list(&"a/".parse().expect("a prefix")).await, Err(StoreError::Fleet(_))));
        assert_eq!(refused(fleet.recognize().await), expected);
        place.replace(before);
        fleet.recognize().await.expect("its own store is back");
        fleet.commit(put()).await.expect("its own store");
    }
}

#[tokio::test]
async fn an_agent_that_starts_again_knows_its_store_by_what_it_has_seen() {
    let first: Arc<dyn Store> = Arc::new(Memory::new());
    let fleet = Fleet::join(Arc::clone(&first)).await.expect("joined");
    let (record, value) = fleet.record();
    let entry = Entry { key: keys::fleet(), value, revision: Revision(0), lease: None };
    let believed = || records::read::<FleetRecord>(&entry).expect("a record");
    let again = Fleet::of(first, believed());
    again.recognize().await.expect("it is the fleet's");
    assert_eq!((again.refusal(), again.id()), (None, record.id));
    let empty = Arc::new(Memory::new());
    let elsewhere = Fleet::of(empty.clone(), believed());
    assert!(elsewhere.recognize().await.is_err());
    assert_eq!(elsewhere.refusal(), Some(FleetError::NoRecord { fleet: record.id }));
    assert_eq!(stored(&*empty).await, None, "it makes no record there");
}

/// An operator's word of a fleet of which nothing is known.
async fn rebuild(fleet: &Fleet) {
    let survey = fleet.survey(&fleet.record().0, &BTreeSet::new()).await.expect("a survey");
    assert!(!survey.is_ours, "{survey:?}");
    let epoch = survey.next_epoch;
    assert_eq!(fleet.rebuild(survey).await.expect("rebuilt").epoch, epoch);
}

#[tokio::test]
async fn an_operator_makes_a_store_the_fleets_and_every_agent_of_it_follows() {
    let place = Endpoint::new();
    let one = Fleet::join(place.clone()).await.expect("joined");
    let two = Fleet::join(place.clone()).await.expect("joined");
    assert!(one.survey(&one.record().0, &BTreeSet::new()).await.expect("a survey").is_ours);
    let first = place.replace(Arc::new(Memory::new()));
    assert_eq!(refused(two.commit(put()).await), FleetError::NoRecord { fleet: one.id() });
    rebuild(&one).await;
    two.recognize().await.expect("the fleet's");
    two.commit(put()).await.expect("the fleet's");
    assert_eq!((one.record().0.epoch, two.record().0.epoch), (2, 2));

    // The store of before, back: an older copy, until an operator says otherwise.
    place.replace(first);
    assert_eq!(refused(one.recognize().await), FleetError::Older { fleet: one.id(), epoch: 2, found: 1 });
    rebuild(&two).await;
    one.recognize().await.expect("the fleet's");
    assert_eq!(one.record().0.epoch, 3);

    // It is closed: nothing is written, until an operator takes that back.
    one.close().await.expect("closed");
    assert_eq!(refused(one.commit(put()).await), FleetError::Closed { fleet: one.id() });
    assert_eq!(refused(two.commit(put()).await), FleetError::Closed { fleet: one.id() });
    assert!(Fleet::join(place.clone()).await.is_err(), "a new host does not join it either");
    rebuild(&one).await;
    two.recognize().await.expect("the fleet's");
    two.commit(put()).await.expect("the fleet's");
    assert_eq!(two.record().0.epoch, 4);
}

#[tokio::test]
async fn what_another_fleet_has_in_a_store_is_counted_and_goes_when_an_operator_says_so() {
    let store: Arc<dyn Store> = Arc::new(Memory::new());
    let stranger = Fleet::join(Arc::clone(&store)).await.expect("joined");
    let network = NetworkId::from_uuid(uuid::Uuid::from_u128(7));
    for number in 0..120 {
        let key: Key = format!("other/{number}").parse().expect("a key");
        stranger.commit(Transaction::new().put(key, *b"{}")).await.expect("committed");
    }
    stranger.commit(Transaction::new().put(keys::network(network), *b"{}")).await.expect("committed");
    let own = Fleet::join(Arc::new(Memory::new())).await.expect("joined");
    let fleet = Fleet::of(Arc::clone(&store), own.lock().stored.clone());
    let survey = fleet.survey(&fleet.record().0, &BTreeSet::from([network])).await.expect("a survey");
    assert_eq!(survey.strange, Some(Strange { fleet: Some(stranger.id()), networks: 1, members: 0 }));
    fleet.rebuild(survey).await.expect("rebuilt");
    let left = store.list(&keys::everything()).await.expect("listed").entries;
    assert_eq!(left.len(), 2, "the record and the epoch: {left:?}");
    assert_eq!(stored(&*store).await.map(|record| (record.id, record.epoch)), Some((own.id(), 2)));
    assert_eq!(refused(stranger.commit(put()).await), FleetError::Another { fleet: stranger.id(), found: own.id() });

    // A fleet that an agent made on an empty store: its host is of this fleet from now on.
    let store: Arc<dyn Store> = Arc::new(Memory::new());
    let made = Fleet::join(Arc::clone(&store)).await.expect("joined");
    let host: Key = "hosts/h".parse().expect("a key");
    made.commit(Transaction::new().put(host.clone(), *b"{}")).await.expect("committed");
    let fleet = Fleet::of(Arc::clone(&store), own.lock().stored.clone());
    rebuild(&fleet).await;
    assert!(store.get(&host).await.expect("read").is_some());
    assert_eq!(stored(&*store).await.map(|record| (record.id, record.epoch)), Some((own.id(), 2)));

    // Without a record of a fleet, a network that is known tells whose it is.
    for (known, strange) in [(BTreeSet::from([network]), false), (BTreeSet::new(), true)] {
        let store = Arc::new(Memory::new());
        store.commit(Transaction::new().put(keys::network(network), *b"{}")).await.expect("committed");
        let fleet = Fleet::of(store.clone(), own.lock().stored.clone());
        let survey = fleet.survey(&fleet.record().0, &known).await.expect("a survey");
        assert_eq!((survey.strange.is_some(), survey.is_ours), (strange, false));
        fleet.rebuild(survey).await.expect("rebuilt");
        assert!(store.get(&keys::network(network)).await.expect("read").is_some(), "it stays");
    }
}

/// The host of the operator ends between any two transactions, and the operator gives the word on another one.
#[tokio::test]
async fn a_rebuild_that_ends_between_two_batches_is_finished_by_another_host() {
    let own = Fleet::join(Arc::new(Memory::new())).await.expect("joined");
    for most in 0.. {
        let store = Arc::new(Memory::new());
        let stranger = Fleet::join(store.clone()).await.expect("joined");
        let networks = (0..120).map(|number| keys::network(NetworkId::from_uuid(uuid::Uuid::from_u128(number))));
        for key in networks {
            stranger.commit(Transaction::new().put(key, *b"{}")).await.expect("committed");
        }
        let host = Fleet::of(Endpoint::of(store.clone(), most), own.lock().stored.clone());
        let survey = host.survey(&host.record().0, &BTreeSet::new()).await.expect("a survey");
        let is_whole = host.rebuild(survey).await.is_ok();
        let left = store.list(&keys::networks()).await.expect("listed").entries.len();
        assert_eq!(left, [120, 120, 70, 20].get(most).copied().unwrap_or_default(), "after {most} transactions");
        if is_whole {
            assert!(most > 3, "the record, three batches, and the record again: {most}");
            break;
        }
        let refused = stranger.commit(put()).await;
        assert_eq!(refused.is_ok(), most == 0, "what goes is not written again: {refused:?}");
        let other = Fleet::of(store.clone(), own.lock().stored.clone());
        rebuild(&other).await;
        let left = store.list(&keys::networks()).await.expect("listed").entries;
        assert_eq!(left, [], "after {most} transactions");
        assert_eq!(stored(&*store).await.map(|record| (record.id, record.epoch)), Some((own.id(), 2)));
        other.commit(put()).await.expect("the fleet's");
    }
}

#[tokio::test]
async fn a_record_of_the_same_epoch_that_steps_back_is_put_right() {
    let place = Endpoint::new();
    let fleet = Fleet::join(place.clone()).await.expect("joined");
    let (record, _) = fleet.record();
    let changed = FleetRecord { vxlan_port: NonZeroU16::new(4790).expect("a port"), ..record.clone() };
    place.replace(store_with(&changed, 2).await);
    fleet.recognize().await.expect("the fleet's");
    assert_eq!(fleet.vxlan_port().get(), 4790);
    // A copy of the time before the port was changed.
    place.replace(store_with(&record, 1).await);
    fleet.commit(put()).await.expect("the fleet's");
    assert_eq!(fleet.vxlan_port().get(), 4790);
    assert_eq!(stored(&*place.now()).await, Some(changed));
}

#[tokio::test]
async fn the_key_of_the_epoch_is_made_again() {
    let store = Arc::new(Memory::new());
    let fleet = Fleet::join(store.clone()).await.expect("joined");
    let epoch = keys::fleet_epoch(fleet.id(), 1);
    store.commit(Transaction::new().delete(epoch.clone())).await.expect("lost");
    fleet.commit(put()).await.expect("the fleet's");
    assert!(store.get(&epoch).await.expect("read").is_some());
}

#[tokio::test]
async fn what_another_agent_changes_is_known_by_the_next_transaction_and_by_the_watch() {
    let store: Arc<dyn Store> = Arc::new(Memory::new());
    let one = Fleet::join(Arc::clone(&store)).await.expect("joined");
    let two = Fleet::join(Arc::clone(&store)).await.expect("joined");
    let port = |port| NonZeroU16::new(port).expect("a port");
    crate::store::claims::set_vxlan_port(&one, port(4790)).await.expect("set");
    two.commit(put()).await.expect("committed");
    assert_eq!(two.vxlan_port().get(), 4790);
    let mut watch = store.watch(&keys::everything(), Revision(0)).await.expect("a watch");
    // Of the past first, which is not believed.
    for is_record in [false, true, true, false] {
        assert_eq!(one.follow(&watch.next().await.expect("an event")), is_record);
        assert_eq!(one.refusal(), None);
    }
    assert_eq!(one.vxlan_port().get(), 4790);
    store.commit(Transaction::new().delete(keys::fleet())).await.expect("lost");
    assert!(one.follow(&watch.next().await.expect("an event")));
    assert_eq!(one.refusal(), Some(FleetError::NoRecord { fleet: one.id() }));
    one.doubted().await;
    assert_eq!(one.vxlan_port().get(), 4790, "what was seen stands");
}
