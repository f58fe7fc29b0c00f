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
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::task::JoinHandle;

use self::file::{Place, problem};
use self::files::on_thread;
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

/// How long an attach or a detach waits for the file system of a file.
const ANSWER: Duration = Duration::from_secs(2);

/// Writes the files of a container that has become a member, and the one that its attach names. Returns what was not done.
pub async fn after_attach(shared: &Memberships, record: &Record, wish: Option<&ResolvConfFile>) -> Vec<ProblemView> {
    let mut problems = Vec::new();
    if let Some(wish) = wish {
        let taking = tokio::spawn(take(shared.clone(), record.clone(), wish.clone()));
        problems.extend(in_time(&wish.path, ANSWER + PATIENCE, taking).await);
    }
    problems.extend(change_all(shared, record.netns, wish.map(|wish| &*wish.path)).await);
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
async fn take(shared: Memberships, record: Record, wish: ResolvConfFile) -> Result<(), ProblemView> {
    let (path, netns, network) = (wish.path.clone(), record.netns, record.network);
    let Some(address) = shared.host.config.names.as_ref().map(|config| config.address) else {
        let why = "this host answers no names, so it stays as it is";
        return Err(problem(&path, why, "start the agent without `--dns-address off`, and attach again"));
    };
    let mut reports = shared.names.reports();
    if !reports.borrow().served.contains_key(&netns) {
        let why = format!("no name is answered at {address} in the container, so it stays as it is");
        return Err(problem(&path, why, "see the problems in `privnet status`, and attach again"));
    }
    let _turn = shared.resolv_confs.turn(&path).await;
    let (of_thread, of_member) = (shared.clone(), record.clone());
    on_thread(&path, move || keep_what_stands(&of_thread, &of_member, &wish, address)).await?;
    let servers = shared.resolv_confs.servers(address).remove(&netns).unwrap_or_default();
    shared.names.wake(&Concerns::Networks(BTreeSet::from([network])));
    let told = reports.wait_for(|report| report.served.get(&netns).is_some_and(|client| client.upstreams == servers));
    if tokio::time::timeout(PATIENCE, told).await.is_err() {
        tracing::warn!("the DNS process does not know yet which servers {} asked before", record.container);
    }
    let file = path.clone();
    on_thread(&path, move || change(&shared, netns, &file)).await
}

/// Waits for what a task does with a file, for as long as `patience`. The task goes on.
async fn in_time(path: &Path, patience: Duration, task: JoinHandle<Result<(), ProblemView>>) -> Option<ProblemView> {
    let Ok(done) = tokio::time::timeout(patience, task).await else {
        let why = format!("its file system has not answered for {} s", patience.as_secs());
        return Some(problem(path, why, "see what it is mounted from; the file is seen to as soon as it answers"));
    };
    done.unwrap_or_else(|_| Err(problem(path, "the agent ends, or has panicked", "the next agent sees to it"))).err()
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
    let is_others = |kept: &Kept| kept.netns != record.netns || kept.boot_id != *boot_id;
    let mut known = files.at(path);
    if let Some(other) = known.take_if(|kept| is_others(kept)) {
        refuse_shared(shared, path, &other)?;
        // Its container is gone.
        put_back(shared, &other)?;
        files.forget(path);
    }
    let mut kept = known.unwrap_or_else(|| Kept::new(path, record.netns, boot_id, !by_caller));
    kept.is_ours_to_write |= !by_caller;
    if kept.is_ours_to_write {
        let opened = Place::find(path)?.open(host_file(shared))?;
        let content = opened.as_ref().map(file::Opened::read).transpose()?;
        kept.file = opened.map(|opened| opened.id);
        if let Some(other) = files.same(kept.file, is_others) {
            refuse_shared(shared, path, &other)?;
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
    files.keep(&kept)
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
pub async fn after_change(shared: &Memberships, netns: NetnsId) -> Vec<ProblemView> {
    change_all(shared, netns, None).await
}

/// As [`after_change`], for every container that earlier agents kept a file of.
pub async fn after_start(shared: &Memberships) {
    let containers = shared.resolv_confs.containers();
    // What was not done is in the log.
    join_all(containers.into_iter().map(|netns| after_change(shared, netns))).await;
}

/// Takes over the files that attaches have named and that earlier agents did not get to.
pub async fn finish_attaches(shared: Arc<Memberships>) {
    let records: Vec<Record> = shared.journal().records().values().filter(|record| !record.leaving).cloned().collect();
    for record in records {
        let Some(wish) = record.resolv_conf.clone().filter(|_| shared.host.config.names.is_some()) else { continue };
        if shared.resolv_confs.at(&wish.path).is_some_and(|kept| kept.netns == record.netns) {
            continue;
        }
        let mut reports = shared.names.reports();
        let served = reports.wait_for(|report| report.served.contains_key(&record.netns));
        if tokio::time::timeout(PATIENCE, served).await.is_err() {
            tracing::warn!("{} stays as it is: no name is answered in the container yet", wish.path.display());
            continue;
        }
        // What is not done is in the log.
        let _ = take(Memberships::clone(&shared), record, wish).await;
    }
}

/// Sees to each file of a container but the one at `but`.
async fn change_all(shared: &Memberships, netns: NetnsId, but: Option<&Path>) -> Vec<ProblemView> {
    let mut paths = shared.resolv_confs.of_container(netns);
    paths.retain(|path| Some(&**path) != but);
    let changes = paths.iter().map(|path| {
        let (shared, file) = (shared.clone(), path.clone());
        let task = tokio::spawn(async move {
            let _turn = shared.resolv_confs.turn(&file).await;
            let (of_thread, path) = (shared.clone(), file.clone());
            on_thread(&file, move || change(&of_thread, netns, &path)).await
        });
        in_time(path, ANSWER, task)
    });
    join_all(changes).await.into_iter().flatten().collect()
}

/// Brings one file of a container up to date; one that is another's by now is left to that.
fn change(shared: &Memberships, netns: NetnsId, path: &Path) -> Result<(), ProblemView> {
    let files = &*shared.resolv_confs;
    let Some(mut kept) = files.at(path).filter(|kept| kept.netns == netns) else { return Ok(()) };
    let is_member = !desired::networks(shared.journal().records().values(), netns).is_empty();
    match resolv_conf(shared, netns).filter(|_| is_member) {
        Some(text) if kept.boot_id == shared.host.facts.boot_id => write(shared, &mut kept, &text),
        Some(_) | None => {
            let done = put_back(shared, &kept);
            // Where it could not be put back, that is told now, and later nothing would be another's.
            files.forget(path);
            done
        }
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
