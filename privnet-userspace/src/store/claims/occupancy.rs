//! Which numbers and addresses of a network are given out, as far as somebody has seen; and what the next member gets.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use super::claim::MemberClaim;
use super::error::MemberError;
use crate::ipam;
use crate::model::ids::ContainerNumber;
use crate::model::{AppId, ContainerRef, ContainerType, Network, NetworkId};
use crate::store::contract::Store;
use crate::store::keys;
use crate::store::records::{self, AddressRecord, Stored};

/// What a claim chooses from. It may be older than the store: the transaction decides.
pub trait Seen: Send + Sync {
    /// Chooses a number and an address, beside what was found since to be taken.
    ///
    /// # Errors
    /// When there is none, or the network is not known. The store is asked before a claim fails by that.
    fn choose(&self, claim: &MemberClaim, found: &Found) -> Result<Choice, MemberError>;
}

/// What a claim has chosen.
#[derive(Clone, Debug)]
pub struct Choice {
    /// The container.
    pub container: ContainerRef,
    /// The address.
    pub address: Ipv4Addr,
    /// The record of the address; nothing when nobody ever held it.
    pub row: Option<Stored<AddressRecord>>,
}

/// What a claim found in the store while it was tried, newer than what was seen before.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Numbers of the claim's app and type that are taken.
    pub numbers: BTreeSet<u32>,
    /// The records of addresses; nothing where there is none.
    pub rows: BTreeMap<Ipv4Addr, Option<Stored<AddressRecord>>>,
}

/// Nothing has been seen: the store is asked.
#[derive(Clone, Copy, Debug)]
pub struct NothingSeen;

impl Seen for NothingSeen {
    fn choose(&self, claim: &MemberClaim, _: &Found) -> Result<Choice, MemberError> {
        Err(MemberError::NetworkNotFound { id: claim.network })
    }
}

/// The numbers and the addresses of one network.
#[derive(Clone, Debug, Default)]
pub struct Occupancy {
    numbers: BTreeMap<(AppId, ContainerType), BTreeSet<u32>>,
    rows: BTreeMap<Ipv4Addr, Stored<AddressRecord>>,
}

impl Occupancy {
    /// Notes that a container is a member.
    pub fn put_container(&mut self, container: &ContainerRef) {
        self.numbers.entry((container.app, container.kind.clone())).or_default().insert(container.number.get());
    }

    /// Notes that a container is a member no more.
    pub fn remove_container(&mut self, container: &ContainerRef) {
        let key = (container.app, container.kind.clone());
        if let Some(numbers) = self.numbers.get_mut(&key) {
            numbers.remove(&container.number.get());
            if numbers.is_empty() {
                self.numbers.remove(&key);
            }
        }
    }

    /// Notes the record of an address.
    pub fn put_row(&mut self, address: Ipv4Addr, row: Stored<AddressRecord>) {
        self.rows.insert(address, row);
    }

    /// Notes that the record of an address is gone.
    pub fn remove_row(&mut self, address: Ipv4Addr) {
        self.rows.remove(&address);
    }

    /// Chooses for a claim of a member of `network`; see [`Seen::choose`].
    ///
    /// # Errors
    /// When all numbers or all addresses are given out.
    pub fn choose(&self, network: &Network, claim: &MemberClaim, found: &Found) -> Result<Choice, MemberError> {
        let number = match claim.number {
            Some(number) => number,
            None => self
                .free_number(claim, found)
                .ok_or_else(|| MemberError::NumbersExhausted { app: claim.app, kind: claim.kind.clone() })?,
        };
        let container = ContainerRef { app: claim.app, kind: claim.kind.clone(), number };
        let (address, row) = match claim.address {
            Some(address) => {
                ipam::check_address(network.subnet, address)?;
                (address, self.row(address, found).cloned())
            }
            None => self.free_address(network, claim.now_unix_seconds, found)?,
        };
        Ok(Choice { container, address, row })
    }

    fn free_number(&self, claim: &MemberClaim, found: &Found) -> Option<ContainerNumber> {
        let taken = self.numbers.get(&(claim.app, claim.kind.clone()));
        let is_free =
            |number: &u32| !found.numbers.contains(number) && taken.is_none_or(|taken| !taken.contains(number));
        (ContainerNumber::FIRST.get()..=ContainerNumber::MAX.get()).find(is_free)?.try_into().ok()
    }

    /// An address that nobody ever had, the lowest first; else the one that has been free for longest and has rested.
    fn free_address(
        &self,
        network: &Network,
        now_unix_seconds: u64,
        found: &Found,
    ) -> Result<(Ipv4Addr, Option<Stored<AddressRecord>>), MemberError> {
        let newer = found.rows.iter().filter_map(|(address, row)| Some((*address, row.as_ref()?)));
        let older = self.rows.iter().filter(|(address, _)| !found.rows.contains_key(address));
        let rows: BTreeMap<Ipv4Addr, &Stored<AddressRecord>> =
            older.map(|(address, row)| (*address, row)).chain(newer).collect();
        if let Some(address) = ipam::never_used(network.subnet, rows.keys().copied()) {
            return Ok((address, None));
        }
        let since = |row: &Stored<AddressRecord>| row.record.released_unix_seconds.unwrap_or_default();
        let mut released: Vec<(Ipv4Addr, u64)> = rows
            .iter()
            .filter(|(_, row)| row.record.holder.is_none())
            .map(|(address, row)| (*address, since(row)))
            .collect();
        let (used, unheld) = (rows.len() - released.len(), released.len());
        let rest = ipam::rest_seconds(network.names.ttl_seconds);
        released.retain(|(_, since)| ipam::has_rested(*since, now_unix_seconds, rest));
        let resting = unheld - released.len();
        let Some(address) = ipam::longest_released(network.subnet, released) else {
            let size = ipam::capacity(network.subnet) as usize;
            return Err(MemberError::PoolExhausted { subnet: network.subnet, used, size, resting });
        };
        Ok((address, rows.get(&address).map(|row| (*row).clone())))
    }

    fn row<'a>(&'a self, address: Ipv4Addr, found: &'a Found) -> Option<&'a Stored<AddressRecord>> {
        found.rows.get(&address).map_or_else(|| self.rows.get(&address), Option::as_ref)
    }
}

/// A network and its occupancy as the store has them.
pub(super) struct Read {
    network: Network,
    occupancy: Occupancy,
}

impl Read {
    /// Reads all of a network: what it costs follows its members, so that it comes after what has been seen has failed.
    pub(super) async fn from(store: &dyn Store, id: NetworkId) -> Result<Self, MemberError> {
        let network = records::get_network(store, id).await?.ok_or(MemberError::NetworkNotFound { id })?.record;
        let mut occupancy = Occupancy::default();
        let members = keys::members(id);
        for entry in store.list(&members).await?.entries {
            if let Some(container) = entry.key.below(&members).and_then(|text| text.parse().ok()) {
                occupancy.put_container(&container);
            }
        }
        for entry in store.list(&keys::addresses(id)).await?.entries {
            let (_, address, row) = records::address_from(&entry)?;
            occupancy.put_row(address, row);
        }
        Ok(Self { network, occupancy })
    }
}

impl Seen for Read {
    fn choose(&self, claim: &MemberClaim, found: &Found) -> Result<Choice, MemberError> {
        self.occupancy.choose(&self.network, claim, found)
    }
}
