//! Which numbers and addresses of a network are given out, as far as somebody has seen; and what the next member gets.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use super::claim::{MemberClaim, NameWish};
use super::error::MemberError;
use crate::ipam;
use crate::model::ids::ContainerNumber;
use crate::model::{AppId, ContainerRef, ContainerType, Member, Network, NetworkId};
use crate::store::contract::Store;
use crate::store::keys;
use crate::store::records::{self, AddressRecord, MAX_RISE, Stored};
use crate::store::transaction::{Expected, Revision};

/// What a claim chooses from. It may be older than the store: the transaction decides.
pub trait Seen: Send + Sync {
    /// Chooses a number and an address, beside what was found since to be taken.
    ///
    /// # Errors
    /// When there is none, or the network is not known. The store is asked before a claim fails by that.
    fn choose(&self, claim: &MemberClaim, found: &Found) -> Result<Choice, MemberError>;

    /// Chooses a number for a further name of a member of `network`, beside what was found since to be taken.
    ///
    /// # Errors
    /// When there is none, or the network is not known. The store is asked before a claim fails by that.
    fn choose_name(&self, network: NetworkId, wish: &NameWish, found: &Found) -> Result<ContainerRef, MemberError>;

    /// The members of a network that were seen, and of which no end was.
    fn members(&self, network: NetworkId) -> Vec<Arc<Member>> {
        let _ = network;
        Vec::new()
    }

    /// The member that was seen to have a name, and of which no end was.
    fn holder(&self, network: NetworkId, name: &ContainerRef) -> Option<Arc<Member>> {
        self.members(network).into_iter().find(|member| member.name(name).is_some())
    }

    /// The highest records that were seen of the addresses of a network.
    fn rows(&self, network: NetworkId) -> Vec<(Ipv4Addr, Stored<AddressRecord>)> {
        let _ = network;
        Vec::new()
    }

    /// The highest record that was seen of an address.
    fn row(&self, network: NetworkId, address: Ipv4Addr) -> Option<Stored<AddressRecord>> {
        self.rows(network).into_iter().find(|(known, _)| *known == address).map(|(_, row)| row)
    }
}

/// The later of two records of an address: what was seen, and what the store has. A number that rose absurdly is damage.
pub(super) fn later<'a>(
    seen: Option<&'a Stored<AddressRecord>>,
    found: Option<&'a Stored<AddressRecord>>,
) -> Option<&'a Stored<AddressRecord>> {
    let number = |row: &Stored<AddressRecord>| (row.record.count, row.envelope.serial);
    let is_damaged = |seen: &Stored<AddressRecord>, found: &Stored<AddressRecord>| {
        let rises = |seen: u64, found: u64| found.saturating_sub(seen) > MAX_RISE;
        rises(seen.record.count, found.record.count) || rises(seen.envelope.serial, found.envelope.serial)
    };
    match (seen, found) {
        (Some(seen), Some(found)) if number(seen) > number(found) || is_damaged(seen, found) => Some(seen),
        (Some(seen), None) => Some(seen),
        (_, found) => found,
    }
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
    /// What the store has of it: it may have lost the record, or have an earlier one.
    pub expected: Expected,
}

/// What a claim found in the store while it was tried, newer than what was seen before.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Numbers of the claim's app and type that are taken.
    pub numbers: BTreeSet<ContainerNumber>,
    /// Further names whose pointer leads to no member that has them, and the pointer's revision: they are free.
    pub abandoned: BTreeMap<ContainerRef, Revision>,
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

    fn choose_name(&self, network: NetworkId, _: &NameWish, _: &Found) -> Result<ContainerRef, MemberError> {
        Err(MemberError::NetworkNotFound { id: network })
    }
}

/// The numbers and the addresses of one network.
#[derive(Clone, Debug, Default)]
pub struct Occupancy {
    numbers: BTreeMap<(AppId, ContainerType), BTreeSet<ContainerNumber>>,
    rows: BTreeMap<Ipv4Addr, Stored<AddressRecord>>,
}

impl Occupancy {
    /// Notes all names of a member.
    pub fn put_member(&mut self, member: &Member) {
        for name in member.each_name() {
            self.put_name(name.container);
        }
    }

    /// Notes that a member has left, and its names with it.
    pub fn remove_member(&mut self, member: &Member) {
        for ContainerRef { app, kind, number } in member.each_name().map(|name| name.container) {
            let key = (*app, kind.clone());
            if let Some(numbers) = self.numbers.get_mut(&key) {
                numbers.remove(number);
                if numbers.is_empty() {
                    self.numbers.remove(&key);
                }
            }
        }
    }

    /// The numbers that are given out for an app and a type.
    pub fn numbers(&self, app: AppId, kind: &ContainerType) -> impl Iterator<Item = ContainerNumber> + '_ {
        self.numbers.get(&(app, kind.clone())).into_iter().flatten().copied()
    }

    fn put_name(&mut self, container: &ContainerRef) {
        self.numbers.entry((container.app, container.kind.clone())).or_default().insert(container.number);
    }

    /// Notes the record of an address.
    pub fn put_row(&mut self, address: Ipv4Addr, row: Stored<AddressRecord>) {
        self.rows.insert(address, row);
    }

    /// The records of all addresses.
    #[must_use]
    pub fn rows(&self) -> Vec<(Ipv4Addr, Stored<AddressRecord>)> {
        self.rows.iter().map(|(address, row)| (*address, row.clone())).collect()
    }

    /// The record of an address.
    #[must_use]
    pub fn known_row(&self, address: Ipv4Addr) -> Option<&Stored<AddressRecord>> {
        self.rows.get(&address)
    }

    /// Notes that the record of an address is gone.
    pub fn remove_row(&mut self, address: Ipv4Addr) {
        self.rows.remove(&address);
    }

    /// Whether nothing is given out, nor ever was.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.numbers.is_empty() && self.rows.is_empty()
    }

    /// Chooses for a claim of a member of `network`; see [`Seen::choose`].
    ///
    /// # Errors
    /// When all numbers or all addresses are given out.
    pub fn choose(&self, network: &Network, claim: &MemberClaim, found: &Found) -> Result<Choice, MemberError> {
        let container = self.choose_name(&claim.name, found)?;
        let (address, row) = match claim.address {
            Some(address) => {
                ipam::check_address(network.subnet, address)?;
                (address, self.row(address, found).cloned())
            }
            None => self.free_address(network, claim.now_unix_seconds, found)?,
        };
        let stored = match found.rows.get(&address) {
            Some(found) => found.as_ref(),
            None => row.as_ref(),
        };
        let expected = stored.map_or(Expected::Absent, |row| Expected::Revision(row.revision));
        Ok(Choice { container, address, row, expected })
    }

    /// The name that a container gets; see [`NameWish::number`].
    ///
    /// # Errors
    /// When all numbers are given out.
    pub fn choose_name(&self, wish: &NameWish, found: &Found) -> Result<ContainerRef, MemberError> {
        let NameWish { app, kind, number, own, elsewhere, .. } = wish;
        let taken = self.numbers.get(&(*app, kind.clone()));
        let is_free = |number: &ContainerNumber| {
            !found.numbers.contains(number) && taken.is_none_or(|taken| !taken.contains(number))
        };
        let lowest = || {
            (ContainerNumber::FIRST.get()..=ContainerNumber::MAX.get())
                .filter_map(|number| ContainerNumber::try_from(number).ok())
                .find(|number| is_free(number) && !elsewhere.contains(number))
        };
        let number = number.or_else(|| own.iter().copied().find(is_free)).or_else(lowest);
        let exhausted = || MemberError::NumbersExhausted { app: *app, kind: kind.clone() };
        Ok(ContainerRef { app: *app, kind: kind.clone(), number: number.ok_or_else(exhausted)? })
    }

    /// An address that nobody ever had, the lowest first; else the one that has been free for longest and has rested.
    fn free_address(
        &self,
        network: &Network,
        now_unix_seconds: u64,
        found: &Found,
    ) -> Result<(Ipv4Addr, Option<Stored<AddressRecord>>), MemberError> {
        let addresses = self.rows.keys().chain(found.rows.keys()).copied();
        let rows: BTreeMap<Ipv4Addr, &Stored<AddressRecord>> =
            addresses.filter_map(|address| Some((address, self.row(address, found)?))).collect();
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
        let seen = self.rows.get(&address);
        found.rows.get(&address).map_or(seen, |found| later(seen, found.as_ref()))
    }
}

/// A network and its occupancy as the store has them, and what was seen that it has lost.
pub(super) struct Read {
    network: Network,
    occupancy: Occupancy,
    /// What the store has of the addresses of which a later record was seen.
    lost: BTreeMap<Ipv4Addr, Option<Stored<AddressRecord>>>,
}

impl Read {
    /// Reads all of a network: what it costs follows its members, so that it comes after what has been seen has failed.
    pub(super) async fn from(store: &dyn Store, id: NetworkId, seen: &dyn Seen) -> Result<Self, MemberError> {
        let network = records::get_network(store, id).await?.ok_or(MemberError::NetworkNotFound { id })?.record;
        let mut occupancy = Occupancy::default();
        for names in [keys::members(id), keys::member_names(id)] {
            for entry in store.list(&names).await?.entries {
                if let Some(container) = entry.key.below(&names).and_then(|text| text.parse().ok()) {
                    occupancy.put_name(&container);
                }
            }
        }
        for entry in store.list(&keys::addresses(id)).await?.entries {
            let (_, address, row) = records::address_from(&entry)?;
            occupancy.put_row(address, row);
        }
        let mut lost = BTreeMap::new();
        for (address, row) in seen.rows(id) {
            let stored = occupancy.rows.get(&address).cloned();
            if later(Some(&row), stored.as_ref()) != stored.as_ref() {
                lost.insert(address, stored);
                occupancy.put_row(address, row);
            }
        }
        let ends = |member: &Member| {
            let row = occupancy.rows.get(&member.address);
            row.is_some_and(|row| row.record.holder.is_none() || !row.record.goes_on(member.id))
        };
        let living: Vec<Arc<Member>> = seen.members(id).into_iter().filter(|member| !ends(member)).collect();
        for member in living {
            occupancy.put_member(&member);
        }
        Ok(Self { network, occupancy, lost })
    }
}

impl Seen for Read {
    fn choose(&self, claim: &MemberClaim, found: &Found) -> Result<Choice, MemberError> {
        let mut found = found.clone();
        for (address, stored) in &self.lost {
            found.rows.entry(*address).or_insert_with(|| stored.clone());
        }
        self.occupancy.choose(&self.network, claim, &found)
    }

    fn choose_name(&self, _: NetworkId, wish: &NameWish, found: &Found) -> Result<ContainerRef, MemberError> {
        self.occupancy.choose_name(wish, found)
    }
}
