//! Typed reads and writes of the ports and members tables.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use aya::maps::{HashMap, MapData};
use privnet_ebpf::abi::{MemberRow, PortRow};
use privnet_ebpf::maps::{MAP_MEMBERS, MAP_PORTS};

use super::error::removed;
use super::plain::Plain;
use super::{Error, Network, counters};

impl Network {
    /// The rows of the members table, by address.
    ///
    /// # Errors
    /// [`Error::Map`] when the table cannot be read to its end.
    pub fn members(&self) -> Result<BTreeMap<Ipv4Addr, MemberRow>, Error> {
        let rows = read_all(&self.members, MAP_MEMBERS.name)?;
        Ok(rows.into_iter().map(|(address, row)| (Ipv4Addr::from(address), row)).collect())
    }

    /// Adds or replaces the row of the member at `address` in one step. A member of this host gets its counters first.
    ///
    /// # Errors
    /// [`Error::Full`] when the table or the counters have no room; [`Error::Map`] when the kernel refuses. The row
    /// is then as before.
    pub fn set_member(&mut self, address: Ipv4Addr, row: MemberRow) -> Result<(), Error> {
        let key = address.octets();
        let prepared = match row.ifindex() {
            Some(_) => counters::prepare(&mut self.counters, key),
            None => Ok(()),
        };
        let set = prepared.and_then(|()| {
            self.members.insert(key, Plain(row), 0).map_err(|error| Error::map("set", MAP_MEMBERS.name, address, error))
        });
        if set.is_err() && self.members.get(&key, 0).is_err() {
            // The address has no row, so its counters are removed, as far as the kernel allows.
            let _ = counters::forget(&mut self.counters, key);
        }
        set
    }

    /// Removes the row of the member at `address`, if it exists, and its counters.
    ///
    /// # Errors
    /// [`Error::Map`] when the kernel refuses.
    pub fn remove_member(&mut self, address: Ipv4Addr) -> Result<(), Error> {
        removed(self.members.remove(&address.octets()))
            .map_err(|error| Error::map("remove", MAP_MEMBERS.name, address, error))?;
        counters::forget(&mut self.counters, address.octets())
    }

    /// The rows of the ports table, by the index of the member's veth end in the network netns.
    ///
    /// # Errors
    /// [`Error::Map`] when the table cannot be read to its end.
    pub fn ports(&self) -> Result<BTreeMap<u32, PortRow>, Error> {
        Ok(read_all(&self.ports, MAP_PORTS.name)?.into_iter().collect())
    }

    /// Adds or replaces the row of the interface `ifindex` of the network netns: the member that sends there.
    ///
    /// # Errors
    /// [`Error::Full`] when the table has no room; [`Error::Map`] when the kernel refuses.
    pub fn set_port(&mut self, ifindex: u32, row: PortRow) -> Result<(), Error> {
        self.ports.insert(ifindex, Plain(row), 0).map_err(|error| Error::map("set", MAP_PORTS.name, ifindex, error))
    }

    /// Removes the row of the interface `ifindex`, if it exists: frames from there are dropped.
    ///
    /// # Errors
    /// [`Error::Map`] when the kernel refuses.
    pub fn remove_port(&mut self, ifindex: u32) -> Result<(), Error> {
        removed(self.ports.remove(&ifindex)).map_err(|error| Error::map("remove", MAP_PORTS.name, ifindex, error))
    }
}

fn read_all<K: aya::Pod + std::fmt::Debug, V: bytemuck::Pod>(
    map: &HashMap<MapData, K, Plain<V>>,
    name: &'static str,
) -> Result<Vec<(K, V)>, Error> {
    map.iter()
        .map(|entry| entry.map(|(key, row)| (key, row.0)).map_err(|error| Error::map("read", name, "", error)))
        .collect()
}
