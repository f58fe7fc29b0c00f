//! What stood in a container's `resolv.conf` before, and what was written over it: one file per path in the state directory.
//!
//! A record is on the disk before the container's file is written and goes after that is put back, so that whatever an agent or
//! the power dies of, the next agent knows whose the content is. It outlives a reboot, as the container's file may.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::file::FileId;
use crate::agent::host::journal::{remove_if_there, replace};
use crate::agent::names::search::WRITTEN;
use crate::dns;
use crate::model::FileError;
use crate::netns::NetnsId;

/// The version of the record's form.
const VERSION: u32 = 1;

/// What is known of one `resolv.conf`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// The version of this form.
    version: u32,
    /// Where the file is.
    pub path: PathBuf,
    /// Which file it is; nothing while there was none.
    pub file: Option<FileId>,
    /// The namespace of its container.
    pub netns: NetnsId,
    /// The boot in which that namespace was.
    pub boot_id: String,
    /// Whether the agent writes the file; it does not where the caller does.
    pub is_ours_to_write: bool,
    /// What stood there before; nothing when there was no file.
    pub before: Option<String>,
    /// What was written, the latest last, which may not be there yet. Empty before the first time.
    pub written: Vec<String>,
}

impl Kept {
    /// A file that is not written yet.
    #[must_use]
    pub fn new(path: &Path, netns: NetnsId, boot_id: &str, is_ours_to_write: bool) -> Self {
        Self {
            version: VERSION,
            path: path.to_owned(),
            file: None,
            netns,
            boot_id: boot_id.to_owned(),
            is_ours_to_write,
            before: None,
            written: Vec::new(),
        }
    }

    /// Takes `content` for what stood there before. What an earlier attach wrote, whose record is lost, says nothing of that.
    pub fn stood(&mut self, content: Option<&str>) {
        let ours = content.filter(|content| content.starts_with(WRITTEN));
        self.before = if ours.is_some() { Some(String::new()) } else { content.map(str::to_owned) };
        self.written = ours.map(str::to_owned).into_iter().collect();
    }

    /// Notes what is about to be written.
    pub fn note(&mut self, text: &str) {
        let last = self.written.pop().filter(|last| last != text);
        self.written = last.into_iter().chain([text.to_owned()]).collect();
    }

    /// Whether `content` is what was written, or what a write that was cut short left of it.
    #[must_use]
    pub fn is_written(&self, content: Option<&str>) -> bool {
        let Some(content) = content else { return false };
        let texts = || self.written.iter().chain(&self.before);
        let torn = |new: &String| {
            let rest = content.strip_prefix(new.as_str()).filter(|rest| !rest.is_empty());
            rest.is_some_and(|rest| texts().any(|old| old.len() == content.len() && old.ends_with(rest)))
        };
        !self.written.is_empty() && (self.written.iter().any(|text| text == content) || texts().any(torn))
    }

    /// Whether `content` is what stood there before.
    #[must_use]
    pub fn stands_again(&self, content: Option<&str>) -> bool {
        self.before.as_deref() == content
    }

    /// The servers that it named before, apart from `ours`: to ask that one for what it asks would go round for ever.
    #[must_use]
    pub fn servers(&self, ours: Ipv4Addr) -> Vec<SocketAddr> {
        let named = dns::servers_of(self.before.as_deref().unwrap_or_default());
        named.into_iter().filter(|server| server.ip().to_canonical() != ours).collect()
    }
}

/// Whether a `resolv.conf` leads to `ours` by another server already: Docker notes in it (since 28) which servers its own asks,
/// and where that is `ours` (`docker run --dns 127.0.0.82`), names work, and the two must not ask each other.
#[must_use]
pub fn leads_to(content: &str, ours: Ipv4Addr) -> bool {
    let ours = ours.to_string();
    let servers = content.lines().filter_map(|line| line.trim_start_matches('#').trim().strip_prefix("ExtServers:"));
    let mut words = servers.flat_map(|servers| servers.split(|c: char| !c.is_ascii_digit() && c != '.'));
    words.any(|word| word == ours)
}

/// The directory of the records.
#[derive(Debug)]
pub struct Directory(PathBuf);

impl Directory {
    /// Reads all records. One that cannot be read is set aside, and its container's file stays as it is.
    ///
    /// # Errors
    /// When the directory cannot be made or listed.
    pub fn open(path: &Path) -> Result<(Self, BTreeMap<PathBuf, Kept>)> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(FileError::at("create", path))?;
        let mut found = BTreeMap::new();
        for entry in fs::read_dir(path).map_err(FileError::at("list", path))? {
            let path = entry.map_err(FileError::at("list", path))?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let text = fs::read(&path).map_err(FileError::at("read", &path))?;
            match serde_json::from_slice::<Kept>(&text) {
                Ok(kept) if kept.version == VERSION => drop(found.insert(kept.path.clone(), kept)),
                Ok(_) | Err(_) => {
                    let aside = path.with_extension("json.unknown");
                    tracing::warn!("{} cannot be read, and is moved to {}", path.display(), aside.display());
                    fs::rename(&path, &aside).map_err(FileError::at("move aside", &path))?;
                }
            }
        }
        Ok((Self(path.to_owned()), found))
    }

    /// Writes a record, for good.
    ///
    /// # Errors
    /// The record is as it was.
    pub fn write(&self, kept: &Kept) -> Result<()> {
        replace(&self.path(&kept.path), &serde_json::to_vec_pretty(kept)?)
    }

    /// Removes a record; absent is done.
    ///
    /// # Errors
    /// It may remain.
    pub fn remove(&self, kept: &Kept) -> Result<()> {
        remove_if_there(&self.path(&kept.path))
    }

    /// Named by what the path hashes to: a path is no file name.
    fn path(&self, of: &Path) -> PathBuf {
        let name = Uuid::new_v5(&Uuid::NAMESPACE_URL, of.as_os_str().as_encoded_bytes());
        self.0.join(format!("{name}.json"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 82);

    fn kept(before: Option<&str>) -> Kept {
        let mut kept = Kept::new(Path::new("/run/a"), NetnsId { dev: 4, ino: 7 }, "boot", true);
        kept.stood(before);
        kept
    }

    #[test]
    fn what_was_written_is_known_also_where_the_write_was_cut_short_and_nothing_else_is() {
        let (long, short) = ("search a b c\nnameserver 192.0.2.1\n", "nameserver 127.0.0.82\n");
        let mut kept = kept(Some(long));
        assert!(!kept.is_written(Some(long)) && kept.stands_again(Some(long)), "it is not written yet");
        kept.note(short);
        for ours in [short.to_owned(), format!("{short}{}", &long[short.len()..])] {
            assert!(kept.is_written(Some(&ours)), "{ours}");
        }
        for foreign in
            [Some(long), None, Some(""), Some(&format!("{short}# by hand\n")), Some("nameserver 192.0.2.2\n")]
        {
            assert!(!kept.is_written(foreign), "{foreign:?}");
        }
        // The next text, over which the one before may stand still; a third makes the first forgotten.
        let longer = "# Written by privnet.\nnameserver 127.0.0.82\nsearch a b\n";
        kept.note(longer);
        assert!(kept.is_written(Some(short)) && kept.is_written(Some(longer)));
        kept.note("third\n");
        assert!(!kept.is_written(Some(short)) && kept.is_written(Some(longer)) && kept.is_written(Some("third\n")));
        assert!(kept.is_written(Some(&format!("third\n{}", &longer[6..]))));
        kept.note("third\n");
        assert_eq!(kept.written, ["third\n"], "written once more, it is there for sure");
        assert!(kept.is_written(Some("third\n")) && !kept.is_written(Some(long)));
        // What an earlier attach left is ours to write over, and nothing to put back.
        kept.stood(Some(longer));
        assert!(kept.is_written(Some(longer)) && kept.before.as_deref() == Some(""));
    }

    #[test]
    fn the_servers_of_before_are_asked_and_we_are_not_among_them() {
        let text = "nameserver 127.0.0.11\nnameserver 127.0.0.82\nnameserver ::ffff:127.0.0.82\nsearch x\n";
        assert_eq!(kept(Some(text)).servers(OURS), ["127.0.0.11:53".parse().expect("an address")]);
        assert_eq!(kept(Some("# Written by privnet.\nnameserver 127.0.0.82\n")).servers(OURS), []);
        assert_eq!(kept(None).servers(OURS), []);
        for (text, leads) in [
            ("nameserver 127.0.0.11\n# ExtServers: [127.0.0.82]\n", true),
            ("# ExtServers: [host(192.0.2.1) 127.0.0.82]\n", true),
            ("# ExtServers: [host(127.0.0.53)]\n", false),
            ("# ExtServers: [127.0.0.8]\n", false),
            ("# Overrides: [nameservers]\nnameserver 127.0.0.82\n", false),
        ] {
            assert_eq!(leads_to(text, OURS), leads, "{text}");
        }
    }

    #[test]
    fn records_outlive_their_writer_and_what_is_none_is_set_aside() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("resolv-conf");
        let (records, found) = Directory::open(&path).expect("opened");
        assert!(found.is_empty());
        let mut kept = kept(Some("nameserver 192.0.2.1\n"));
        kept.note("ours\n");
        records.write(&kept).expect("written");
        let (records, found) = Directory::open(&path).expect("opened");
        assert_eq!(found.into_values().collect::<Vec<_>>(), [kept.clone()]);
        fs::write(path.join("torn.json"), "{").expect("written");
        records.write(&Kept { version: 2, path: "/run/b".into(), ..kept.clone() }).expect("written");
        let (records, found) = Directory::open(&path).expect("a record that is none is no reason not to start");
        assert_eq!(found.into_keys().collect::<Vec<_>>(), [PathBuf::from("/run/a")]);
        records.remove(&kept).expect("removed");
        records.remove(&kept).expect("absent is done");
        assert!(Directory::open(&path).expect("opened").1.is_empty());
    }
}
