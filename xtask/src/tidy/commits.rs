//! Subjects of commits: `room: what is now true`.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::Finding;
use crate::shell;

/// The last commit that was made without this rule.
const BASE: &str = "7ecc6fcb7a4044fbd27743dc795c2a64a14e5174";
/// The longest subject, in characters.
const COLUMNS: usize = 72;
/// The most words before the colon: `api, metrics, cli`.
const ROOMS: usize = 4;

/// Checks the commits behind [`BASE`], but for merges.
///
/// # Errors
/// There is no such history here: a tree without git, or a clone that does not reach back to it. The error says which.
pub fn check(root: &Path) -> Result<Vec<Finding>> {
    check_after(root, BASE)
}

fn check_after(root: &Path, base: &str) -> Result<Vec<Finding>> {
    let git = |arguments: &[&str]| shell::output(Command::new("git").arg("-C").arg(root).args(arguments));
    git(&["cat-file", "-e", &format!("{base}^{{commit}}")])?;
    let log = git(&["log", "--no-merges", "--format=%h %s", &format!("{base}..HEAD")])?;
    Ok(log.lines().filter_map(|line| line.split_once(' ')).filter_map(finding).collect())
}

fn finding((commit, subject): (&str, &str)) -> Option<Finding> {
    let what = refuse(subject)?;
    Some(Finding::new(&format!("commit {commit}"), 0, format!("{subject:?}: {what}")))
}

/// Why a subject is none.
fn refuse(subject: &str) -> Option<String> {
    let length = subject.chars().count();
    if length > COLUMNS {
        return Some(format!("{length} characters, {COLUMNS} at most"));
    }
    let Some((rooms, what)) = subject.split_once(": ") else { return Some("no `room: what is now true`".to_owned()) };
    let is_room = |room: &str| {
        let room = room.strip_suffix(',').unwrap_or(room);
        !room.is_empty() && room.chars().all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c))
    };
    let are_rooms = rooms.split(' ').all(is_room) && rooms.split(' ').count() <= ROOMS;
    (!are_rooms || what.trim().is_empty()).then(|| "no `room: what is now true`".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_names_its_room_and_what_is_now_true() {
        for good in [
            "agent: a pass clones no network",
            "api, metrics, cli: one word for a direction",
            "README, ARCHITECTURE.md: the map is the tree",
            "xtask vm: a guest has dnsperf",
            "docs/kernels.md: which were seen: 6.1, 6.12, 7.2",
        ] {
            assert_eq!(refuse(good), None, "{good}");
        }
        for bad in [
            "wip",
            "fixup! agent: a pass clones no network",
            "agent:no space",
            "agent: ",
            ": nothing",
            "A bridge's rows are not taken for members: they are VLANs",
            "doctor asks the store whether it answers: yes",
        ] {
            assert!(refuse(bad).is_some(), "{bad}");
        }
    }

    #[test]
    fn a_subject_fits_into_72_columns() {
        let of = |length: usize| format!("agent: {}", "é".repeat(length - 7));
        assert_eq!(refuse(&of(72)), None);
        assert!(refuse(&of(73)).is_some());
    }

    #[test]
    fn new_commits_are_checked_and_merges_and_older_ones_are_not() {
        let root = std::env::temp_dir().join(format!("privnet-tidy-commits-{}", std::process::id()));
        std::fs::create_dir_all(&root).expect("a folder");
        check(&root).expect_err("no history");
        let git = |line: &str| {
            let identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"];
            let mut command = Command::new("git");
            command.arg("-C").arg(&root).args(identity).args(line.split(' ').map(|word| word.replace('_', " ")));
            shell::output(&mut command).expect("git")
        };
        git("init -q -b main");
        for subject in ["older", "agent:_older"] {
            git(&format!("commit -q --allow-empty -m {subject}"));
        }
        let base = git("rev-parse HEAD");
        let found = || {
            let found = check_after(&root, base.trim()).expect("a history");
            found.into_iter().map(|finding| finding.what).collect::<Vec<_>>()
        };
        git("checkout -q -b side");
        git("commit -q --allow-empty -m agent:_new");
        git("checkout -q main");
        git("merge -q --no-ff -m merged side");
        assert_eq!(found(), Vec::<String>::new());
        git("commit -q --allow-empty -m wip");
        assert_eq!(found(), ["\"wip\": no `room: what is now true`"]);
        check(&root).expect_err("a history that does not reach back to the base");
        std::fs::remove_dir_all(root).expect("a clean end");
    }
}
