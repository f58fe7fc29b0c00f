//! What one scrape of the metrics reads: the counters of the networks, the WireGuard devices of the members, the state.
//!
//! A read changes nothing. All reads of a scrape run at once, up to a bound, and end at one deadline, so that a process
//! that hangs costs a scrape one timeout and not the others' samples. A read that fails is logged and counted.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures::future::{BoxFuture, FutureExt as _};
use futures::stream::{self, StreamExt as _};
use tokio::time::Instant;

use super::views::{CounterRow, NetworkCounters, ScrapeErrorKind, TunnelView};
use crate::agent::host::journal::Record;
use crate::agent::shared::Shared;
use crate::datapath;
use crate::model::{NetworkId, NetworkName};
use crate::netns::{self, Netns};
use crate::wireguard::{Backend, Device};

/// How long the reads of one scrape may take together. Prometheus waits 10 s unless it is told otherwise.
const PATIENCE: Duration = Duration::from_secs(5);
/// How many reads run at once: each may need a thread, or a connection.
const AT_ONCE: usize = 64;

/// The counters of every network with members on this host; those that cannot be read are left out and counted.
pub async fn counters(shared: &Shared) -> Vec<NetworkCounters> {
    let records: Vec<Record> = shared.journal().records().values().cloned().collect();
    let networks: BTreeSet<NetworkId> = records.iter().map(|record| record.network).collect();
    let reads = networks.iter().map(|network| counters_of(shared, *network, &records).boxed()).collect();
    all(shared, ScrapeErrorKind::Counters, reads).await
}

/// The WireGuard figures of every member on this host; those that cannot be read are left out and counted.
pub async fn tunnels(shared: &Shared) -> Vec<TunnelView> {
    let records: Vec<Record> = shared.journal().records().values().filter(|record| !record.leaving).cloned().collect();
    let reads = records.iter().map(|record| tunnel_of(shared, record).boxed()).collect();
    all(shared, ScrapeErrorKind::Wireguard, reads).await
}

/// Runs reads at once, and gives back what they found; a failed one is logged and counted.
async fn all<T>(shared: &Shared, kind: ScrapeErrorKind, reads: Vec<BoxFuture<'_, Result<Option<T>>>>) -> Vec<T> {
    let deadline = Instant::now() + PATIENCE;
    // Collected first: the compiler cannot tell that a stream over the closure may cross threads.
    let bounded: Vec<_> = reads.into_iter().map(|read| tokio::time::timeout_at(deadline, read)).collect();
    let outcomes: Vec<_> = stream::iter(bounded).buffer_unordered(AT_ONCE).collect().await;
    let kept = outcomes.into_iter().filter_map(|outcome| match outcome {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => shared.read_failures.note(kind, &format!("{error:#}")),
        Err(_) => shared.read_failures.note(kind, &format!("it was not read within {} s", PATIENCE.as_secs())),
    });
    kept.collect()
}

fn name_of(shared: &Shared, network: NetworkId) -> Option<NetworkName> {
    shared.world(|world| world.networks().get(&network).map(|network| network.name.clone()))
}

/// The counters of one network; nothing before its programs are loaded.
async fn counters_of(shared: &Shared, network: NetworkId, records: &[Record]) -> Result<Option<NetworkCounters>> {
    let Some(network_name) = name_of(shared, network) else { return Ok(None) };
    let pins = shared.host.config.pins_of(network);
    let read = tokio::task::spawn_blocking(move || datapath::Counters::read(&pins)).await?;
    let Some(counters) = read.with_context(|| format!("reading the counters of {network}"))? else { return Ok(None) };
    let member = |address: Ipv4Addr| {
        let member = records.iter().find(|record| record.network == network && record.address == address);
        member.map_or_else(|| "unknown".to_owned(), |record| record.container.to_string())
    };
    let rows = counters.iter().flat_map(|(address, counters)| rows(&member(*address), counters)).collect();
    Ok(Some(NetworkCounters { network, network_name, rows }))
}

fn rows(member: &str, counters: &datapath::Counters) -> Vec<CounterRow> {
    let row = |(direction, outcome, tally): (datapath::Direction, datapath::Outcome, datapath::Tally)| CounterRow {
        member: member.to_owned(),
        direction,
        outcome,
        packets: tally.packets,
        bytes: tally.bytes,
    };
    counters.iter().map(row).collect()
}

/// The figures of one member; nothing when its namespace or its device is not there.
async fn tunnel_of(shared: &Shared, record: &Record) -> Result<Option<TunnelView>> {
    let Some(network_name) = name_of(shared, record.network) else { return Ok(None) };
    let failed = || format!("reading the WireGuard device of {} in {}", record.container, record.network);
    let Some(device) = device(shared, record).with_context(failed)? else { return Ok(None) };
    let Some(state) = device.observe().await.with_context(failed)? else { return Ok(None) };
    Ok(Some(TunnelView {
        network_name,
        network: record.network,
        member: record.container.to_string(),
        peers: state.peers.len() as u64,
        received_bytes: state.peers.values().map(|peer| peer.rx_bytes).sum(),
        sent_bytes: state.peers.values().map(|peer| peer.tx_bytes).sum(),
    }))
}

fn device(shared: &Shared, record: &Record) -> Result<Option<Device>> {
    match shared.host.facts.wireguard {
        Backend::Kernel => match Netns::open(record.best_path(&shared.host.facts.boot_id)) {
            Ok(netns) if netns.id() == record.netns => Ok(Some(Device::kernel(netns, record.interface()))),
            Ok(_) | Err(netns::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        },
        Backend::Userspace => {
            Ok(Some(Device::userspace(&shared.host.config.wireguard_dir(record.network, record.address))))
        }
    }
}
