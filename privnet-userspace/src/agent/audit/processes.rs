//! Which processes are in the namespaces that are privnet's alone: none but its own.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::Fault;
use crate::agent::netns_links::NetnsLinks;
use crate::model::NetworkId;
use crate::netns::{Netns, NetnsId};

/// The namespaces of privnet's, and whose they are.
#[derive(Default)]
pub struct Own(BTreeMap<NetnsId, (NetworkId, Option<String>)>);

impl Own {
    /// Adds one: of a member, or of the network.
    pub fn add(&mut self, netns: Option<&NetnsLinks>, network: NetworkId, member: Option<&str>) {
        if let Some(netns) = netns {
            self.0.insert(netns.netns.id(), (network, member.map(str::to_owned)));
        }
    }

    /// The processes in them that are not privnet's. A thread can be in another namespace than its process.
    pub fn faults(&self, proc: &Path) -> Result<Vec<(NetworkId, Option<String>, Fault)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(proc).context("listing the processes")? {
            let process = entry.context("listing the processes")?.path();
            let Some(pid) = process.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok()) else { continue };
            // A process that ends meanwhile is in no namespace.
            let threads = fs::read_dir(process.join("task")).into_iter().flatten().flatten();
            let mut ids = threads.filter_map(|thread| Netns::identify(&thread.path().join("ns/net")).ok());
            let Some((network, member)) = ids.find_map(|id| self.0.get(&id)) else { continue };
            if is_privnet(&process) {
                continue;
            }
            let comm = fs::read_to_string(process.join("comm")).unwrap_or_default();
            let detail = format!("process {pid} ({}) is in a namespace that is privnet's", comm.trim_end());
            let remedy = "see what it is, and end it: it can read the carrier, and send on it";
            found.push((*network, member.clone(), Fault { check: "process", detail, remedy }));
        }
        Ok(found)
    }
}

/// Whether a process runs a binary of privnet's, also one whose file was replaced since.
fn is_privnet(process: &Path) -> bool {
    let binary = fs::read_link(process.join("exe")).ok();
    let name = binary.as_deref().and_then(|binary| binary.file_name()?.to_str());
    name.is_some_and(|name| name.trim_end_matches(" (deleted)").starts_with("privnet"))
}
