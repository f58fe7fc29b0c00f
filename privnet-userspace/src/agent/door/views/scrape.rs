//! What one scrape of the metrics shows.

use std::collections::BTreeMap;

use super::StatusView;
use crate::datapath::{Direction, Outcome};
use crate::model::{NetworkId, NetworkName, published};

/// Everything that one scrape of the metrics shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scrape {
    /// The agent's state.
    pub status: StatusView,
    /// The counters of the networks whose counters could be read.
    pub counters: Vec<NetworkCounters>,
    /// The WireGuard figures of the members whose device could be read.
    pub tunnels: Vec<TunnelView>,
    /// How much does not work for each member of this host.
    pub problems: Vec<MemberProblems>,
    /// How many reads failed since the agent started, this scrape's included; every kind is in it.
    pub errors: BTreeMap<ScrapeErrorKind, u64>,
}

published! {
    /// What a scrape could not read.
    ScrapeErrorKind {
        /// The counters of a network.
        Counters "counters",
        /// The WireGuard device of a member.
        Wireguard "wireguard",
        /// The DNS process.
        Names "names",
    }
}

/// One network's counters on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkCounters {
    /// The network.
    pub network: NetworkId,
    /// The network's name.
    pub network_name: NetworkName,
    /// One row per member, direction and outcome that was ever counted.
    pub rows: Vec<CounterRow>,
}

/// One counter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CounterRow {
    /// The container, `<number>.<type>.<app>`; `unknown` for packets that no member of this host can be charged with.
    pub member: String,
    /// Sent by the member, or meant for it.
    pub direction: Direction,
    /// What became of the packets.
    pub outcome: Outcome,
    /// How many packets.
    pub packets: u64,
    /// Their bytes on the carrier, Ethernet header included.
    pub bytes: u64,
}

/// How much does not work for a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberProblems {
    /// The network's name.
    pub network_name: NetworkName,
    /// The network.
    pub network: NetworkId,
    /// The container, `<number>.<type>.<app>`.
    pub member: String,
    /// How many problems it has; `status` says which.
    pub count: u64,
}

/// One member's WireGuard figures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelView {
    /// The network's name.
    pub network_name: NetworkName,
    /// The network.
    pub network: NetworkId,
    /// The container, `<number>.<type>.<app>`.
    pub member: String,
    /// How many peers it has.
    pub peers: u64,
    /// Encrypted bytes received, all peers.
    pub received_bytes: u64,
    /// Encrypted bytes sent, all peers.
    pub sent_bytes: u64,
}
