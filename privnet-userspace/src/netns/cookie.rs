//! The cookie of a namespace: a number that the kernel assigns once in a boot. Inode numbers are reused, cookies are
//! not.

#![expect(unsafe_code, reason = "rustix has no wrapper for SO_NETNS_COOKIE")]

use std::io;
use std::mem::size_of;
use std::os::fd::AsRawFd;

use nix::libc::{self, c_int, socklen_t};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use super::{Error, Netns};

/// `SO_NETNS_COOKIE`, include/uapi/asm-generic/socket.h, since Linux 5.14: a `u64`.
const SO_NETNS_COOKIE: c_int = 71;

impl Netns {
    /// The namespace's cookie, which no other namespace of this boot has (`SO_NETNS_COOKIE`).
    ///
    /// # Errors
    /// [`Error::Kernel`] before Linux 5.14, and when the process may open no more files.
    pub async fn cookie(&self) -> Result<u64, Error> {
        self.run(of_this_thread).await?
    }
}

/// The id of this boot, a UUID: together with [`Netns::cookie`] it identifies a namespace for ever.
///
/// # Errors
/// [`Error::Kernel`] when `/proc` is not mounted.
pub fn boot_id() -> Result<String, Error> {
    const FILE: &str = "/proc/sys/kernel/random/boot_id";
    let text = std::fs::read_to_string(FILE).map_err(|source| Error::io("read", FILE, source))?;
    Ok(text.trim().to_owned())
}

/// The cookie of the calling thread's namespace.
fn of_this_thread() -> Result<u64, Error> {
    const WHAT: &str = "the cookie of a network namespace";
    // The cookie is read from a socket, and this kind needs neither a link nor a permission.
    let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
        .map_err(|errno| Error::errno("read", WHAT, errno))?;
    let mut cookie = 0_u64;
    let mut bytes: socklen_t = const { size_of::<u64>() as socklen_t };
    // SAFETY: the descriptor is open until the end of the function; the kernel writes at most `bytes` bytes, which is
    // the size of `cookie`, and the length that it wrote into `bytes`; both outlive the call, and any bytes are a
    // `u64`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut bytes,
        )
    };
    if result == 0 { Ok(cookie) } else { Err(Error::io("read", WHAT, io::Error::last_os_error())) }
}
