//! The `resolv.conf` files of this host's containers: written from all memberships of a container at each attach and detach,
//! and put back with the last one.
//!
//! A file belongs to a container and not to a membership. What stood in it is kept in the state directory before the file is
//! written, and comes back if the file says then what was written; the servers that it named before are asked for the names
//! of others meanwhile, from the container's namespace.
//!
//! | module | what it owns |
//! |---|---|
//! | `file` | how a file is reached, opened and written |
//! | `kept` | what is known of it, on the disk |
//! | `files` | the files of all containers |

mod file;
pub mod files;
mod kept;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use self::file::{Place, problem};
use self::kept::{Kept, leads_to};
use super::desired;
use super::search::WRITTEN;
use super::wait::{PATIENCE, resolv_conf, search};
use crate::agent::config::HOST_RESOLV_CONF;
use crate::agent::door::views::{ProblemView, ResolvConfFile};
use crate::agent::host::journal::Record;
use crate::agent::shared::Memberships;
use crate::agent::world::Concerns;
use crate::dns;
use crate::netns::NetnsId;

/// Writes the files of a container that has become a member, and the one that its attach names. Returns what was not done.
pub async fn after_attach(shared: &Memberships, record: &Record, wish: Option<&ResolvConfFile>) -> Vec<ProblemView> {
    let mut problems = Vec::new();
    if let Some(wish) = wish
        && let Err(problem) = take(shared, record, wish).await
    {
        problems.push(problem);
    }
    problems.extend(after_change(shared, record.netns));
    let left_out = search(shared, record.netns).left_out;
    problems.extend(left_out.iter().map(|network| ProblemView {
        what: format!("search list of {}", record.container),
        why: format!("the domain of network {network} does not fit: musl ignores a line of more than 255 bytes"),
        remedy: format!("ask for its names with the network, as `backend.demo.{network}`"),
    }));
    problems
}

/// Takes over the file that an attach names: what stands in it is kept, and the servers that it names are the DNS process's
/// to ask before the file is written.
async fn take(shared: &Memberships, record: &Record, wish: &ResolvConfFile) -> Result<(), ProblemView> {
    let path = &wish.path;
    let Some(config) = &shared.host.config.names else {
        let why = "this host answers no names, so it stays as it is";
        return Err(problem(path, why, "start the agent without `--dns-address off`, and attach again"));
    };
    let mut reports = shared.names.reports();
    if !reports.borrow().served.contains_key(&record.netns) {
        let why = format!("no name is answered at {} in the container, so it stays as it is", config.address);
        return Err(problem(path, why, "see the problems in `privnet status`, and attach again"));
    }
    keep_what_stands(shared, record, wish, config.address)?;
    let servers = shared.resolv_confs.servers(config.address).remove(&record.netns).unwrap_or_default();
    shared.names.wake(&Concerns::Networks(BTreeSet::from([record.network])));
    let told =
        reports.wait_for(|report| report.served.get(&record.netns).is_some_and(|client| client.upstreams == servers));
    if tokio::time::timeout(PATIENCE, told).await.is_err() {
        tracing::warn!("the DNS process does not know yet which servers {} asked before", record.container);
    }
    Ok(())
}

fn keep_what_stands(
    shared: &Memberships,
    record: &Record,
    wish: &ResolvConfFile,
    ours: Ipv4Addr,
) -> Result<(), ProblemView> {
    let ResolvConfFile { path, by_caller, before } = wish;
    let boot_id = &shared.host.facts.boot_id;
    let files = &*shared.resolv_confs;
    let mut all = files.lock();
    let is_others = |kept: &Kept| kept.netns != record.netns || kept.boot_id != *boot_id;
    if let Some(other) = all.get(path).filter(|kept| is_others(kept)).cloned() {
        refuse_shared(shared, path, &other)?;
        // Its container is gone.
        put_back(shared, &other)?;
        files.forget(&mut all, path);
    }
    let mut kept = all.get(path).cloned().unwrap_or_else(|| Kept::new(path, record.netns, boot_id, !by_caller));
    kept.is_ours_to_write |= !by_caller;
    if kept.is_ours_to_write {
        let opened = Place::find(path)?.open(host_file(shared))?;
        let content = opened.as_ref().map(file::Opened::read).transpose()?;
        kept.file = opened.map(|opened| opened.id);
        let same = all.values().find(|other| other.file.is_some() && other.file == kept.file && is_others(other));
        if let Some(other) = same {
            refuse_shared(shared, path, other)?;
        }
        if content.as_deref().is_some_and(|content| leads_to(content, ours)) {
            return Ok(());
        }
        if !kept.is_written(content.as_deref()) {
            kept.stood(content.as_deref());
        }
    }
    // The caller's word, of which the servers are used: what an earlier attach wrote says nothing of them.
    if let Some(before) = before.as_deref().filter(|before| !kept.is_ours_to_write && !before.starts_with(WRITTEN)) {
        kept.stood(Some(before));
    }
    files.keep(&kept)?;
    all.insert(path.clone(), kept);
    Ok(())
}

/// Refuses a file that is another container's, as long as that one lives.
fn refuse_shared(shared: &Memberships, path: &Path, other: &Kept) -> Result<(), ProblemView> {
    let boot_id = &shared.host.facts.boot_id;
    let journal = shared.journal();
    let holder = journal.records().values().find(|record| {
        !record.leaving && other.boot_id == *boot_id && record.netns == other.netns && record.is_alive(boot_id)
    });
    holder.map_or(Ok(()), |holder| {
        let why =
            format!("it is the file of {} too, which is another container, so it stays as it is", holder.container);
        Err(problem(path, why, "give each container a file of its own"))
    })
}

/// Brings the files of the container with this namespace up to date with its memberships, and puts back what was there when
/// there are none. Returns what was not done.
pub fn after_change(shared: &Memberships, netns: NetnsId) -> Vec<ProblemView> {
    let files = &*shared.resolv_confs;
    let mut all = files.lock();
    let paths: Vec<PathBuf> = all.values().filter(|kept| kept.netns == netns).map(|kept| kept.path.clone()).collect();
    if paths.is_empty() {
        return Vec::new();
    }
    let is_member = !desired::networks(shared.journal().records().values(), netns).is_empty();
    let text = resolv_conf(shared, netns).filter(|_| is_member);
    let mut problems = Vec::new();
    for path in paths {
        let Some(kept) = all.get_mut(&path) else { continue };
        let done = match &text {
            Some(text) if kept.boot_id == shared.host.facts.boot_id => write(shared, kept, text),
            Some(_) | None => {
                let done = put_back(shared, kept);
                // Where it could not be put back, that is told now, and later nothing would be another's.
                files.forget(&mut all, &path);
                done
            }
        };
        if let Err(problem) = done {
            tracing::warn!("{}: {} ({})", problem.what, problem.why, problem.remedy);
            problems.push(problem);
        }
    }
    problems
}

/// As [`after_change`], for every container that earlier agents kept a file of.
pub fn after_start(shared: &Memberships) {
    let containers: BTreeSet<NetnsId> = shared.resolv_confs.lock().values().map(|kept| kept.netns).collect();
    for netns in containers {
        // What was not done is in the log.
        after_change(shared, netns);
    }
}

/// Writes `text` over what was written before, or over what stood there at first.
fn write(shared: &Memberships, kept: &mut Kept, text: &str) -> Result<(), ProblemView> {
    if !kept.is_ours_to_write {
        return Ok(());
    }
    let place = Place::find(&kept.path)?;
    let opened = place.open(host_file(shared))?;
    let content = opened.as_ref().map(file::Opened::read).transpose()?;
    let content = content.as_deref();
    if content == Some(text) && kept.written.last().is_some_and(|last| last == text) {
        return Ok(());
    }
    // What stood there before may stand there still: an agent died before it wrote.
    if !(kept.is_written(content) || kept.stands_again(content)) {
        let why = "another program has changed it since, so it stays as it is";
        return Err(problem(&kept.path, why, "attach with --resolv-conf to have it written again"));
    }
    kept.note(text);
    shared.resolv_confs.keep(kept)?;
    match opened {
        Some(opened) => opened.write(text),
        None if place.create(text)? => Ok(()),
        None => Err(problem(&kept.path, "another program made it at the same time", "attach again")),
    }
}

/// Puts back what stood there before, if what stands there was written by us.
fn put_back(shared: &Memberships, kept: &Kept) -> Result<(), ProblemView> {
    let names_ours = |content: &str| {
        let ours = shared.host.config.names.as_ref().map(|config| config.address);
        dns::servers_of(content).iter().any(|server| Some(server.ip()) == ours.map(Into::into))
    };
    let remedy = "put back what stood there before";
    if !kept.is_ours_to_write {
        let why = "its attach was not root's, so the agent leaves it: it may name a server that no longer answers";
        return Err(problem(&kept.path, why, remedy));
    }
    // With its directory, the file has gone.
    if kept.path.parent().is_none_or(|directory| !directory.exists()) {
        return Ok(());
    }
    let place = Place::find(&kept.path)?;
    let Some(opened) = place.open(host_file(shared))? else { return Ok(()) };
    let content = opened.read()?;
    if kept.is_written(Some(&content)) {
        return match &kept.before {
            Some(before) => opened.write(before),
            // A file that is a mount point stays, with nothing in it.
            None => place.remove().or_else(|problem| opened.write("").map_err(|_| problem)),
        };
    }
    if kept.stands_again(Some(&content)) || !names_ours(&content) {
        return Ok(());
    }
    let why = "another program has changed it since, so it stays as it is, and names a server that no longer answers";
    Err(problem(&kept.path, why, remedy))
}

/// The host's own file.
fn host_file(shared: &Memberships) -> &Path {
    let names = shared.host.config.names.as_ref();
    names.map_or(Path::new(HOST_RESOLV_CONF), |names| &names.process.resolv_conf)
}
