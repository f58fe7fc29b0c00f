//! The holder of a UDP port, for the message of `EADDRINUSE`. Changes nothing.

use std::fmt;
use std::fs;
use std::path::Path;

use super::{Error, LinkKind, Links};
use crate::netns::Netns;

/// The holder of a UDP port in a namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PortHolder {
    /// A VXLAN link in the same namespace.
    Vxlan {
        /// Its name.
        name: String,
        /// Whether it is flow-based. Such a link shares its port with no other link.
        external: bool,
    },
    /// A holder that the agent cannot see: a link in another namespace, or a process of another PID namespace.
    Unseen,
    /// A process's socket.
    Process {
        /// Its name, as in `ps`.
        name: String,
        /// Its id.
        pid: u32,
    },
}

impl PortHolder {
    /// Whether no VXLAN link of privnet can have the port beside it.
    #[must_use]
    pub const fn excludes_vxlan(&self) -> bool {
        matches!(self, Self::Process { .. } | Self::Vxlan { external: true, .. })
    }
}

impl fmt::Display for PortHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vxlan { name, external: false } => write!(f, "vxlan link {name}"),
            Self::Vxlan { name, external: true } => write!(f, "flow-based vxlan link {name}, which shares with none"),
            Self::Unseen => f.write_str("a link in another network namespace, or an unseen process"),
            Self::Process { name, pid } => write!(f, "process {name} ({pid})"),
        }
    }
}

/// The holder of UDP `port` in `netns`, the namespace of `links`; `None` when the port is free.
///
/// A port with a holder can still be used: VXLAN links with the same options share a socket, as those of privnet do.
///
/// # Errors
/// When the namespace cannot be observed.
pub async fn udp_port_holder(netns: &Netns, links: &Links, port: u16) -> Result<Option<PortHolder>, Error> {
    let inodes = netns.run(move || sockets_on(port)).await?;
    if inodes.is_empty() {
        return Ok(None);
    }
    // A socket of the kernel has an inode, too, but no process has it open.
    if let Some(process) = inodes.into_iter().find_map(process_with) {
        return Ok(Some(process));
    }
    let vxlan = links.links().await?.into_iter().find_map(|link| {
        let LinkKind::Vxlan(vxlan) = link.kind else { return None };
        let holds = vxlan.port == port && link.up;
        holds.then_some(PortHolder::Vxlan { name: link.name, external: vxlan.external })
    });
    Ok(Some(vxlan.unwrap_or(PortHolder::Unseen)))
}

/// The inodes of the UDP sockets on `port` in the calling thread's namespace.
fn sockets_on(port: u16) -> Vec<u64> {
    // /proc/net is of the process's namespace, this path of the thread's.
    ["udp", "udp6"]
        .into_iter()
        .filter_map(|table| fs::read_to_string(Path::new("/proc/thread-self/net").join(table)).ok())
        .flat_map(|table| table.lines().skip(1).filter_map(|line| inode_on(line, port)).collect::<Vec<_>>())
        .collect()
}

/// Reads a line of `/proc/net/udp` (proc_pid_net(5)): the second column is `address:port` in hex, the tenth the inode.
fn inode_on(line: &str, port: u16) -> Option<u64> {
    let mut columns = line.split_ascii_whitespace();
    let (_, local) = columns.nth(1)?.rsplit_once(':')?;
    let inode = columns.nth(7)?.parse().ok()?;
    (u16::from_str_radix(local, 16) == Ok(port)).then_some(inode)
}

fn process_with(inode: u64) -> Option<PortHolder> {
    let socket = format!("socket:[{inode}]");
    let numeric = |entry: fs::DirEntry| entry.file_name().to_str()?.parse::<u32>().ok();
    fs::read_dir("/proc").ok()?.flatten().filter_map(numeric).find_map(|pid| {
        let mut files = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten();
        files.find(|file| fs::read_link(file.path()).is_ok_and(|target| target.as_os_str() == socket.as_str()))?;
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        Some(PortHolder::Process { name: name.trim_end().to_owned(), pid })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_udp_table_is_of_its_port_only() {
        let line = "  811: 00000000:12B5 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 8149 2";
        assert_eq!(inode_on(line, 4789), Some(8149));
        assert_eq!(inode_on(line, 4790), None);
        assert_eq!(inode_on("", 4789), None);
    }
}
