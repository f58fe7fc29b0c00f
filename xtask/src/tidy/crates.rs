//! Each outside crate that could be replaced is named in one room, and the pure rooms name nothing that acts.

use super::Finding;
use super::source::{SourceFile, Word};

/// A crate and the only folder, or file, below `privnet-userspace/src` that names it.
const HOMES: [(&str, &str); 9] = [
    ("aya", "datapath"),
    ("rtnetlink", "link"),
    ("wireguard_control", "wireguard"),
    ("gotatun", "wireguard"),
    ("redb", "store"),
    ("tonic", "store/etcd"),
    ("tonic_prost", "store/etcd"),
    ("prost", "store/etcd"),
    ("domain", "dns"),
];

/// Where the rooms are.
const SOURCES: &str = "privnet-userspace/src/";

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
    // A part of the tree, as in a test, lacks most of the rooms.
    let is_whole = files.iter().any(|file| file.path == "Cargo.toml");
    let mut findings = if is_whole { needless(files) } else { Vec::new() };
    for file in files.iter().filter(|file| file.is_rust()) {
        for word in file.words() {
            if let Some(what) = away_from_home(file, &word).or_else(|| acts_in_a_pure_room(file, &word)) {
                findings.push(Finding::new(&file.path, word.line, what));
            }
        }
    }
    findings
}

/// Crates that their room does not name, and pure rooms that are gone.
fn needless(files: &[SourceFile]) -> Vec<Finding> {
    let names = |file: &SourceFile, krate: &str| file.words().any(|word| word.text == krate && is_crate(&word));
    let strangers = HOMES.iter().filter(|(krate, home)| {
        let home = format!("{SOURCES}{home}");
        !files.iter().any(|file| file.path.starts_with(&home) && names(file, krate))
    });
    let what = |krate: &str| format!("does not name the crate `{krate}`: take it out of xtask/src/tidy/crates.rs");
    let strangers = strangers.map(|(krate, home)| Finding::new(&format!("{SOURCES}{home}"), 0, what(krate)));
    let gone = PURE.iter().filter(|folder| !files.iter().any(|file| file.path.starts_with(**folder)));
    strangers.chain(gone.map(|folder| Finding::new(folder, 0, "is pure, and there is no such folder"))).collect()
}

fn away_from_home(file: &SourceFile, word: &Word<'_>) -> Option<String> {
    let inside = file.path.strip_prefix(SOURCES)?;
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
    fn a_crate_that_its_room_does_not_name_and_a_pure_room_that_is_gone_are_found() {
        let homes =
            HOMES.map(|(krate, home)| SourceFile::new(format!("{SOURCES}{home}/a.rs"), format!("use {krate};")));
        let pure = PURE.map(|folder| SourceFile::new(format!("{folder}a.rs"), ""));
        let all: Vec<SourceFile> = homes.into_iter().chain(pure).collect();
        assert_eq!(needless(&all), []);
        assert_eq!(needless(&all[1..]).len(), 1, "aya");
        assert_eq!(needless(&all[..all.len() - 1]).len(), 1, "topology");
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
