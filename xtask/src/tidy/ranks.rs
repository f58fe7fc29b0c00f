//! Rooms use rooms of lower rank only.

use super::Finding;
use super::source::{SourceFile, words};

/// Where the rooms are.
const ROOMS: &str = "privnet-userspace/src/";

/// The rank of each room; lib.rs tells what each owns.
const RANKS: [(&str, u8); 18] = [
    ("model", 1),
    ("ipam", 2),
    ("names", 2),
    ("topology", 2),
    ("netns", 3),
    ("companion", 3),
    ("link", 3),
    ("wireguard", 3),
    ("datapath", 3),
    ("dns", 3),
    ("store", 3),
    ("clock", 3),
    ("agent", 4),
    ("api", 5),
    ("metrics", 5),
    ("adapters", 6),
    ("cli", 6),
    ("main", 7),
];

/// Uses of the same rank that are part of the plan: these doors run inside a namespace, or in a process of their own.
const EXCEPTIONS: [(&str, &str); 7] = [
    ("link", "netns"),
    ("wireguard", "netns"),
    ("datapath", "netns"),
    ("dns", "netns"),
    ("companion", "netns"),
    ("wireguard", "companion"),
    ("dns", "companion"),
];

pub fn check(files: &[SourceFile]) -> Vec<Finding> {
    files.iter().flat_map(check_file).collect()
}

fn check_file(file: &SourceFile) -> Vec<Finding> {
    let Some(room) = room_of(&file.path) else { return Vec::new() };
    let Some(rank) = rank_of(room) else {
        let what = format!("the room `{room}` has no rank: give it one in xtask/src/tidy/ranks.rs");
        return vec![Finding::new(&file.path, 0, what)];
    };
    let used = rooms_used(&file.code).into_iter().filter(|(_, used)| *used != room);
    let wrong = used.filter_map(|(line, used)| {
        let used_rank = rank_of(used)?;
        let allowed = used_rank < rank || EXCEPTIONS.contains(&(room, used));
        let what = || format!("`{room}` (rank {rank}) uses `{used}` (rank {used_rank}); only lower ranks may be used");
        (!allowed).then(|| Finding::new(&file.path, line, what()))
    });
    wrong.collect()
}

/// The room that a file belongs to; the crate's root belongs to none.
fn room_of(path: &str) -> Option<&str> {
    let inside = path.strip_prefix(ROOMS)?;
    let room = inside.split('/').next()?.trim_end_matches(".rs");
    (room != "lib").then_some(room)
}

fn rank_of(room: &str) -> Option<u8> {
    RANKS.iter().find(|(name, _)| *name == room).map(|(_, rank)| *rank)
}

/// The first parts of all paths that start at the crate's root, with their lines.
fn rooms_used(code: &str) -> Vec<(usize, &str)> {
    let roots = words(code).filter(|word| matches!(word.text, "crate" | "privnet"));
    roots.filter_map(|word| Some((word.line, word.rest.trim_start().strip_prefix("::")?))).flat_map(firsts).collect()
}

/// The first part of a path, or of each path of a group.
fn firsts((line, rest): (usize, &str)) -> Vec<(usize, &str)> {
    let trimmed = rest.trim_start();
    let Some(group) = trimmed.strip_prefix('{') else {
        return words(trimmed).next().map(|word| (line, word.text)).into_iter().collect();
    };
    let first_line = line + rest[..rest.len() - group.len()].matches('\n').count();
    let mut depth = 1_i32;
    let mut scanned = 0;
    let mut expects = true;
    let mut found = Vec::new();
    for word in words(group) {
        for mark in group[scanned..word.before.len()].chars() {
            match mark {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 1 => expects = true,
                _ => {}
            }
        }
        if depth == 0 {
            break;
        }
        if expects {
            found.push((first_line + word.line - 1, word.text));
            expects = false;
        }
        scanned = word.before.len() + word.text.len();
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(path: &str, text: &str) -> Vec<usize> {
        check(&[SourceFile::new(path, text)]).iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn a_room_uses_lower_ranks_and_neither_its_own_nor_a_higher_one() {
        let path = "privnet-userspace/src/topology/diff.rs";
        assert_eq!(lines(path, "use crate::model::Mtu;\nuse crate::topology::plan;\n"), []);
        assert_eq!(lines(path, "use crate::model::Mtu;\nuse crate::ipam::Pool;\nuse crate::agent::Agent;\n"), [2, 3]);
    }

    #[test]
    fn groups_and_paths_in_expressions_count() {
        let path = "privnet-userspace/src/ipam/mod.rs";
        assert_eq!(
            lines(path, "use crate::{\n    model::{Mtu, store},\n    store::Store,\n    cli,\n};\nfoo();"),
            [3, 4]
        );
        assert_eq!(lines(path, "fn f() {\n    crate::api::serve();\n}"), [2]);
        assert_eq!(lines(path, "//! See [`crate::agent`].\nfn f() { log(\"crate::agent\") }"), []);
    }

    #[test]
    fn the_doors_that_run_in_a_namespace_may_use_netns_and_not_each_other() {
        assert_eq!(lines("privnet-userspace/src/link/mod.rs", "use crate::netns::Netns;"), []);
        assert_eq!(lines("privnet-userspace/src/link/mod.rs", "use crate::datapath::Object;"), [1]);
        assert_eq!(lines("privnet-userspace/src/store/mod.rs", "use crate::netns::Netns;"), [1]);
    }

    #[test]
    fn a_room_without_a_rank_is_found_and_other_crates_have_no_rooms() {
        assert_eq!(lines("privnet-userspace/src/attic.rs", ""), [0]);
        assert_eq!(lines("privnet-userspace/src/clock.rs", ""), []);
        assert_eq!(lines("tests/src/lib.rs", "use crate::cli;"), []);
    }
}
