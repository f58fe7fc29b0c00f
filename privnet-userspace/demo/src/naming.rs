//! The name of `backend`, and which containers are told it: the question of `web` 1 and the same question of the other
//! network's container.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;

use anyhow::{Context, Result};
use privnet::dns::stub::Heard;
use privnet::dns::{DnsProcess, ProcessState};
use privnet::netns::NetnsId;

use crate::http::{Fetched, PATIENCE, fetch_from, on};
use crate::lab::{Container, Lab};
use crate::measure::rise;
use crate::report::Evidence;

/// What the DNS process of host one had counted before.
pub struct Before(BTreeMap<String, u64>);

impl Before {
    /// Reads it.
    ///
    /// # Errors
    /// When no server answers names there.
    pub async fn read(lab: &Lab) -> Result<Self> {
        Ok(Self(counted(&answerer(lab).await?)))
    }
}

/// What `web` 1 was told, by which server, and what the other network's container is told.
///
/// # Errors
/// When the evidence cannot be gathered.
pub async fn evidence(lab: &Lab, Before(before): &Before, fetched: &Fetched) -> Result<Evidence> {
    let Lab { web1, backend, stranger, backend_name, stranger_name, .. } = lab;
    let (Fetched::Answer { heard, .. } | Fetched::Failed { heard, .. }) = fetched;
    let heard = heard.as_ref().context("web 1 did not ask for a name")?;
    // Two namespaces, the same address in each, and one process that knows the asking container by the socket.
    let refused = hear(stranger, backend_name).await?;
    let own = hear(stranger, stranger_name).await?;
    let process = answerer(lab).await?;
    let after = counted(&process);
    let rose = |rcode: &str| {
        let of = |counted: &BTreeMap<String, u64>| counted.get(rcode).copied().unwrap_or_default();
        (of(before), of(&after))
    };
    let (found, missing) = (rose("noerror"), rose("nxdomain"));
    let serves = |container: &Container| process.containers.iter().any(|served| served.container == container.app.id());
    let outside = namespace_of(process.identity.pid)?;
    Ok(Evidence::new()
        .text("question", &heard.question)
        .text("answer", shown(heard))
        .text("answered_at", format!("{} in the app netns of web 1", heard.server))
        .text("answered_by", format!("privnet dns, pid {}, outside of it", process.identity.pid))
        .text("told_noerror", rise(found.0, found.1))
        .text("told_nxdomain", rise(missing.0, missing.1))
        .text("stranger", format!("the same question at {}: {}", refused.server, shown(&refused)))
        .text("twin", format!("{}: {}", own.question, shown(&own)))
        .demand("the answer is the address of backend", is_only(heard, backend))
        .demand("the answer is our own to give", heard.is_authoritative && refused.is_authoritative)
        .demand("the process serves both sockets", serves(web1) && serves(stranger))
        .demand("the process is in neither app netns", ![web1.app.id(), stranger.app.id()].contains(&outside))
        .demand("it counted both answers that were found", found.1 - found.0 == 2)
        .demand("it counted the one that was not", missing.1 - missing.0 == 1)
        .demand("for the other network the name does not exist", is_nothing(&refused))
        .demand("the other network's own name exists for it", is_only(&own, stranger)))
}

/// What a container is told about a name, by a client that then tries to reach whatever it was told.
async fn hear(container: &Container, name: &str) -> Result<Heard> {
    let fetched = fetch_from(&container.app, &on(name), "/", PATIENCE).await?;
    let (Fetched::Answer { heard, .. } | Fetched::Failed { heard, .. }) = &fetched;
    heard.clone().with_context(|| format!("{} was told nothing of {name}: {fetched:?}", container.label))
}

fn is_only(heard: &Heard, container: &Container) -> bool {
    heard.rcode == "NOERROR" && heard.addresses.iter().map(|(address, _)| *address).eq([container.address()])
}

fn is_nothing(heard: &Heard) -> bool {
    heard.rcode == "NXDOMAIN" && heard.addresses.is_empty()
}

fn shown(heard: &Heard) -> String {
    let addresses = heard.addresses.iter().map(|(address, ttl)| format!(" {address} for {ttl} s"));
    format!("{}{}", heard.rcode, addresses.collect::<String>())
}

/// The DNS process of host one.
async fn answerer(lab: &Lab) -> Result<ProcessState> {
    for dir in lab.hosts[0].config.dns_dirs() {
        if let Some(state) = DnsProcess::new(&dir).observe().await? {
            return Ok(state);
        }
    }
    anyhow::bail!("nobody answers names on host one")
}

/// Its replies by UDP, by code.
fn counted(process: &ProcessState) -> BTreeMap<String, u64> {
    let replies = process.counted.replies.iter().filter(|row| row.transport == "udp");
    replies.map(|row| (row.rcode.clone(), row.count)).collect()
}

fn namespace_of(pid: u32) -> Result<NetnsId> {
    let found = fs::metadata(format!("/proc/{pid}/ns/net")).context("the DNS process has ended")?;
    Ok(NetnsId { dev: found.dev(), ino: found.ino() })
}
