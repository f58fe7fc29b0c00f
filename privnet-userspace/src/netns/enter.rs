//! The one file that calls `setns` and `unshare`.
//!
//! Every function here changes the namespace of the *calling* thread and does not change it back; the callers are
//! threads that were started for it, or a process that is about to become another program.

#![expect(unsafe_code, reason = "unshare is an unsafe function, because of one flag that is not used here")]

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::mount::MountPropagationFlags;
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

use super::{Error, pin};

/// The namespace of the calling thread, which need not be the process's.
pub(super) const OWN: &str = "/proc/thread-self/ns/net";

/// Puts the calling thread into a namespace that nobody else is in, and returns its file.
pub(super) fn new_namespace() -> Result<OwnedFd, Error> {
    unshare(UnshareFlags::NEWNET)?;
    pin::open_file(Path::new(OWN))
}

/// Puts the calling thread into the namespace of `file`, and returns `file`.
pub(super) fn existing(file: OwnedFd) -> Result<OwnedFd, Error> {
    rustix::thread::move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
        .map_err(|errno| Error::errno("enter", "a network namespace", errno))?;
    Ok(file)
}

/// Gives the calling process, which is about to execute another program, network, mount and UTS namespaces of its own.
///
/// Mounts made afterwards stay its own; mounts that the host makes still show up (the tree is made a slave). The new
/// network namespace holds a loopback that is down and nothing else.
///
/// # Errors
/// [`Error::NotSingleThreaded`] when another thread would stay behind, in the old namespaces. After
/// [`Error::Kernel`] some of the namespaces may have been entered: the process should exit.
pub fn enter_new_for_exec() -> Result<(), Error> {
    let tasks = std::fs::read_dir("/proc/self/task").map_err(|source| Error::io("read", "/proc/self/task", source))?;
    let threads = tasks.count();
    if threads != 1 {
        return Err(Error::NotSingleThreaded { threads });
    }
    unshare(UnshareFlags::NEWNET | UnshareFlags::NEWNS | UnshareFlags::NEWUTS)?;
    rustix::mount::mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
        .map_err(|errno| Error::errno("make a slave mount of", "/", errno))
}

fn unshare(flags: UnshareFlags) -> Result<(), Error> {
    debug_assert!(!flags.contains(UnshareFlags::FILES), "see the proof below");
    // SAFETY: the function is unsafe because CLONE_FILES gives the thread a file table of its own. The two callers, in
    // this file, pass the constants NEWNET, NEWNS and NEWUTS; none of these touches the file table.
    unsafe { rustix::thread::unshare_unsafe(flags) }
        .map_err(|errno| Error::errno("create", "a network namespace", errno))
}
