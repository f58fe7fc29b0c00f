//! The kind of a namespace, which the kernel tells through `ioctl` only.

#![expect(unsafe_code, reason = "rustix has no wrapper for NS_GET_NSTYPE, and describing an ioctl is unsafe")]

use std::ffi::c_void;
use std::os::fd::BorrowedFd;

use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, opcode};

/// The `CLONE_NEW…` flag of an open nsfs file's namespace (ioctl_nsfs(2), since Linux 4.11).
pub(super) fn of(nsfs_file: BorrowedFd<'_>) -> rustix::io::Result<u32> {
    // SAFETY: `GetNamespaceType` describes the request as the kernel defines it, see its own proof. On a file of
    // another file system the kernel answers ENOTTY; the request has no argument, so the kernel has nothing to write
    // to.
    unsafe { rustix::ioctl::ioctl(nsfs_file, GetNamespaceType) }
}

/// The name of the kind of a namespace, for messages.
pub(super) fn name(kind: u32) -> &'static str {
    match kind {
        NETWORK => "a network namespace",
        0x0002_0000 => "a mount namespace",
        0x0200_0000 => "a cgroup namespace",
        0x0400_0000 => "a UTS namespace",
        0x0800_0000 => "an IPC namespace",
        0x1000_0000 => "a user namespace",
        0x2000_0000 => "a PID namespace",
        0x0000_0080 => "a time namespace",
        _ => "a namespace of unknown kind",
    }
}

/// `CLONE_NEWNET`, include/uapi/linux/sched.h.
pub(super) const NETWORK: u32 = 0x4000_0000;

struct GetNamespaceType;

// SAFETY: NS_GET_NSTYPE is `_IO(0xb7, 3)` (include/uapi/linux/nsfs.h): the kernel takes no argument, so the null
// pointer is never followed and nothing is mutated, and the return value is the answer.
unsafe impl Ioctl for GetNamespaceType {
    type Output = u32;

    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        opcode::none(0xb7, 3)
    }

    fn as_ptr(&mut self) -> *mut c_void {
        std::ptr::null_mut()
    }

    unsafe fn output_from_ptr(answer: IoctlOutput, _: *mut c_void) -> rustix::io::Result<u32> {
        Ok(answer.cast_unsigned())
    }
}
