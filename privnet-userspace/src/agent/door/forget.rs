//! `host forget` and `host drain`: an operator's word that a host is gone for ever, or is to be emptied.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::ends::ENDS_UNASKED;
use super::error::{ControlError, ErrorCode};
use super::views::{DrainHost, DrainedHost, ForgetHost, ForgottenHost};
use crate::agent::shared::{Shared, UNTIL_SEEN};
use crate::agent::world::World;
use crate::model::{HostName, Member, counted};
use crate::store::claims::{self, Forgetting, Forgotten};
use crate::store::records::{self, DrainRecord, Envelope};
use crate::store::{CommitError, Expected, Transaction, keys};

/// How long the owners of a host's containers have to stop them, unless a request says otherwise.
const DRAIN_PATIENCE: Duration = Duration::from_secs(60);
/// How often a record is written while others write it too.
const MAX_ATTEMPTS: u32 = 100;

/// Forgets a host with its members, by marks that every host obeys, also that one.
pub(super) async fn forget(shared: &Shared, request: ForgetHost) -> Result<ForgottenHost, ControlError> {
    let host: HostName = request.host.parse()?;
    let own = &shared.host.config.host;
    if host == *own {
        let message = format!("{host} is this host");
        return Err(ControlError::new(ErrorCode::InvalidArgument, message, "forget it on another host"));
    }
    let (members, was_told, was_forgotten) = shared.world(|world| {
        let members: Vec<Arc<Member>> = world.members_on(&host).cloned().collect();
        (members, world.hosts().any(|known| known.name == host), world.was_forgotten(&host))
    });
    if members.is_empty() && !was_told {
        return if was_forgotten { Ok(ForgottenHost { members_ended: 0 }) } else { Err(no_host(&host)) };
    }
    let count = members.len();
    if count > ENDS_UNASKED && !request.yes {
        return Err(ControlError::new(
            ErrorCode::InvalidArgument,
            format!("{} of host {host} would end: {}", counted(count, "member"), claims::some_of(&members)),
            "repeat it with --yes to end them all",
        ));
    }
    let wish = Forgetting {
        host: host.clone(),
        instances: members.iter().filter_map(|member| member.instance).collect(),
        is_forced: request.force,
        by: own.clone(),
        at_unix_seconds: crate::agent::now_unix_seconds(),
    };
    let instances = match claims::forget_host(&*shared.store, &wish).await? {
        Forgotten::Instances(instances) => instances,
        Forgotten::IsThere => return Err(is_there(&host)),
        Forgotten::NoInstance => {
            return Err(ControlError::new(
                ErrorCode::Unsupported,
                format!("the agent of host {host} is of a build that does not tell which state directory it has"),
                "end its members one by one: `privnet detach --number N --force`",
            ));
        }
    };
    let is_over = |world: &World| {
        world.members_on(&host).next().is_none() && instances.iter().all(|it| world.instance_mark(*it).is_some())
    };
    shared.world.wait_until(UNTIL_SEEN, is_over).await;
    let instances: BTreeSet<String> = instances.iter().map(ToString::to_string).collect();
    let instances = instances.into_iter().collect::<Vec<_>>().join(", ");
    tracing::info!("host {host} is forgotten, whose agent was {instances}: {} of it ended", counted(count, "member"));
    Ok(ForgottenHost { members_ended: count as u64 })
}

/// Empties a host, or takes that back: its members lose their names, nothing is attached there, and their owners have some time
/// to stop them.
pub(super) async fn drain(shared: &Shared, request: DrainHost) -> Result<DrainedHost, ControlError> {
    let host: HostName = request.host.parse()?;
    let is_known = |world: &World| world.hosts().any(|known| known.name == host);
    if !shared.world(is_known) {
        return Err(no_host(&host));
    }
    let draining = !request.cancel;
    tell_drain(shared, &host, draining).await?;
    shared.world.wait_until(UNTIL_SEEN, |world| world.is_draining(&host) == draining).await;
    let left = |world: &World| world.members_on(&host).count();
    if draining {
        let patience = request.wait_seconds.map_or(DRAIN_PATIENCE, Duration::from_secs);
        shared.world.wait_until(patience, |world| left(world) == 0).await;
    }
    Ok(DrainedHost { members_left: shared.world(left) as u64 })
}

async fn tell_drain(shared: &Shared, host: &HostName, draining: bool) -> Result<(), ControlError> {
    let key = keys::drain(host);
    for _ in 0..MAX_ATTEMPTS {
        let entry = shared.store.get(&key).await?;
        let before = entry.as_ref().map(records::read::<DrainRecord>).transpose()?;
        let was_draining = before.as_ref().is_some_and(|before| before.record.draining);
        if was_draining == draining {
            return Ok(());
        }
        let seen = shared.world.belief(|belief| belief.serial(&key));
        let envelope = before.map_or_else(Envelope::first, |before| before.envelope.next()).above(seen);
        let (by, at_unix_seconds) = (shared.host.config.host.clone(), crate::agent::now_unix_seconds());
        let record = DrainRecord { host: host.clone(), draining, by, at_unix_seconds };
        let expected = entry.map_or(Expected::Absent, |entry| Expected::Revision(entry.revision));
        let telling = Transaction::new()
            .require(key.clone(), expected)
            .require(keys::host(host), Expected::Exists)
            .put(key.clone(), records::encode(&record, &envelope));
        match shared.store.commit(telling).await {
            Ok(_) => {
                let what = if draining { "is drained" } else { "is drained no more" };
                tracing::info!("host {host} {what}");
                return Ok(());
            }
            Err(CommitError::Conflict { key, .. }) if key == keys::host(host) => return Err(no_host(host)),
            Err(CommitError::Conflict { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let message = format!("too many hosts drain {host} at the same time");
    Err(ControlError::new(ErrorCode::StoreUnavailable, message, "try again"))
}

fn no_host(host: &HostName) -> ControlError {
    let remedy = "`privnet hosts` shows those that are";
    ControlError::new(ErrorCode::InvalidArgument, format!("host {host} is not in the store"), remedy)
}

fn is_there(host: &HostName) -> ControlError {
    ControlError::new(
        ErrorCode::InvalidArgument,
        format!("the agent of host {host} is there: the lease of its presence lives, up to 300 s after its end"),
        format!("`privnet host drain {host}` empties a host that lives; `--force` forgets one whose machine is gone"),
    )
}
