//! The one file that calls `setns` and `unshare`.
//!
//! Each function changes the namespace of the *calling* thread and does not change it back. The callers are threads
//! that were started for it, and a process that is about to execute another program.

#![expect(unsafe_code, reason = "unshare is an unsafe function, because of one flag that is not used here")]

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::mount::MountPropagationFlags;
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

use super::{Error, file};

/// Puts the calling thread into a new namespace, and returns its file.
pub(super) fn new_namespace() -> Result<OwnedFd, Error> {
    unshare(UnshareFlags::NEWNET)?;
    file::open(Path::new(file::OWN))
}

/// Puts the calling thread into the namespace of the open file `netns`, and returns the file.
pub(super) fn existing(netns: OwnedFd) -> Result<OwnedFd, Error> {
    rustix::thread::move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))
        .map_err(|errno| Error::errno("enter", "a network namespace", errno))?;
    Ok(netns)
}

/// Gives the calling process, which is about to execute another program, network, mount and UTS namespaces of its own.
///
/// The process sees mounts that the host makes later, and the host does not see those of the process (the tree becomes
/// a slave mount). The new network namespace holds a loopback that is down and nothing else.
///
/// # Errors
/// [`Error::NotSingleThreaded`] when the process has another thread, which would stay in the old namespaces. After
/// [`Error::Kernel`] the process may be in some of the new namespaces, and should exit.
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
