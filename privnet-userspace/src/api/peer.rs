//! The user at the other end of the control socket, and what that user may do.
//!
//! Every user that can connect may read; root and the group `privnet` may change things.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The group whose members may use the control socket as root does.
pub const GROUP_NAME: &str = "privnet";

/// A connected process, as `SO_PEERCRED` gave it when it connected (unix(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its effective user.
    pub uid: u32,
    /// Its effective group; its supplementary groups are not in the credentials.
    pub gid: u32,
    /// Its process, where the kernel says so.
    pub pid: Option<i32>,
}

/// The group `privnet` with everybody in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The group's number.
    pub gid: u32,
    /// The users that the group's line names.
    pub members: BTreeSet<u32>,
}

/// Where users and groups are listed.
#[derive(Clone, Debug)]
pub struct Accounts {
    passwd: PathBuf,
    group: PathBuf,
}

/// Whether `peer` may change networks and members.
#[must_use]
pub fn may_change(peer: Peer, group: Option<&Group>) -> bool {
    peer.uid == 0 || group.is_some_and(|group| peer.gid == group.gid || group.members.contains(&peer.uid))
}

impl Accounts {
    /// The files `passwd` and `group` of a directory, `/etc` in production.
    #[must_use]
    pub fn in_directory(etc: &Path) -> Self {
        Self { passwd: etc.join("passwd"), group: etc.join("group") }
    }

    /// The group `privnet`, when there is one. A file that cannot be read lists no user.
    ///
    /// Supplementary groups are taken from these files and not from `/proc/<pid>`: a process number can have a new
    /// owner by the time it is looked at.
    #[must_use]
    pub fn group(&self) -> Option<Group> {
        let group = std::fs::read_to_string(&self.group).unwrap_or_default();
        let passwd = std::fs::read_to_string(&self.passwd).unwrap_or_default();
        parse_group(&group, &passwd)
    }
}

/// Finds [`GROUP_NAME`] in the texts of group(5) and passwd(5).
fn parse_group(group: &str, passwd: &str) -> Option<Group> {
    let (gid, names) = group.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, _, gid, names) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        if name == GROUP_NAME { Some((gid.parse().ok()?, names)) } else { None }
    })?;
    let names: BTreeSet<&str> = names.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
    let members = passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, _, uid) = (fields.next()?, fields.next()?, fields.next()?);
        if names.contains(name) { uid.parse().ok() } else { None }
    });
    Some(Group { gid, members: members.collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP_FILE: &str = "root:x:0:\nprivnet:x:990:alice, bob,ghost\nprivnet2:x:991:carol\n";
    const PASSWD_FILE: &str = "root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1000::/:/bin/sh\nbob:x:1001:1001::/:/bin/sh\n\
                               carol:x:1002:1002::/:/bin/sh\n";

    #[test]
    fn root_and_the_group_may_change_and_their_neighbours_may_not() {
        let group = parse_group(GROUP_FILE, PASSWD_FILE);
        assert_eq!(group, Some(Group { gid: 990, members: BTreeSet::from([1000, 1001]) }));
        for (uid, gid, allowed) in [
            (0, 0, true),
            (0, 65_534, true),
            (5000, 990, true),
            (1000, 1000, true),
            (1001, 1001, true),
            (1002, 1002, false),
            (5000, 991, false),
            (5000, 0, false),
            (65_534, 65_534, false),
        ] {
            assert_eq!(may_change(Peer { uid, gid, pid: None }, group.as_ref()), allowed, "uid {uid}, gid {gid}");
        }
    }

    #[test]
    fn without_the_group_only_root_may_change() {
        assert_eq!(parse_group("privnet2:x:991:carol\n", PASSWD_FILE), None);
        assert!(may_change(Peer { uid: 0, gid: 0, pid: None }, None));
        assert!(!may_change(Peer { uid: 1000, gid: 990, pid: None }, None));
    }

    #[test]
    fn a_group_line_that_is_malformed_is_no_group() {
        for text in ["privnet", "privnet:x", "privnet:x:many:alice", "privnet:x:990"] {
            assert_eq!(parse_group(text, PASSWD_FILE), None, "{text:?}");
        }
    }
}
