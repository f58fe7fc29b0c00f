//! Forgetting a host: a mark for each instance of its agent, and what the host told of itself is deleted.

use std::collections::BTreeSet;

use uuid::Uuid;

use super::error::MemberError;
use super::{MAX_ATTEMPTS, unchanged};
use crate::model::HostName;
use crate::store::contract::Store;
use crate::store::error::CommitError;
use crate::store::keys;
use crate::store::records::{
    self, DrainRecord, Envelope, HostRecord, InstanceMark, PresenceRecord, Stored, VtepRecord,
};
use crate::store::transaction::{Expected, Transaction};

/// What became of the wish to forget a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Forgotten {
    /// These instances of its agent are marked.
    Instances(BTreeSet<Uuid>),
    /// Its agent is there: the lease of its presence lives.
    IsThere,
    /// Nothing says which instance its agent has: it is of a build that does not tell.
    NoInstance,
}

/// Who forgets a host, and how.
#[derive(Clone, Debug)]
pub struct Forgetting {
    /// The host that is forgotten.
    pub host: HostName,
    /// The instances that made the members which were seen of it.
    pub instances: BTreeSet<Uuid>,
    /// Also where the lease of its presence lives.
    pub is_forced: bool,
    /// The host at which the operator said so.
    pub by: HostName,
    /// When, in seconds since 1970-01-01 UTC.
    pub at_unix_seconds: u64,
}

/// Marks the instances that a host's agent had, deletes the host's record, presence and VTEP claim, and ends its drain, in one
/// transaction. A mark that stands stays as it is. The ends of its members follow from the marks; any host writes them.
///
/// # Errors
/// The store's, or that of a damaged record. Nothing was changed.
pub async fn forget_host(store: &dyn Store, wish: &Forgetting) -> Result<Forgotten, MemberError> {
    let Forgetting { host, by, .. } = wish;
    for _ in 0..MAX_ATTEMPTS {
        let presence = store.get(&keys::presence(host)).await?;
        if presence.is_some() && !wish.is_forced {
            return Ok(Forgotten::IsThere);
        }
        let told = store.get(&keys::host(host)).await?;
        let mut instances = wish.instances.clone();
        let record = told.as_ref().map(records::read::<HostRecord>).transpose()?.map(|stored| stored.record);
        instances.extend(record.as_ref().and_then(|record| record.instance));
        if let Some(presence) = &presence {
            instances.insert(records::read::<PresenceRecord>(presence)?.record.instance);
        }
        if instances.is_empty() {
            return Ok(Forgotten::NoInstance);
        }
        let mut forgetting = Transaction::new()
            .require(keys::presence(host), unchanged(presence.as_ref()))
            .require(keys::host(host), unchanged(told.as_ref()))
            .delete(keys::presence(host))
            .delete(keys::host(host));
        // Not deleted: the host would take that for the store's loss when it is back.
        if let Some(entry) = store.get(&keys::drain(host)).await?
            && let Stored { record, envelope, .. } = records::read::<DrainRecord>(&entry)?
            && record.draining
        {
            let (by, at_unix_seconds) = (by.clone(), wish.at_unix_seconds);
            let over = DrainRecord { draining: false, by, at_unix_seconds, ..record };
            forgetting = forgetting
                .require(entry.key.clone(), Expected::Revision(entry.revision))
                .put(entry.key, records::encode(&over, &envelope.next()));
        }
        if let Some(vtep) = record.map(|record| keys::vtep(record.vtep))
            && let Some(entry) = store.get(&vtep).await?
            && records::read::<VtepRecord>(&entry)?.record.host == *host
        {
            forgetting = forgetting.require(vtep.clone(), Expected::Revision(entry.revision)).delete(vtep);
        }
        for instance in &instances {
            let key = keys::instance_mark(*instance);
            if store.get(&key).await?.is_some() {
                continue;
            }
            let mark = InstanceMark {
                instance: *instance,
                host: host.clone(),
                by: by.clone(),
                at_unix_seconds: wish.at_unix_seconds,
            };
            forgetting =
                forgetting.require(key.clone(), Expected::Absent).put(key, records::encode(&mark, &Envelope::first()));
        }
        match store.commit(forgetting).await {
            Ok(_) => return Ok(Forgotten::Instances(instances)),
            Err(CommitError::Conflict { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(MemberError::Contended)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Key, Memory, Value};

    const INSTANCE: &str = "a71da13f-7c70-4c00-a644-eee8558d8053";

    fn wish(is_forced: bool) -> Forgetting {
        Forgetting {
            host: "h2".parse().expect("a host"),
            instances: BTreeSet::new(),
            is_forced,
            by: "h1".parse().expect("a host"),
            at_unix_seconds: 9,
        }
    }

    async fn store(records: &[(Key, String)]) -> Memory {
        let store = Memory::new();
        let all = records.iter().fold(Transaction::new(), |all, (key, text)| all.put(key.clone(), text.as_bytes()));
        store.commit(all).await.expect("written");
        store
    }

    #[tokio::test]
    async fn a_host_is_forgotten_once_its_lease_is_gone_or_by_force_and_leaves_its_mark() {
        let (host, other) = ("h2".parse().expect("a host"), "h3".parse().expect("a host"));
        let told = |name: &str| {
            let rest = r#""vtep":"192.0.2.2","agent_version":"0.1.0","applied_revision":0"#;
            format!(r#"{{"version":1,"serial":3,"name":"{name}",{rest},"instance":"{INSTANCE}"}}"#)
        };
        let presence = format!(r#"{{"version":1,"instance":"{INSTANCE}","boot":"one"}}"#);
        let drain = |draining| {
            format!(r#"{{"version":1,"serial":1,"host":"h2","draining":{draining},"by":"h1","at_unix_seconds":3}}"#)
        };
        let vtep = format!(r#"{{"version":1,"host":"h2","instance":"{INSTANCE}"}}"#);
        let all = [
            (keys::host(&host), told("h2")),
            (keys::presence(&host), presence),
            (keys::vtep([192, 0, 2, 2].into()), vtep),
            (keys::host(&other), told("h3")),
            (keys::drain(&host), drain(true)),
        ];
        let there = store(&all).await;
        assert_eq!(forget_host(&there, &wish(false)).await.expect("asked"), Forgotten::IsThere);
        assert_eq!(there.list(&keys::everything()).await.expect("listed").entries.len(), all.len(), "nothing changed");

        let instances = BTreeSet::from([INSTANCE.parse().expect("a UUID")]);
        assert_eq!(forget_host(&there, &wish(true)).await.expect("forced"), Forgotten::Instances(instances.clone()));
        let left = || async { there.list(&keys::everything()).await.expect("listed").entries };
        let before: Vec<(Key, Value)> = left().await.into_iter().map(|entry| (entry.key, entry.value)).collect();
        let names: Vec<String> = before.iter().map(|(key, _)| key.to_string()).collect();
        assert_eq!(names, ["drains/h2".to_owned(), "hosts/h3".to_owned(), format!("marks/instances/{INSTANCE}")]);
        let text = String::from_utf8_lossy(&before[0].1).into_owned();
        assert!(text.contains(r#""serial":2"#) && text.contains(r#""draining":false"#), "{text}");

        // Once more changes nothing of the mark; what only members tell is marked too.
        let again = Forgetting { instances, at_unix_seconds: 10, ..wish(false) };
        assert!(matches!(forget_host(&there, &again).await.expect("again"), Forgotten::Instances(_)));
        let after: Vec<(Key, Value)> = left().await.into_iter().map(|entry| (entry.key, entry.value)).collect();
        assert_eq!(after, before);
        assert_eq!(forget_host(&there, &wish(false)).await.expect("unknown"), Forgotten::NoInstance);
    }
}
