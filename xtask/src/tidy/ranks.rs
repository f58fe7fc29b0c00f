//! Rooms use rooms of lower rank only, and the command line few of these.
//!
//! The ranks are read from the table in the documentation of lib.rs. There are no exceptions: two rooms that need each
//! other's rank have the wrong ones.

use super::Finding;
use super::source::{SourceFile, words};

/// Where the rooms are.
const ROOMS: &str = "privnet-userspace/src/";
/// Where their ranks are.
const TABLE: &str = "privnet-userspace/src/lib.rs";
/// Of the binary, which is above all rooms.
const MAIN: &str = "main";

/// The room of the command line.
const CLI: &str = "cli";
/// What each file of it may name: the command line is a client of the API, and names its nouns.
const CLI_USES: [&str; 2] = ["api", "model"];
/// What a folder or file of it may name besides, and why. A row that nothing uses is a finding.
const CLI_USES_MORE: [(&str, &[&str], &str); 7] = [
    ("agent/", &["agent", "docker", "netns"], "`privnet agent` starts the agent and serves Docker's plugin"),
    ("args/doctor.rs", &["docker"], "where Docker looks for the plugin unless told otherwise"),
    ("docker.rs", &["docker"], "where Docker listens unless told otherwise"),
    (
        "doctor.rs",
        &["agent", "docker"],
        "without an agent, `privnet doctor` looks at the host itself; Docker is asked by it",
    ),
    ("mtu.rs", &["agent"], "without an agent, `privnet mtu` looks at the host itself"),
    ("processes.rs", &["dns", "wireguard"], "the processes that the agent starts are this binary"),
    ("run/child.rs", &["link", "netns"], "`privnet run` makes the namespaces of its command"),
];

/// A row of the table.
struct Row<'a> {
    line: usize,
    rank: u8,
    room: &'a str,
}

pub fn check(files: &[SourceFile]) -> Vec<Finding> {
    let Some(table) = files.iter().find(|file| file.path == TABLE) else { return Vec::new() };
    let rows: Vec<Row<'_>> = table.text.lines().enumerate().filter_map(row).collect();
    let mut findings: Vec<Finding> = files.iter().flat_map(|file| check_file(file, &rows)).collect();
    findings.extend(unused(files, &rows));
    findings
}

/// `//! | 3 | [`netns`] | what it owns |`
fn row((number, line): (usize, &str)) -> Option<Row<'_>> {
    let mut cells = line.strip_prefix("//! |")?.split('|').map(str::trim);
    let rank = cells.next()?.parse().ok()?;
    let room = cells.next()?.trim_matches(['[', ']', '`']);
    Some(Row { line: number + 1, rank, room })
}

/// Rows of rooms that are gone, and permissions that nothing makes use of.
fn unused(files: &[SourceFile], rows: &[Row<'_>]) -> Vec<Finding> {
    let is_there = |room: &str| files.iter().any(|file| room_of(&file.path) == Some(room));
    let gone = rows.iter().filter(|row| !is_there(row.room));
    let mut findings: Vec<Finding> = gone
        .map(|row| Finding::new(TABLE, row.line, format!("there is no room `{}`: take its row out", row.room)))
        .collect();
    for (place, rooms, _) in CLI_USES_MORE.iter().filter(|_| is_there(CLI)) {
        let path = format!("{ROOMS}{CLI}/{place}");
        let within: Vec<&SourceFile> = files.iter().filter(|file| file.path.starts_with(&path)).collect();
        let is_used =
            |room: &str| within.iter().any(|file| rooms_used(&file.code).iter().any(|(_, used)| *used == room));
        let idle = rooms.iter().filter(|room| !is_used(room));
        findings.extend(idle.map(|room| {
            let what = format!("nothing here names `{room}`: take it out of CLI_USES_MORE in xtask/src/tidy/ranks.rs");
            Finding::new(&path, 0, what)
        }));
    }
    findings
}

fn check_file(file: &SourceFile, rows: &[Row<'_>]) -> Vec<Finding> {
    let Some(room) = room_of(&file.path) else { return Vec::new() };
    let rank_of = |room: &str| rows.iter().find(|row| row.room == room).map(|row| row.rank);
    let Some(rank) = rank_of(room).or_else(|| (room == MAIN).then_some(u8::MAX)) else {
        let what = format!("the room `{room}` has no rank: give it one in the table of {TABLE}");
        return vec![Finding::new(&file.path, 0, what)];
    };
    let mut findings = Vec::new();
    for (line, used) in rooms_used(&file.code).into_iter().filter(|(_, used)| *used != room) {
        let Some(used_rank) = rank_of(used) else { continue };
        if used_rank >= rank {
            let what = format!("`{room}` (rank {rank}) uses `{used}` (rank {used_rank}); only lower ranks may be used");
            findings.push(Finding::new(&file.path, line, what));
        } else if room == CLI && !cli_may_use(&file.path, used) {
            let what = format!("the command line uses {} and not `{used}`: ask the agent", CLI_USES.join(", "));
            findings.push(Finding::new(&file.path, line, what));
        }
    }
    findings
}

fn cli_may_use(path: &str, room: &str) -> bool {
    let inside = path.strip_prefix(ROOMS).and_then(|path| path.strip_prefix(CLI)?.strip_prefix('/')).unwrap_or("");
    let more = CLI_USES_MORE.iter().filter(|(place, ..)| inside.starts_with(place));
    CLI_USES.contains(&room) || more.flat_map(|(_, rooms, _)| *rooms).any(|more| *more == room)
}

/// The room that a file belongs to; the crate's root belongs to none.
fn room_of(path: &str) -> Option<&str> {
    let inside = path.strip_prefix(ROOMS)?;
    let room = inside.split('/').next()?.trim_end_matches(".rs");
    (room != "lib").then_some(room)
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

    const RANKS: &str = "//! privnet.\n//!\n//! | rank | room | what it owns |\n//! |---|---|---|\n\
                         //! | 1 | [`model`] | nouns |\n//! | 2 | [`ipam`] | pure |\n//! | 2 | [`topology`] | pure |\n\
                         //! | 3 | [`link`] | a door |\n//! | 4 | [`agent`] | all |\n//! | 5 | [`api`] | HTTP |\n\
                         //! | 6 | [`cli`] | client |\n";

    /// The lines of `path` with findings, in a tree where each room has a file.
    fn lines(path: &str, text: &str) -> Vec<usize> {
        let rooms = ["model", "ipam", "topology", "link", "agent", "api"];
        let mut files: Vec<SourceFile> =
            rooms.iter().map(|room| SourceFile::new(format!("{ROOMS}{room}/mod.rs"), "")).collect();
        files.extend([SourceFile::new(TABLE, RANKS), SourceFile::new(path, text)]);
        check(&files).iter().filter(|finding| finding.path == path).map(|finding| finding.line).collect()
    }

    #[test]
    fn a_room_uses_lower_ranks_and_neither_its_own_nor_a_higher_one() {
        let path = "privnet-userspace/src/topology/diff.rs";
        assert_eq!(lines(path, "use crate::model::Mtu;\nuse crate::topology::plan;\n"), []);
        assert_eq!(lines(path, "use crate::model::Mtu;\nuse crate::ipam::Pool;\nuse crate::agent::Agent;\n"), [2, 3]);
        assert_eq!(lines("privnet-userspace/src/main.rs", "privnet::cli::main()"), []);
    }

    #[test]
    fn groups_and_paths_in_expressions_count() {
        let path = "privnet-userspace/src/ipam/mod.rs";
        assert_eq!(
            lines(path, "use crate::{\n    model::{Mtu, link},\n    link::Links,\n    cli,\n};\nfoo();"),
            [3, 4]
        );
        assert_eq!(lines(path, "fn f() {\n    crate::api::serve();\n}"), [2]);
        assert_eq!(lines(path, "//! See [`crate::agent`].\nfn f() { log(\"crate::agent\") }"), []);
    }

    #[test]
    fn a_room_without_a_rank_and_a_rank_without_a_room_are_found() {
        assert_eq!(lines("privnet-userspace/src/attic.rs", ""), [0]);
        assert_eq!(lines("privnet-userspace/src/link.rs", ""), []);
        assert_eq!(lines("tests/src/lib.rs", "use crate::cli;"), [], "other crates have no rooms");
        let gone = check(&[SourceFile::new(TABLE, RANKS), SourceFile::new("privnet-userspace/src/model/mod.rs", "")]);
        assert_eq!(gone.iter().map(|finding| finding.line).collect::<Vec<_>>(), [6, 7, 8, 9, 10, 11]);
    }

    #[test]
    fn the_command_line_is_a_client_of_the_api() {
        let text =
            "use crate::api::Client;\nuse crate::model::Port;\nuse crate::agent::Agent;\nuse crate::link::Links;";
        assert_eq!(lines("privnet-userspace/src/cli/verbs.rs", text), [3, 4]);
        assert_eq!(lines("privnet-userspace/src/cli/agent/config.rs", text), [4]);
        let asks_docker = format!("{text}\nuse crate::docker::Engine;");
        assert_eq!(lines("privnet-userspace/src/cli/doctor.rs", &asks_docker), [4]);
    }

    #[test]
    fn a_permission_that_nothing_uses_is_found() {
        let idle = |text: &str| {
            let file = SourceFile::new("privnet-userspace/src/cli/processes.rs", text);
            let found = unused(&[file], &[]);
            found.into_iter().filter(|finding| finding.path.ends_with("processes.rs")).count()
        };
        assert_eq!(idle("crate::dns::serve();\ncrate::wireguard::serve();"), 0);
        assert_eq!(idle("crate::dns::serve();"), 1);
    }
}
