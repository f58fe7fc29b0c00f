//! Which of the kernel's offloads a userspace device uses: super-packets instead of one system call for each packet.
//!
//! | since | what | source |
//! |---|---|---|
//! | 6.2 | a TUN link takes super-packets of UDP | include/uapi/linux/if_tun.h, TUN_F_USO4 |
//! | 6.8.5 | super-packets of UDP survive a VXLAN device, and on the way to an app | commit 3d010c8031e3, "udp: do not accept non-tunnel GSO skbs landing in a tunnel" |

use serde::{Deserialize, Serialize};

use super::datagrams::{MOST_OCTETS, MOST_SEGMENTS};

/// What was asked for with `--offload`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OffloadChoice {
    /// What the kernel is trusted with.
    #[default]
    Auto,
    /// Nothing: one system call for each packet.
    Off,
}

/// The largest super-packet of a TUN link with this MTU, in bytes (its `gso_max_size`): as many packets as one call sends when they
/// are encrypted. TCP's are smaller by room for its headers.
#[must_use]
pub fn super_packet_bytes(mtu: u32) -> u32 {
    let bytes = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let packets = (bytes(MOST_OCTETS) / (mtu + OVERHEAD_BYTES)).min(bytes(MOST_SEGMENTS));
    (packets * mtu.saturating_sub(HEADER_BYTES) + TCP_ROOM_BYTES).min(bytes(GSO_MAX_SIZE))
}

/// What WireGuard adds to a packet that is as long as the MTU: 16 bytes before it, and a tag of 16.
const OVERHEAD_BYTES: u32 = 32;
/// The headers of IPv4 and TCP.
const HEADER_BYTES: u32 = 40;
/// `MAX_TCP_HEADER` and one, include/net/tcp.h and net/core/sock.c.
const TCP_ROOM_BYTES: u32 = 321;
/// What every kernel takes.
const GSO_MAX_SIZE: usize = 65_536;
/// Before this kernel, super-packets of UDP are lost behind a VXLAN device.
const UDP: Version = Version(6, 8, 5);

/// A version of Linux, as in `6.8.5`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Version(u16, u16, u16);

impl Version {
    /// Of what `uname -r` says; nothing of what is no version.
    fn of(release: &str) -> Option<Self> {
        let mut numbers = release.split(|char: char| !char.is_ascii_digit()).map(str::parse);
        let mut next = || numbers.next()?.ok();
        Some(Self(next()?, next()?, next().unwrap_or(0)))
    }
}

/// Which offloads a device uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Offloads {
    /// Super-packets of TCP at the TUN link, and checksums that are left to be completed.
    pub(super) tcp: bool,
    /// Super-packets of UDP: to the app, and on the carrier.
    pub(super) udp: bool,
}

impl Offloads {
    /// Those that are wanted, and that this kernel is trusted with.
    pub(super) fn choose(choice: OffloadChoice) -> Self {
        match choice {
            OffloadChoice::Auto => Self::of(&rustix::system::uname().release().to_string_lossy()),
            OffloadChoice::Off => Self::default(),
        }
    }

    fn of(release: &str) -> Self {
        Self { tcp: true, udp: Version::of(release).is_some_and(|version| version >= UDP) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_super_packet_is_as_many_packets_as_one_call_sends() {
        for (mtu, packets) in [(1390, 46), (8890, 7), (576, 64)] {
            let payload = super_packet_bytes(mtu) - TCP_ROOM_BYTES;
            // Without timestamps, and with them.
            for segment in [mtu - HEADER_BYTES, mtu - HEADER_BYTES - 12] {
                let sent = payload / segment;
                assert!(sent == packets || mtu == 576, "{mtu}: {sent}");
                assert!(sent * (mtu + OVERHEAD_BYTES) <= 65_507, "{mtu}: {sent}");
            }
        }
    }

    #[test]
    fn super_packets_of_udp_are_used_from_the_kernel_on_that_does_not_lose_them() {
        for (release, udp) in [
            ("6.1.0-42-amd64", false),
            ("6.8.4", false),
            ("6.8.0-60-generic", false),
            ("6.8.5", true),
            ("6.12.57+deb13-amd64", true),
            ("6.18.44-fc-v857", true),
            ("10.0", true),
            ("mainline", false),
        ] {
            assert_eq!(Offloads::of(release), Offloads { tcp: true, udp }, "{release}");
        }
    }
}
