//! Each outside crate that could be replaced is named in one room, and the pure rooms name nothing that acts.

use super::Finding;
use super::source::{SourceFile, Word};

/// A crate and the only folder, or file, below `privnet-userspace/src` that names it.
const HOMES: [(&str, &str); 12] = [
    ("aya", "datapath"),
    ("aya_obj", "datapath"),
    ("rtnetlink", "link"),
    ("netlink_packet_route", "link"),
    ("netlink_packet_core", "link"),
    ("wireguard_control", "wireguard"),
    ("gotatun", "wireguard"),
    ("redb", "store"),
    ("tonic", "store/etcd"),
    ("tonic_prost", "store/etcd"),
    ("prost", "store/etcd"),
    ("domain", "dns"),
];

/// What decides, and therefore must be possible to ask a million questions a second.
const PURE: [&str; 5] = [
    "privnet-ebpf/src/",
    "privnet-userspace/src/model/",
    "privnet-userspace/src/ipam/",
    "privnet-userspace/src/names/",
    "privnet-userspace/src/topology/",
];

/// What acts or differs from call to call.
const ACTS: [&str; 10] = [
    "tokio",
    "rustix",
    "std::fs",
    "std::process",
    "std::thread",
    "TcpStream",
    "UdpSocket",
    "UnixStream",
    "SystemTime::now",
    "Instant::now",
];

pub fn check(files: &[SourceFile]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in files.iter().filter(|file| file.is_rust()) {
        for word in file.words() {
            if let Some(what) = away_from_home(file, &word).or_else(|| acts_in_a_pure_room(file, &word)) {
                findings.push(Finding::new(&file.path, word.line, what));
            }
        }
    }
    findings
}

fn away_from_home(file: &SourceFile, word: &Word<'_>) -> Option<String> {
    let inside = file.path.strip_prefix("privnet-userspace/src/")?;
    let (krate, home) = HOMES.iter().find(|(krate, _)| *krate == word.text)?;
    let is_home = inside.strip_prefix(home).is_some_and(|rest| rest.starts_with(['/', '.']));
    if !is_crate(word) || is_home {
        return None;
    }
    Some(format!("the crate `{krate}` is named in the room `{home}` only"))
}

/// Whether the word starts a path, or is all of a `use`.
fn is_crate(word: &Word<'_>) -> bool {
    let is_first = !word.before.trim_end().ends_with("::") || word.before.trim_end().ends_with(" ::");
    let is_path = word.rest.trim_start().starts_with("::");
    let is_use = word.before.trim_end().ends_with("use") && word.rest.trim_start().starts_with([';', ' ']);
    is_first && (is_path || is_use)
}

fn acts_in_a_pure_room(file: &SourceFile, word: &Word<'_>) -> Option<String> {
    if !PURE.iter().any(|folder| file.path.starts_with(folder)) {
        return None;
    }
    let acting = ACTS.iter().find(|acting| {
        let (first, second) = acting.split_once("::").unwrap_or((acting, ""));
        let behind = word.rest.strip_prefix("::").unwrap_or("");
        word.text == first && (second.is_empty() || starts_with_word(behind, second))
    })?;
    Some(format!("`{acting}` in a room that only decides; take its result as an argument"))
}

fn starts_with_word(code: &str, word: &str) -> bool {
    code.strip_prefix(word).is_some_and(|rest| !rest.starts_with(super::source::is_word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(path: &str, text: &str) -> Vec<usize> {
        check(&[SourceFile::new(path, text)]).iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn a_crate_is_named_at_home_and_nowhere_else() {
        let text = "use aya::Ebpf;\nlet e = aya::EbpfLoader::new();\n";
        assert_eq!(lines("privnet-userspace/src/datapath/object.rs", text), []);
        assert_eq!(lines("privnet-userspace/src/agent/mod.rs", text), [1, 2]);
        assert_eq!(lines("privnet-userspace/src/agent/mod.rs", "let aya = 1; crate::wireguard::gotatun::x();"), []);
        assert_eq!(lines("tests/tests/abi.rs", text), [], "tests look at the object themselves");
    }

    #[test]
    fn a_pure_room_takes_time_as_an_argument() {
        let path = "privnet-userspace/src/ipam/pool.rs";
        assert_eq!(lines(path, "fn expired(now: SystemTime) -> bool"), []);
        assert_eq!(
            lines(path, "let now = SystemTime::now();\nuse std::fs;\nuse std::fs::File;\nuse tokio::sync;"),
            [1, 2, 3, 4]
        );
        assert_eq!(lines("privnet-userspace/src/agent/mod.rs", "let now = SystemTime::now();"), []);
    }
}
