//! The store as a whole: an operator makes it the fleet's, writes it into a file, and gives it back from there.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use uuid::{Uuid, uuid};

use super::error::{ControlError, ErrorCode};
use super::reads;
use super::views::{ExportedState, ImportedState, RebuildState, RebuiltState};
use crate::agent::belief::{Belief, ComeBack, Counts};
use crate::agent::shared::Shared;
use crate::model::{Network, NetworkId, counted};
use crate::store::fleet::Strange;
use crate::store::records::{self, FleetRecord};
use crate::store::{CommitError, Entry, FleetError, Key, Revision, Store as _, StoreError, Value, keys};

/// The version of a copy's form.
const VERSION: u32 = 1;
/// The namespace of the checksums.
const CHECKSUMS: Uuid = uuid!("6f0a54a1-0f0f-4ab2-9d75-7d1f2a0b9c3d");
/// How often what a store lacks is looked for while hosts write into it.
const MAX_ATTEMPTS: u32 = 10;

/// An operator's word that the store which the agent was given is the fleet's.
///
/// # Errors
/// When it is already, or holds what is not known to be the fleet's and nobody said that it may go.
pub(super) async fn rebuild(shared: &Shared, request: RebuildState) -> Result<RebuiltState, ControlError> {
    shared.host.state_dir.check()?;
    let survey = shared.fleet.survey(&shared.fleet.record().0, &known_networks(shared)).await?;
    let fleet = shared.fleet.id();
    if survey.is_ours {
        let epoch = shared.fleet.record().0.epoch;
        return Err(ControlError::new(
            ErrorCode::InvalidArgument,
            format!("there is nothing to rebuild: the store is that of fleet {fleet}, epoch {epoch}"),
            "`privnet status` shows what else is wrong",
        ));
    }
    let strange = survey.strange;
    if let Some(strange) = strange.filter(|strange| !request.yes && !request.dry_run && !strange.is_nothing()) {
        let remedy = match strange.fleet {
            Some(_) => {
                "give the agent the right store; `--yes` removes them, and makes this store that of this host's fleet"
            }
            None => {
                "run it on a host that has seen them; `--yes` keeps them, and makes this store that of this host's fleet"
            }
        };
        return Err(refuse_strange(&strange, remedy));
    }
    let epoch = survey.next_epoch;
    if !request.dry_run {
        shared.fleet.rebuild(survey).await?;
    }
    let Counts { networks, members, hosts } = shared.world.belief(Belief::counts);
    let removed = strange.filter(|strange| strange.fleet.is_some());
    Ok(RebuiltState {
        fleet,
        epoch,
        networks,
        members,
        hosts,
        removed_networks: removed.map_or(0, |removed| removed.networks),
        removed_members: removed.map_or(0, |removed| removed.members),
        done: !request.dry_run,
    })
}

/// What is known of the fleet's store: from the image, so that it does not matter whether the store answers.
pub(super) fn export(shared: &Shared) -> ExportedState {
    shared.world.belief(|belief| exported(shared, belief))
}

/// Closes the store, since the fleet moves to another one: what it held then.
///
/// # Errors
/// When the store is not the fleet's, or does not answer.
pub(super) async fn close(shared: &Shared) -> Result<ExportedState, ControlError> {
    shared.host.state_dir.check()?;
    let listing = shared.fleet.close().await?;
    let mut belief = shared.world.belief(Belief::clone);
    belief.compare(&listing, Instant::now());
    Ok(ExportedState { store_age_seconds: None, ..exported(shared, &belief) })
}

fn exported(shared: &Shared, belief: &Belief) -> ExportedState {
    let (_, record) = shared.fleet.record();
    let text = |value: &Value| String::from_utf8_lossy(value).into_owned();
    // A presence is held under a lease, which no copy can have.
    let kept = belief.records().filter(|(key, _)| key.below(&keys::presences()).is_none());
    let records: BTreeMap<String, String> = kept.map(|(key, value)| (key.to_string(), text(value))).collect();
    let fleet_record = text(&record);
    ExportedState {
        version: VERSION,
        fleet: shared.fleet.id(),
        checksum: checksum(&fleet_record, &records),
        fleet_record,
        exported_unix_seconds: crate::agent::now_unix_seconds(),
        store_age_seconds: reads::store_age_seconds(shared),
        records,
        lost_networks: false,
    }
}

/// Gives a store what a copy has and it lacks. An empty store, or one of the copy's fleet that it has moved away from, becomes
/// the fleet's.
///
/// # Errors
/// When the copy is damaged, or the store is another fleet's.
pub(super) async fn import(shared: &Shared, copy: ExportedState) -> Result<ImportedState, ControlError> {
    shared.host.state_dir.check()?;
    let mut record = parse(&copy)?;
    let saved = records_of(&copy)?;
    let fleet = &shared.fleet;
    if fleet.id() != record.id {
        let Counts { networks, members, .. } = shared.world.belief(Belief::counts);
        if networks + members > 0 || !shared.journal().records().is_empty() {
            return Err(ControlError::new(
                ErrorCode::InvalidArgument,
                format!("the copy is of fleet {}, and this host belongs to fleet {}", record.id, fleet.id()),
                "import it on a host of its fleet, or on one that has served none",
            ));
        }
    } else {
        record.epoch = record.epoch.max(fleet.record().0.epoch);
    }
    let mut known = known_networks(shared);
    known.extend(saved.keys().filter_map(|key| key.below(&keys::networks())?.parse::<NetworkId>().ok()));
    let survey = fleet.survey(&record, &known).await?;
    if survey.is_closed {
        return Err(StoreError::from(FleetError::Closed { fleet: record.id }).into());
    }
    if let Some(strange) = survey.strange.filter(|strange| !strange.is_nothing()) {
        return Err(refuse_strange(
            &strange,
            "give the agent the right store: a copy goes into an empty one, or its fleet's",
        ));
    }
    if fleet.id() != record.id {
        fleet.adopt(record);
    }
    if !survey.is_ours {
        fleet.rebuild(survey).await?;
    }
    let (mut written, mut come_back) = (0, None);
    for _ in 0..MAX_ATTEMPTS {
        let listing = fleet.list(&keys::everything()).await?;
        let come_back = *come_back.get_or_insert_with(|| ComeBack::of(&listing, copy.lost_networks));
        let import = shared.world.belief(|belief| belief.lacking(&listing, &saved, come_back))?;
        if import.transactions.is_empty() {
            let epoch = fleet.record().0.epoch;
            let passed_over = import.passed_over.iter().map(|id| named(*id, &saved)).collect();
            return Ok(ImportedState { fleet: fleet.id(), epoch, records: saved.len(), written, passed_over });
        }
        for transaction in import.transactions {
            let records = transaction.writes.len();
            match fleet.commit(transaction).await {
                Ok(_) => written += records,
                // A host puts back what is its own meanwhile.
                Err(CommitError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Err(ControlError::new(
        ErrorCode::StoreUnavailable,
        "the store changes all the time, and does not have all records of the copy yet",
        "import it again: what the store has is passed over",
    ))
}

/// A network of a copy, for a person.
fn named(network: NetworkId, saved: &BTreeMap<Key, Value>) -> String {
    let key = keys::network(network);
    let record = saved.get(&key).and_then(|value| records::decode::<Network>(&key, value).ok());
    record.map_or_else(|| network.to_string(), |record| format!("{} ({network})", record.name))
}

fn parse(copy: &ExportedState) -> Result<FleetRecord, ControlError> {
    if copy.version != VERSION {
        return Err(ControlError::new(
            ErrorCode::InvalidArgument,
            format!("the copy is of version {}, and this agent reads version {VERSION}", copy.version),
            "import it with the build that wrote it",
        ));
    }
    if copy.checksum != checksum(&copy.fleet_record, &copy.records) {
        return Err(damaged("its checksum is that of another one"));
    }
    let value = copy.fleet_record.as_bytes().into();
    let entry = Entry { key: keys::fleet(), value, revision: Revision::default(), lease: None };
    let record = records::read::<FleetRecord>(&entry).map_err(|error| damaged(&error.to_string()))?.record;
    if record.id == copy.fleet { Ok(record) } else { Err(damaged("its record is that of another fleet")) }
}

fn damaged(detail: &str) -> ControlError {
    ControlError::new(ErrorCode::InvalidArgument, format!("the copy is damaged: {detail}"), "use another copy")
}

fn records_of(copy: &ExportedState) -> Result<BTreeMap<Key, Value>, ControlError> {
    let record = |(key, text): (&String, &String)| {
        let key = key.parse::<Key>().map_err(|error| damaged(&error.to_string()))?;
        Ok((key, text.as_bytes().into()))
    };
    copy.records.iter().map(record).collect()
}

/// It finds what a disk does to a file, not what an attacker does, who has the file then.
fn checksum(fleet_record: &str, records: &BTreeMap<String, String>) -> String {
    let lines = records.iter().map(|(key, text)| format!("{key} {text}\n"));
    let all: String = std::iter::once(format!("{fleet_record}\n")).chain(lines).collect();
    Uuid::new_v5(&CHECKSUMS, all.as_bytes()).to_string()
}

fn known_networks(shared: &Shared) -> BTreeSet<NetworkId> {
    shared.world(|world| world.networks().keys().copied().collect())
}

impl Strange {
    fn counted(&self) -> String {
        format!("{} and {}", counted(self.networks, "network"), counted(self.members, "member"))
    }
}

fn refuse_strange(strange: &Strange, remedy: &str) -> ControlError {
    let message = match strange.fleet {
        Some(fleet) => format!("the store is that of fleet {fleet}, which has {} in it", strange.counted()),
        None => format!("the store has {}, and none of the networks is known to be the fleet's", strange.counted()),
    };
    ControlError::new(ErrorCode::InvalidArgument, message, remedy)
}
