//! Makes the TUN link that a userspace device stands behind. Never brings it up and never gives it an address.

#![expect(unsafe_code, reason = "rustix has no wrapper for TUNSETIFF, and every ioctl is unsafe")]

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};
use rustix::ioctl::{IntegerSetter, Opcode, Setter, opcode};

use super::offload::Offloads;
use crate::model::IfName;

/// Where the kernel gives out TUN links.
pub(super) const CONTROL_FILE: &str = "/dev/net/tun";

/// `TUNSETIFF`, include/uapi/linux/if_tun.h.
const TUNSETIFF: Opcode = opcode::write::<i32>(b'T', 202);
/// `TUNSETOFFLOAD`, as above: its argument is the flags themselves.
const TUNSETOFFLOAD: Opcode = opcode::write::<u32>(b'T', 208);
/// Packets of IP without Ethernet.
const IFF_TUN: u16 = 0x0001;
/// No four bytes of packet information before each packet.
const IFF_NO_PI: u16 = 0x1000;
/// A `struct virtio_net_hdr` before each packet.
const IFF_VNET_HDR: u16 = 0x4000;
/// The reader completes checksums.
const TUN_F_CSUM: usize = 0x01;
/// It splits super-packets of TCP over IPv4. Those of UDP (`TUN_F_USO4`) are left to the kernel: up to 64 kB in each place of the
/// link's queue would be charged to no socket, where a sender of TCP pays for what it may have to send again.
const TUN_F_TSO4: usize = 0x02;
/// Fail rather than join a link that is there.
const IFF_TUN_EXCL: u16 = 0x8000;

/// `struct ifreq` of include/uapi/linux/if.h as TUNSETIFF reads and writes it: 40 bytes on 64-bit kernels.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; 16],
    flags: u16,
    _rest: [u8; 22],
}

const _: () = assert!(size_of::<InterfaceRequest>() == 40);

/// Makes the link in the calling thread's namespace. It exists as long as the file is open, in any process.
///
/// The file is non-blocking and close-on-exec; one read or write is one packet, or with offloads one super-packet behind its
/// header.
///
/// # Errors
/// EBUSY when an interface of that name exists, ENOENT without the TUN driver.
pub(super) fn create(interface: &IfName, offloads: Offloads) -> io::Result<OwnedFd> {
    let file = rustix::fs::open(CONTROL_FILE, OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?;
    let mut name = [0; 16];
    for (to, from) in name.iter_mut().zip(interface.as_str().bytes().take(15)) {
        *to = from;
    }
    let header = if offloads.tcp { IFF_VNET_HDR } else { 0 };
    let flags = IFF_TUN | IFF_NO_PI | IFF_TUN_EXCL | header;
    let request = InterfaceRequest { name, flags, _rest: [0; 22] };
    // SAFETY: `file` is /dev/net/tun, whose TUNSETIFF copies one `struct ifreq` (40 bytes, asserted above, no padding)
    // in, and the chosen name back out into the same memory, which `Setter` owns for the call and no code reads after.
    unsafe { rustix::ioctl::ioctl(&file, Setter::<TUNSETIFF, InterfaceRequest>::new(request)) }?;
    if offloads.tcp {
        take(&file, TUN_F_CSUM | TUN_F_TSO4)?;
    }
    Ok(file)
}

/// Says what the reader of the link does for the kernel.
fn take(file: &OwnedFd, flags: usize) -> io::Result<()> {
    // SAFETY: `file` is a TUN link, whose TUNSETOFFLOAD takes flags in the place of a pointer and dereferences nothing.
    unsafe { rustix::ioctl::ioctl(file, IntegerSetter::<TUNSETOFFLOAD>::new_usize(flags)) }?;
    Ok(())
}
