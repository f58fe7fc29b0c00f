//! The sockets of one container: bound in its namespace, served outside it.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use super::error::Error;
use super::{PORT, own};
use crate::netns::Netns;

/// What may wait to be read by UDP, in octets as the kernel counts them, which is more than ten to one of a short question:
/// its default holds about 160 of them.
const RECEIVE_BUFFER_OCTETS: usize = 1 << 20;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;

/// The sockets of one container, bound in its namespace.
#[derive(Debug)]
pub struct Sockets {
    pub(super) udp: OwnedFd,
    pub(super) tcp: OwnedFd,
    /// To ask the container's own servers by.
    pub(super) own: Vec<OwnedFd>,
}

impl Sockets {
    /// Binds UDP and TCP port 53 of `address` in the container's namespace. The loopback need not be up yet.
    ///
    /// # Errors
    /// [`Error::AddressTaken`] when a program in the container has the address.
    pub async fn open(netns: &Netns, address: Ipv4Addr) -> Result<Self, Error> {
        let address = SocketAddrV4::new(address, PORT);
        let container = netns.id();
        netns.run(move || bind(address)).await?.map_err(|error| {
            if error.kind() == io::ErrorKind::AddrInUse {
                Error::AddressTaken { address, container }
            } else {
                Error::io("bind", format!("{address} in namespace {container}"))(error)
            }
        })
    }

    /// With sockets to ask `servers` by, the container's own.
    ///
    /// # Errors
    /// As [`open_own`].
    pub async fn with_own(self, netns: &Netns, servers: &[SocketAddr]) -> Result<Self, Error> {
        Ok(Self { own: open_own(netns, servers).await?, ..self })
    }
}

/// Opens sockets in the container's namespace to ask `servers` by; none for none.
///
/// # Errors
/// When the namespace is gone, or has no sockets of a family that the servers have.
pub async fn open_own(netns: &Netns, servers: &[SocketAddr]) -> Result<Vec<OwnedFd>, Error> {
    if servers.is_empty() {
        return Ok(Vec::new());
    }
    let (servers, container) = (servers.to_vec(), netns.id());
    let opened = netns.run(move || own::open(&servers)).await?;
    opened.map_err(Error::io("open", format!("sockets in namespace {container}")))
}

fn bind(address: SocketAddrV4) -> io::Result<Sockets> {
    let open = |kind| -> io::Result<OwnedFd> {
        let socket = rustix::net::socket_with(AddressFamily::INET, kind, SocketFlags::CLOEXEC, None)?;
        // A container's loopback may come up later than its sockets.
        sockopt::set_ip_freebind(&socket, true)?;
        Ok(socket)
    };
    let (udp, tcp) = (open(SocketType::DGRAM)?, open(SocketType::STREAM)?);
    // Connections of an earlier process that wait out their end are no reason not to listen.
    sockopt::set_socket_reuseaddr(&tcp, true)?;
    // Without the privilege to go past the system's limit, up to that.
    let forced = sockopt::set_socket_recv_buffer_size_force(&udp, RECEIVE_BUFFER_OCTETS);
    forced.or_else(|_| sockopt::set_socket_recv_buffer_size(&udp, RECEIVE_BUFFER_OCTETS))?;
    rustix::net::bind(&udp, &address)?;
    rustix::net::bind(&tcp, &address)?;
    rustix::net::listen(&tcp, BACKLOG)?;
    Ok(Sockets { udp, tcp, own: Vec::new() })
}

/// The sockets, for a server in this process.
impl From<Sockets> for (UdpSocket, TcpListener) {
    fn from(sockets: Sockets) -> Self {
        (sockets.udp.into(), sockets.tcp.into())
    }
}
