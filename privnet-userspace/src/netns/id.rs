//! The identity of a namespace.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The identity of a namespace while it exists: the device and inode of its nsfs file.
///
/// Paths and process ids are no identity: both are reused while the namespace exists. The inode of a namespace that is
/// gone is reused, too: compare [`super::Netns::cookie`] when the namespace was not held meanwhile, and
/// [`super::boot_id`] first when the host may have booted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NetnsId {
    /// The device number of nsfs.
    pub dev: u64,
    /// The inode number, as in `net:[4026531840]`.
    pub ino: u64,
}

impl fmt::Display for NetnsId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "net:[{}]", self.ino)
    }
}

impl fmt::Debug for NetnsId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "net:[{}:{}]", self.dev, self.ino)
    }
}
