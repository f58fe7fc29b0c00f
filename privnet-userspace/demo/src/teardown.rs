//! Removing everything of one demo, found by its name: also after a failure, a signal, or the death of the demo itself.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use privnet::agent;
use privnet::datapath;
use privnet::dns::DnsProcess;
use privnet::netns::{DEFAULT_DIR, Netns, NetnsId};
use privnet::wireguard;
use rustix::mount::UnmountFlags;

use crate::name::{HOSTS, Name};

/// How long processes and threads may take to leave the demo's namespaces.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often to look whether they have.
const GLANCE: Duration = Duration::from_millis(5);

/// Removes all of a demo; returns what could not be removed, one line each.
///
/// Nothing may be building meanwhile. What is gone already is done.
pub async fn remove(name: &Name) -> Vec<String> {
    let mut problems = Vec::new();
    wait_for_own_threads(&mut problems).await;
    for host in HOSTS {
        stop_wireguard(&name.state_dir(host), &mut problems).await;
        stop_dns(&name.state_dir(host), &mut problems).await;
    }
    let namespaces = unpin_namespaces(name, &mut problems);
    wait_for_processes(name, &namespaces, &mut problems).await;
    for host in HOSTS {
        remove_bpffs(name, host, &mut problems);
    }
    note(&mut problems, "removing", &name.run_dir(), absent_is_done(fs::remove_dir_all(name.run_dir())));
    problems
}

/// Whether anything of a demo is there.
#[must_use]
pub fn is_there(name: &Name) -> bool {
    name.run_dir().exists()
        || HOSTS.iter().any(|host| name.bpffs_dir(host).exists())
        || !pinned(name).unwrap_or_default().is_empty()
}

/// A thread of this process that entered a namespace may have been given a last thing to do: it ends after that.
async fn wait_for_own_threads(problems: &mut Vec<String>) {
    let is_inside = || {
        let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
        tasks.filter_map(|task| fs::read_to_string(task.path().join("comm")).ok()).any(|name| name.trim() == "netns")
    };
    let start = Instant::now();
    while is_inside() {
        if start.elapsed() > PATIENCE {
            return problems.push("a thread of this process is in a namespace still".to_owned());
        }
        tokio::time::sleep(GLANCE).await;
    }
}

async fn stop_wireguard(state_dir: &Path, problems: &mut Vec<String>) {
    let dir = state_dir.join("wireguard");
    let processes = match fs::read_dir(&dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return,
        Err(error) => return note(problems, "reading", &dir, Err(error)),
        Ok(entries) => entries.flatten().map(|entry| entry.path()),
    };
    let stops = processes.map(|run_dir| async move { (wireguard::stop_userspace(&run_dir).await, run_dir) });
    for (stopped, run_dir) in futures::future::join_all(stops).await {
        note(problems, "stopping the WireGuard process of", &run_dir, stopped);
    }
}

/// The DNS processes serve sockets in the demo's namespaces and are in none of them.
async fn stop_dns(state_dir: &Path, problems: &mut Vec<String>) {
    for run_dir in agent::config::dns_dirs(state_dir) {
        note(problems, "stopping the DNS process of", &run_dir, DnsProcess::new(&run_dir).stop().await);
    }
}

/// Removes the pins of the demo's namespaces, which go with their last process, and says which they were.
fn unpin_namespaces(name: &Name, problems: &mut Vec<String>) -> BTreeSet<NetnsId> {
    let mut namespaces = BTreeSet::new();
    let dir = Path::new(DEFAULT_DIR);
    match pinned(name) {
        Err(error) => note(problems, "listing", dir, Err(error)),
        Ok(pins) => {
            for pin in pins {
                namespaces.extend(pin.id);
                note(problems, "unpinning", &dir.join(&pin.name), Netns::remove(dir, &pin.name));
            }
        }
    }
    namespaces
}

fn pinned(name: &Name) -> Result<Vec<privnet::netns::Pin>, privnet::netns::Error> {
    let mut pins = Netns::list(Path::new(DEFAULT_DIR))?;
    pins.retain(|pin| pin.name.starts_with(&name.prefix()));
    Ok(pins)
}

/// The HTTP servers end by themselves when their container's pin is gone, and a companion that was just being born when its
/// directory is.
async fn wait_for_processes(name: &Name, namespaces: &BTreeSet<NetnsId>, problems: &mut Vec<String>) {
    let start = Instant::now();
    loop {
        let inside = processes_of(name, namespaces);
        if inside.is_empty() {
            return;
        }
        if start.elapsed() > PATIENCE {
            return problems.push(format!("still running: {}", inside.join(", ")));
        }
        // One that was born late, by a demo that was killed, can be told to end by now; whether it does is seen above.
        for host in HOSTS {
            stop_wireguard(&name.state_dir(host), &mut Vec::new()).await;
            stop_dns(&name.state_dir(host), &mut Vec::new()).await;
        }
        tokio::time::sleep(GLANCE).await;
    }
}

fn processes_of(name: &Name, namespaces: &BTreeSet<NetnsId>) -> Vec<String> {
    let run_dir = name.run_dir();
    let is_companion = |process: &fs::DirEntry| {
        let command = fs::read_to_string(process.path().join("cmdline")).unwrap_or_default();
        let mut words = command.split('\0');
        words.next() == Some("privnet") && words.any(|word| Path::new(word).starts_with(&run_dir))
    };
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let inside = processes.filter(|process| {
        let is_process = process.file_name().to_string_lossy().bytes().all(|byte| byte.is_ascii_digit());
        let namespace = fs::metadata(process.path().join("ns/net"));
        let is_inside = || namespace.is_ok_and(|ns| namespaces.contains(&NetnsId { dev: ns.dev(), ino: ns.ino() }));
        is_process && (is_inside() || is_companion(process))
    });
    let describe = |process: fs::DirEntry| {
        let command = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
        format!("process {} ({})", process.file_name().to_string_lossy(), command.trim())
    };
    inside.map(describe).collect()
}

/// Removes a host's pins: what is attached went with its interface.
fn remove_bpffs(name: &Name, host: &str, problems: &mut Vec<String>) {
    let own = name.own_bpffs(host);
    if datapath::is_bpffs(&own) {
        let unmounted = rustix::mount::unmount(&own, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
        return note(problems, "unmounting", &own, unmounted);
    }
    let shared = name.bpffs_dir(host);
    note(problems, "removing", &shared, absent_is_done(fs::remove_dir_all(&shared)));
}

fn absent_is_done(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

fn note<E: std::fmt::Display>(problems: &mut Vec<String>, doing: &str, what: &Path, result: Result<(), E>) {
    if let Err(error) = result {
        problems.push(format!("{doing} {}: {error}", what.display()));
    }
}
