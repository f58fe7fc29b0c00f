//! What the kernel lists of a member, and how each of it is removed or changed: found by listing, not by privnet's plan.

mod announced;
mod inventory;
mod quiet;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::PathBuf;

use privnet::topology::ownership;
use privnet_ebpf::abi::ABI_VERSION;
use privnet_tests::lab::{Host, Joined, Space, say, wait_until};

pub use announced::announced;
use inventory::{Inventory, settings, wireguard};
pub use quiet::{quiet, unpinned};

/// One thing that a stranger does.
pub struct Removal {
    /// What it is done to: what is done to others meanwhile does not stand in its way. Nothing of a link that goes, and
    /// takes others' work with it.
    place: Option<String>,
    text: String,
    act: Box<dyn Fn()>,
}

impl Removal {
    fn command(space: &Space, link: &str, line: String) -> Self {
        let (space, text) = (space.clone(), format!("[{}] {line}", space.pin()));
        let place = (!line.starts_with("ip link delete")).then(|| format!("{} {link}", space.pin()));
        let act = move || {
            let output = space.attempt(&line);
            // A flush is done in steps, and may find the first one repaired by the second. In an emulated guest a stranger is
            // at work elsewhere in the member at the same time.
            let may_fail = line.contains(" flush ") || privnet_tests::is_emulated();
            assert!(output.status.success() || may_fail, "{line}: {}", String::from_utf8_lossy(&output.stderr));
        };
        Self { place, text, act: Box::new(act) }
    }

    fn call(place: &str, text: String, act: impl Fn() + 'static) -> Self {
        Self { place: Some(place.to_owned()), text, act: Box::new(act) }
    }

    /// Does it.
    pub fn carry_out(&self) {
        say(&self.text);
        (self.act)();
    }
}

/// What is done at once, one after the other: one thing at a time, but in an emulated guest one at each place of the member,
/// and what takes other things with it by itself.
pub fn rounds(removals: &[Removal]) -> Vec<Vec<&Removal>> {
    if !privnet_tests::is_emulated() {
        return removals.iter().map(|removal| vec![removal]).collect();
    }
    let (mut rounds, mut alone) = (Vec::<Vec<&Removal>>::new(), Vec::new());
    let mut next = BTreeMap::<&str, usize>::new();
    for removal in removals {
        let Some(place) = &removal.place else {
            alone.push(vec![removal]);
            continue;
        };
        let round = next.entry(place).or_default();
        rounds.resize_with(rounds.len().max(*round + 1), Vec::new);
        rounds[*round].push(removal);
        *round += 1;
    }
    rounds.extend(alone);
    rounds
}

impl fmt::Display for Removal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Removal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Everything that the kernel lists in a member's three namespaces, and of its network's pins, a line each, without indexes.
pub fn listed(host: &Host, member: &Joined) -> BTreeSet<String> {
    let spaces = [("app", &member.app), ("binding", &member.binding), ("network", &member.network)];
    let lines = spaces.iter().flat_map(|(name, space)| {
        let prefixed = |line: String| format!("{name}: {line} ");
        Inventory::of(space).lines().into_iter().map(prefixed).collect::<Vec<_>>()
    });
    let settings = [("app", &member.app), ("binding", &member.binding), ("network", &member.network)]
        .into_iter()
        .flat_map(|(name, space)| {
            settings(name, space, member).into_iter().map(move |(key, value)| format!("{name}: {key} = {value}"))
        });
    let pins = pin_names(host, member).into_iter().map(|pin| format!("pin {pin}"));
    lines.chain(settings).chain(wireguard(host, member)).chain(pins).collect()
}

/// Where the programs and maps of a member's network are pinned.
fn pins(host: &Host, member: &Joined) -> PathBuf {
    let pins = ownership::network_netns(&host.paths().prefix, member.attached.network);
    host.paths().bpffs.join("privnet").join(format!("v{ABI_VERSION}")).join(pins)
}

fn pin_names(host: &Host, member: &Joined) -> BTreeSet<String> {
    let entries = fs::read_dir(pins(host, member)).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Waits until the agent listens in a member's namespaces: from then on it misses nothing.
pub fn wait_until_watched(member: &Joined) {
    // RTNLGRP_LINK, _NEIGH, _TC, _IPV4_IFADDR, _IPV4_ROUTE, _IPV4_RULE.
    for (space, groups) in [(&member.app, 0xd9_u32), (&member.binding, 0xd1), (&member.network, 0x8d)] {
        wait_until(format!("the agent listens in {}", space.pin()), || {
            let table = space.inside(|| fs::read_to_string("/proc/thread-self/net/netlink").expect("netlink sockets"));
            let of_line = |line: &str| {
                let mut fields = line.split_whitespace().skip(1);
                let (protocol, groups) = (fields.next()?.to_owned(), fields.nth(1)?);
                Some((protocol, u32::from_str_radix(groups, 16).ok()?))
            };
            table.lines().filter_map(of_line).any(|(protocol, found)| protocol == "0" && found & groups == groups)
        });
    }
}
