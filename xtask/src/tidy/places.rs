//! Words that belong in one place.

use super::Finding;
use super::source::{SourceFile, Word};

/// The only files and folders with `unsafe`.
const UNSAFE: [&str; 5] = [
    "privnet-ebpf/programs/skb.rs",
    "privnet-ebpf/programs/maps.rs",
    "privnet-userspace/src/netns/",
    "privnet-userspace/src/datapath/plain.rs",
    // One ioctl, TUNSETIFF, which rustix has no safe form of.
    "privnet-userspace/src/wireguard/tun.rs",
];
/// Where attributes (`#[unsafe(no_mangle)]`) are no unsafe code: the licence section.
const UNSAFE_ATTRIBUTES: &str = "privnet-ebpf/programs/main.rs";
/// A thread that entered a namespace must never be given back to a pool.
const ENTERS: [&str; 4] = ["setns", "unshare", "unshare_unsafe", "move_into_link_name_space"];
const ENTERS_PLACE: &str = "privnet-userspace/src/netns/";
const ENTERS_RULED: &str = "privnet-userspace/";
/// One door out of the programs.
const EXIT: &str = "privnet-ebpf/programs/exit.rs";
/// Notes of the author to himself.
const NOTES: [&str; 3] = ["todo", "unimplemented", "dbg"];

pub fn check(files: &[SourceFile]) -> Vec<Finding> {
    let mut findings = out_of_places(files);
    // A part of the tree, as in a test, lacks most of them.
    if files.iter().any(|file| file.path == "Cargo.toml") {
        findings.extend(needless(files));
    }
    findings
}

/// Whether a word is the one that a place may hold.
type Meant<'a> = &'a dyn Fn(&Word<'_>) -> bool;

/// Places that may hold a word, and do not.
fn needless(files: &[SourceFile]) -> Vec<Finding> {
    let holds = |place: &str, is_meant: Meant<'_>| {
        files.iter().filter(|file| file.path.starts_with(place)).any(|file| file.words().any(|word| is_meant(&word)))
    };
    let is_unsafe = |word: &Word<'_>| word.text == "unsafe";
    let idle = UNSAFE.into_iter().filter(|place| !holds(place, &is_unsafe)).map(|place| (place, "`unsafe`"));
    let others: [(&str, &str, Meant<'_>); 3] = [
        (UNSAFE_ATTRIBUTES, "`#[unsafe(…)]`", &is_unsafe_attribute),
        (ENTERS_PLACE, "word that enters a namespace", &|word: &Word<'_>| ENTERS.contains(&word.text)),
        (EXIT, "`TC_ACT_`", &|word: &Word<'_>| word.text.starts_with("TC_ACT_")),
    ];
    let others = others.into_iter().filter(|(place, _, is_meant)| !holds(place, is_meant));
    let idle = idle.chain(others.map(|(place, what, _)| (place, what)));
    idle.map(|(place, what)| Finding::new(place, 0, format!("has no {what}: take it out of the places that may")))
        .collect()
}

fn out_of_places(files: &[SourceFile]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in files.iter().filter(|file| file.is_rust()) {
        for word in file.words() {
            if let Some(what) = out_of_place(&file.path, &word) {
                findings.push(Finding::new(&file.path, word.line, what));
            }
        }
    }
    findings
}

fn out_of_place(path: &str, word: &Word<'_>) -> Option<String> {
    if word.text == "unsafe" && !may_be_unsafe(path, word) {
        return Some(format!("`unsafe` has five addresses: {}", UNSAFE.join(", ")));
    }
    if ENTERS.contains(&word.text) && path.starts_with(ENTERS_RULED) && !path.starts_with(ENTERS_PLACE) {
        return Some(format!("`{}` only in {ENTERS_PLACE}: a namespace is a thread", word.text));
    }
    if word.text.starts_with("TC_ACT_") && path != EXIT {
        return Some(format!("`{}` only in {EXIT}, the one door out", word.text));
    }
    if NOTES.contains(&word.text) && word.rest.starts_with('!') {
        return Some(format!("`{}!` is a note, not code", word.text));
    }
    None
}

fn may_be_unsafe(path: &str, word: &Word<'_>) -> bool {
    UNSAFE.iter().any(|place| path.starts_with(place)) || (path == UNSAFE_ATTRIBUTES && is_unsafe_attribute(word))
}

/// `#[unsafe(…)]`, which is no code.
fn is_unsafe_attribute(word: &Word<'_>) -> bool {
    word.text == "unsafe" && word.before.ends_with("#[") && word.rest.starts_with('(')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(path: &str, text: &str) -> Vec<usize> {
        check(&[SourceFile::new(path, text)]).iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn unsafe_has_five_addresses() {
        let text = "fn f() {\n    unsafe { g() }\n}";
        for path in UNSAFE {
            assert_eq!(lines(path, text), [], "{path}");
        }
        assert_eq!(lines("privnet-userspace/src/datapath/mod.rs", text), [2]);
        assert_eq!(lines("privnet-userspace/src/lib.rs", "#![deny(unsafe_code)] // unsafe"), []);
    }

    #[test]
    fn a_place_that_does_not_hold_what_it_may_is_found() {
        let all = |text: &str| {
            let others = [UNSAFE_ATTRIBUTES, ENTERS_PLACE, EXIT].into_iter().chain(UNSAFE);
            others.map(|place| SourceFile::new(format!("{place}x.rs"), text)).collect::<Vec<_>>()
        };
        assert_eq!(needless(&all("#[unsafe(no_mangle)] unsafe { setns(TC_ACT_OK) }")), []);
        assert_eq!(needless(&all("// unsafe setns TC_ACT_OK #[unsafe(no_mangle)]")).len(), UNSAFE.len() + 3);
        let found = needless(&all("unsafe { setns(TC_ACT_OK) }"));
        assert_eq!(found.iter().map(|finding| finding.path.as_str()).collect::<Vec<_>>(), [UNSAFE_ATTRIBUTES]);
    }

    #[test]
    fn the_licence_is_an_attribute_and_the_entry_points_hold_no_unsafe_block() {
        assert_eq!(lines(UNSAFE_ATTRIBUTES, "#[unsafe(link_section = \"license\")]"), []);
        assert_eq!(lines(UNSAFE_ATTRIBUTES, "unsafe { f() }"), [1]);
        assert_eq!(lines("privnet-ebpf/programs/exit.rs", "#[unsafe(no_mangle)]"), [1]);
    }

    #[test]
    fn only_netns_enters_a_namespace() {
        let text = "rustix::thread::unshare(flags)?;";
        assert_eq!(lines("privnet-userspace/src/netns/thread.rs", text), []);
        assert_eq!(lines("privnet-userspace/src/cli/run.rs", text), [1]);
        assert_eq!(lines("privnet-userspace/src/link/veth.rs", "message.setns_by_fd(fd)"), []);
        assert_eq!(lines("tests/src/lib.rs", "Command::new(\"unshare\")"), []);
    }

    #[test]
    fn programs_leave_through_one_door() {
        assert_eq!(lines(EXIT, "TC_ACT_SHOT"), []);
        assert_eq!(lines("privnet-ebpf/programs/main.rs", "use x::TC_ACT_OK;\nTC_ACT_OK"), [1, 2]);
    }

    #[test]
    fn notes_are_no_code() {
        assert_eq!(lines("privnet-ebpf/src/lib.rs", "fn f() { todo!() }"), [1]);
        assert_eq!(lines("privnet-ebpf/src/lib.rs", "fn todo() {}"), []);
    }
}
