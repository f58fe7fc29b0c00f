//! What can be read of the path from outside: counters, interfaces, sockets.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use privnet::agent::views::NetworkCounters;
use privnet::datapath::{Direction, Outcome};
use privnet::link::Links;
use privnet::netns::Netns;
use privnet::topology::ownership;
use privnet_ebpf::net::MacAddr;

use crate::lab::{Container, Lab};

/// How long a counter may take to arrive at its value.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often to look whether it has.
const GLANCE: Duration = Duration::from_millis(5);

/// What one interface counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Frames received.
    pub received: u64,
    /// Frames sent.
    pub sent: u64,
    /// Frames that it was given and did not send.
    pub dropped: u64,
}

/// Everything countable of a container's network on its host, at one moment.
#[derive(Clone, Debug)]
pub struct Counted {
    rows: BTreeMap<(String, Direction, Outcome), u64>,
    interfaces: BTreeMap<String, Traffic>,
    /// The container's own link in the network netns.
    veth: Option<String>,
}

impl Counted {
    /// Reads the counters of `container`'s network on its host.
    ///
    /// # Errors
    /// When they cannot be read.
    pub async fn read(lab: &Lab, container: &Container) -> Result<Self> {
        let host = &lab.hosts[container.host];
        let all = host.control.counters().await;
        let own = all.into_iter().filter(|counters| counters.network == container.member.network);
        let rows = own.flat_map(|NetworkCounters { rows, .. }| rows);
        let rows = rows.map(|row| ((row.member, row.direction, row.outcome), row.packets)).collect();
        let netns = network_netns(lab, container)?;
        let text = netns.run(|| fs::read_to_string("/proc/thread-self/net/dev")).await?;
        let interfaces = interfaces(&text.context("reading the interfaces' counters")?);
        let near_end = container.mac().near_end();
        let links = Links::open(&netns).await?.links().await?;
        let veth = links.into_iter().find(|link| link.mac == Some(near_end)).map(|link| link.name);
        Ok(Self { rows, interfaces, veth })
    }

    /// How many frames of a member had this outcome; of the eBPF programs.
    #[must_use]
    pub fn packets(&self, container: &Container, direction: Direction, outcome: Outcome) -> u64 {
        let key = (container.name(), direction, outcome);
        self.rows.get(&key).copied().unwrap_or_default()
    }

    /// What the container's own link in the network netns counted.
    #[must_use]
    pub fn veth(&self) -> Traffic {
        self.veth.as_deref().map(|veth| self.traffic(veth)).unwrap_or_default()
    }

    /// What an interface of the network netns counted.
    #[must_use]
    pub fn traffic(&self, interface: &str) -> Traffic {
        self.interfaces.get(interface).copied().unwrap_or_default()
    }
}

/// Behind which VTEP the network of `container` has a MAC, by the FDB of `vxlan0` on its host.
///
/// # Errors
/// When the FDB cannot be read.
pub async fn fdb_destination(lab: &Lab, container: &Container, mac: MacAddr) -> Result<Option<Ipv4Addr>> {
    let links = Links::open(&network_netns(lab, container)?).await?;
    let rows = links.fdb(links.link("vxlan0").await?.index).await?;
    // The bridge's own row, without a destination, says only that the MAC is behind vxlan0.
    Ok(rows.iter().filter(|row| row.mac == mac).find_map(|row| row.destination))
}

/// A destination as a fact.
#[must_use]
pub fn named(destination: Option<Ipv4Addr>) -> String {
    destination.map_or_else(|| "nothing".to_owned(), |destination| destination.to_string())
}

fn network_netns(lab: &Lab, container: &Container) -> Result<Netns> {
    let config = &lab.hosts[container.host].config;
    let name = ownership::network_netns(&config.netns_prefix, container.member.network);
    Ok(Netns::open(&config.netns_path(&name))?)
}

/// What happened between two moments, as one fact: `7 -> 12 (+5)`.
#[must_use]
pub fn rise(before: u64, after: u64) -> String {
    format!("{before} -> {after} (+{})", after.saturating_sub(before))
}

/// Reads the counters until they satisfy `enough`, or the time ends; the last ones are returned.
///
/// # Errors
/// When they cannot be read.
pub async fn counted_until(lab: &Lab, container: &Container, enough: impl Fn(&Counted) -> bool) -> Result<Counted> {
    let start = Instant::now();
    loop {
        let counted = Counted::read(lab, container).await?;
        if enough(&counted) || start.elapsed() > PATIENCE {
            return Ok(counted);
        }
        tokio::time::sleep(GLANCE).await;
    }
}

/// The ports of the UDP sockets of a namespace, IPv4.
///
/// # Errors
/// When they cannot be read.
pub async fn udp_ports(netns: &Netns) -> Result<Vec<u16>> {
    let text = netns.run(|| fs::read_to_string("/proc/thread-self/net/udp")).await?;
    Ok(ports(&text.context("reading the UDP sockets")?))
}

/// Reads `/proc/net/dev`: two lines of header; then per interface 8 figures received and 8 sent.
fn interfaces(text: &str) -> BTreeMap<String, Traffic> {
    let line = |line: &str| {
        let (name, figures) = line.split_once(':')?;
        let figures: Vec<u64> = figures.split_whitespace().filter_map(|figure| figure.parse().ok()).collect();
        let traffic = Traffic { received: *figures.get(1)?, sent: *figures.get(9)?, dropped: *figures.get(11)? };
        Some((name.trim().to_owned(), traffic))
    };
    text.lines().skip(2).filter_map(line).collect()
}

/// Reads `/proc/net/udp`: a line of header; then per socket its local address, in hexadecimal, in the second column.
fn ports(text: &str) -> Vec<u16> {
    let port = |line: &str| {
        let (_, port) = line.split_whitespace().nth(1)?.split_once(':')?;
        u16::from_str_radix(port, 16).ok()
    };
    text.lines().skip(1).filter_map(port).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_tables_are_read() {
        let dev = "Inter-|   Receive  |  Transmit\n face |bytes packets errs drop fifo frame compressed multicast|bytes\n\
                   vxlan0:     840       6    0    0    0     0          0         0     1234       7    0    2    0 0 0 0\n";
        let expected = Traffic { received: 6, sent: 7, dropped: 2 };
        assert_eq!(interfaces(dev), BTreeMap::from([("vxlan0".to_owned(), expected)]));
        let udp = "  sl  local_address rem_address   st\n  12: 00000000:CA6C 00000000:0000 07 00000000:00000000\n";
        assert_eq!(ports(udp), [51820]);
        assert_eq!(ports(""), Vec::<u16>::new());
    }
}
