//! The VTEP address of this host: which one it is where none is given, and that no other host of the store has it.
//!
//! Two hosts of one VTEP would each be sent the other's packets. So a host claims its address in the store, under the lease
//! of its presence. A host of the build before claims nothing: its record stands for the claim while it is there.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use anyhow::{Context as _, Result};
use uuid::Uuid;

use crate::agent::door::error::{ControlError, ErrorCode};
use crate::model::HostName;
use crate::netns::Netns;
use crate::store::records::{Envelope, PresenceRecord, VtepRecord};
use crate::store::{Expected, LeaseId, Store, Transaction, keys, records};

/// A claim that can be made, as far as the store says.
pub struct VtepClaim {
    vtep: Ipv4Addr,
    record: VtepRecord,
    envelope: Envelope,
    seen: Expected,
}

impl VtepClaim {
    /// Looks whether the address is free, or this agent's already.
    ///
    /// # Errors
    /// When another host has it, or the store does not answer.
    pub async fn look(store: &dyn Store, host: &HostName, instance: Uuid, vtep: Ipv4Addr) -> Result<Self> {
        let reading = || format!("claiming the VTEP address {vtep}");
        let entry = store.get(&keys::vtep(vtep)).await.with_context(reading)?;
        let before = entry.as_ref().map(records::read::<VtepRecord>).transpose()?;
        // An earlier agent of this host's name may have it: whether that lives is found out before.
        let is_anothers = |record: &VtepRecord| record.instance != instance && record.host != *host;
        if let Some(other) = before.as_ref().filter(|before| is_anothers(&before.record)) {
            return Err(is_taken(vtep, &other.record.host).into());
        }
        let hosts = store.list(&keys::hosts()).await.with_context(reading)?.entries;
        // One that cannot be read is one of none.
        for other in hosts.iter().filter_map(|entry| records::host_from(entry).ok()) {
            if other.vtep != vtep || other.name == *host {
                continue;
            }
            let presence = store.get(&keys::presence(&other.name)).await.with_context(reading)?;
            let presence = presence.as_ref().map(records::read::<PresenceRecord>).transpose()?;
            if presence.is_some_and(|presence| presence.record.instance != instance) {
                return Err(is_taken(vtep, &other.name).into());
            }
        }
        Ok(Self {
            vtep,
            record: VtepRecord { host: host.clone(), instance },
            envelope: before.map_or_else(Envelope::first, |before| before.envelope.next()),
            seen: entry.map_or(Expected::Absent, |entry| Expected::Revision(entry.revision)),
        })
    }

    /// Makes the claim a part of a transaction, for as long as the lease lives.
    #[must_use]
    pub fn made_by(&self, transaction: Transaction, lease: LeaseId) -> Transaction {
        let key = keys::vtep(self.vtep);
        transaction.require(key.clone(), self.seen).put_leased(
            key,
            records::encode(&self.record, &self.envelope),
            lease,
        )
    }
}

fn is_taken(vtep: Ipv4Addr, host: &HostName) -> ControlError {
    ControlError::new(
        ErrorCode::VtepConflict,
        format!("host {host} of this store has the VTEP address {vtep}"),
        format!(
            "give each host a --vtep of its own; if {host} is gone for ever, wait 300 s after the end of its last agent"
        ),
    )
}

/// The address of this host from which the endpoints of its store are reached; none where it is a loopback's, and theirs are
/// as well.
///
/// # Errors
/// When no endpoint can be reached from an IPv4 address, and the host has no default route either.
pub async fn toward(endpoints: &[String], netns: &Netns, has_default_route: bool) -> Result<Option<Ipv4Addr>> {
    let mut are_loopback = true;
    for endpoint in endpoints {
        let authority = endpoint.split_once("://").map_or(endpoint.as_str(), |(_, rest)| rest);
        let authority = authority.split('/').next().unwrap_or_default();
        let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let authority = if has_port { authority.to_owned() } else { format!("{authority}:2379") };
        // A name that does not resolve is one of an endpoint that is not reached either.
        let Ok(addresses) = tokio::net::lookup_host(authority).await else { continue };
        for address in addresses.filter(SocketAddr::is_ipv4) {
            are_loopback &= address.ip().is_loopback();
            if let Some(own) = source(netns, address).await?.filter(|own| !own.is_loopback()) {
                return Ok(Some(own));
            }
        }
    }
    if are_loopback || has_default_route {
        return Ok(None);
    }
    Err(ControlError::new(
        ErrorCode::InvalidArgument,
        format!(
            "no IPv4 address of this host leads to etcd at {}, and there is no default route",
            endpoints.join(", ")
        ),
        "give the agent --vtep ADDRESS, one that the other hosts can reach",
    )
    .into())
}

/// The address from which the kernel would send there; nothing where it has no route.
async fn source(netns: &Netns, there: SocketAddr) -> Result<Option<Ipv4Addr>> {
    let asked = netns.run(move || -> io::Result<SocketAddr> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        // Sends nothing.
        socket.connect(there)?;
        socket.local_addr()
    });
    Ok(match asked.await.context("asking for the way to etcd")? {
        Ok(address) => match address.ip() {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        },
        Err(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Memory;
    use crate::store::records::HostRecord;

    const OURS: Uuid = Uuid::from_u128(1);
    const THEIRS: Uuid = Uuid::from_u128(2);
    const VTEP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

    fn name(text: &str) -> HostName {
        text.parse().expect("a name")
    }

    async fn claim(store: &Memory, host: &str, instance: Uuid) -> Result<()> {
        let claim = VtepClaim::look(store, &name(host), instance, VTEP).await?;
        let lease = store.grant_lease(std::time::Duration::from_secs(300)).await?;
        store.commit(claim.made_by(Transaction::new(), lease)).await?;
        Ok(())
    }

    fn said(outcome: Result<()>) -> String {
        let error = outcome.expect_err("it is taken");
        let told = error.downcast_ref::<ControlError>().expect("said");
        assert_eq!(told.code, ErrorCode::VtepConflict);
        told.message.clone()
    }

    #[tokio::test]
    async fn an_address_that_another_host_has_is_refused_and_ones_own_is_not() {
        let store = Memory::new();
        claim(&store, "h1", OURS).await.expect("free");
        claim(&store, "h1", OURS).await.expect("its own");
        claim(&store, "h1-renamed", OURS).await.expect("its own, under another name");
        assert!(said(claim(&store, "h2", THEIRS).await).contains("host h1-renamed"));
        // Two that looked at the same time: the second one's transaction fails.
        let store = Memory::new();
        let late = VtepClaim::look(&store, &name("h2"), THEIRS, VTEP).await.expect("free");
        claim(&store, "h1", OURS).await.expect("free");
        let lease = store.grant_lease(std::time::Duration::from_secs(300)).await.expect("granted");
        store.commit(late.made_by(Transaction::new(), lease)).await.expect_err("taken meanwhile");
    }

    #[tokio::test]
    async fn a_host_of_the_build_before_is_respected_by_its_record_while_it_is_there() {
        let store = Memory::new();
        let record = HostRecord {
            name: name("old"),
            vtep: VTEP,
            agent_version: "0.1.0".to_owned(),
            applied_revision: 0,
            clock_steps: 0,
            instance: None,
        };
        let told = Transaction::new().put(keys::host(&name("old")), records::encode(&record, &Envelope::first()));
        store.commit(told).await.expect("told");
        VtepClaim::look(&store, &name("h1"), OURS, VTEP).await.map(drop).expect("it is gone");
        let presence = PresenceRecord {
            instance: THEIRS,
            machine: None,
            boot: None,
            fleet: None,
            answers: false,
            asked: None,
            since_unix_seconds: None,
        };
        let heard =
            Transaction::new().put(keys::presence(&name("old")), records::encode(&presence, &Envelope::first()));
        store.commit(heard).await.expect("heard");
        let refused = VtepClaim::look(&store, &name("h1"), OURS, VTEP).await.map(drop);
        assert!(said(refused).contains("host old"));
        VtepClaim::look(&store, &name("h1"), OURS, Ipv4Addr::new(192, 0, 2, 9))
            .await
            .map(drop)
            .expect("another address");
    }

    #[tokio::test]
    async fn a_store_on_the_loopback_says_nothing_of_the_underlay() {
        let netns = Netns::current().expect("its own");
        for endpoint in ["http://127.0.0.1:2379", "http://127.0.0.1", "https://localhost:2379/"] {
            assert_eq!(toward(&[endpoint.to_owned()], &netns, false).await.expect("no matter"), None, "{endpoint}");
        }
        let nowhere = ["http://256.0.0.1:2379".to_owned()];
        assert_eq!(toward(&nowhere, &netns, true).await.expect("the default route's"), None);
    }
}
