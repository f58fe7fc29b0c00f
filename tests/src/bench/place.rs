//! Throw-away namespaces with links in them, and where their pins and files are while the benchmark runs.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use ipnet::Ipv4Net;
use privnet::link::{BridgeSpec, Links, VethEnd, VethSpec, VxlanSpec, ensure_loopback_up};
use privnet::model::{IfName, Mtu};
use privnet::netns::Netns;
use privnet_ebpf::net::{MacAddr, Vni};

use crate::lab::Ground;

/// The MTU of the underlay between the hosts.
pub const UNDERLAY_MTU: u32 = 1500;
/// Where VTEPs listen (RFC 7348 section 5).
const VXLAN_PORT: u16 = 4789;

/// A part of the ground, for what one group of rows is measured with. When the last clone is dropped, what agents left
/// standing on it is taken down.
#[derive(Clone, Debug)]
pub struct Workspace {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    ground: Ground,
    bpffs: PathBuf,
}

impl Workspace {
    /// Takes a part of the ground.
    pub fn new() -> Result<Self> {
        let ground = Ground::join();
        let bpffs = ground.pin_dir();
        fs::create_dir(&bpffs).with_context(|| format!("cannot create {}", bpffs.display()))?;
        Ok(Self { inner: Arc::new(Inner { ground, bpffs }) })
    }

    /// A directory for files.
    pub fn files(&self) -> &Path {
        self.inner.ground.directory()
    }

    /// A directory for pins.
    pub fn bpffs(&self) -> &Path {
        &self.inner.bpffs
    }

    /// What the names of our namespaces begin with.
    pub fn prefix(&self) -> &str {
        self.inner.ground.prefix()
    }

    /// Makes a namespace with a name, as a container is handed over, and returns its path too.
    pub fn pinned(&self, name: &str) -> Result<(Netns, PathBuf)> {
        Ok(self.inner.ground.pinned(&format!("c-{name}"))?)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.ground.take_down();
    }
}

/// A namespace that lives as long as this value, and a netlink socket in it.
#[derive(Debug)]
pub struct Place {
    /// The namespace.
    pub netns: Netns,
    /// The socket.
    pub links: Links,
}

impl Place {
    /// Makes a namespace as the agent makes one: without forwarding and IPv6.
    pub async fn new() -> Result<Self> {
        Self::of(Netns::create_anonymous()?).await
    }

    /// Prepares a namespace that was made elsewhere in the same way.
    pub async fn of(netns: Netns) -> Result<Self> {
        let settings = [
            ("net/ipv4/ip_forward", "0"),
            ("net/ipv6/conf/all/disable_ipv6", "1"),
            ("net/ipv6/conf/default/disable_ipv6", "1"),
        ];
        netns.set_sysctls(&settings).await?;
        let links = Links::open(&netns).await?;
        ensure_loopback_up(&links).await?;
        Ok(Self { netns, links })
    }

    /// The index of a link.
    pub async fn index(&self, name: &str) -> Result<u32> {
        Ok(self.links.link(name).await?.index)
    }

    /// Sets a link up.
    pub async fn up(&self, name: &str) -> Result<()> {
        Ok(self.links.set_up(self.index(name).await?).await?)
    }

    /// Gives a link an address of the benchmark's network and sets it up.
    pub async fn address(&self, name: &str, address: Ipv4Net) -> Result<()> {
        let index = self.index(name).await?;
        self.links.add_address(index, address).await?;
        Ok(self.links.set_up(index).await?)
    }

    /// Makes a bridge of the product's kind, up.
    pub async fn bridge(&self, mtu: u32) -> Result<()> {
        let name = interface("br0")?;
        let spec = BridgeSpec { name: &name, into: &self.netns, mac: MacAddr::of_bridge([0, 0, 0, 1]), mtu };
        self.links.create_bridge(&spec).await?;
        self.up("br0").await
    }

    /// Makes a link a port of the bridge, and sets it up.
    pub async fn port(&self, name: &str) -> Result<()> {
        let bridge = self.index("br0").await?;
        self.links.set_controller(self.index(name).await?, Some(bridge)).await?;
        self.up(name).await
    }
}

/// Makes a veth with an end in each place; the second has `mac`.
pub async fn veth(near: (&Place, &str), far: (&Place, &str), mac: MacAddr, mtu: u32) -> Result<()> {
    let (near_name, far_name) = (interface(near.1)?, interface(far.1)?);
    let spec = VethSpec {
        a: VethEnd { name: &near_name, netns: &near.0.netns, mac: mac.near_end(), mtu },
        b: VethEnd { name: &far_name, netns: &far.0.netns, mac, mtu },
    };
    Ok(near.0.links.create_veth(&spec).await?)
}

/// Two hosts on one underlay.
#[derive(Debug)]
pub struct Hosts {
    /// The hosts' own namespaces.
    pub hosts: [Place; 2],
}

impl Hosts {
    /// The address of a host's VTEP.
    pub const VTEPS: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2)];
    /// The name of a host's interface on the underlay.
    pub const UNDERLAY: &str = "eth0";

    /// Makes the hosts and joins them by a veth.
    pub async fn new() -> Result<Self> {
        let hosts = [Place::new().await?, Place::new().await?];
        let ends = [(&hosts[0], Self::UNDERLAY), (&hosts[1], Self::UNDERLAY)];
        veth(ends[0], ends[1], MacAddr::of_member([192, 0, 2, 2], 0), UNDERLAY_MTU).await?;
        for (host, vtep) in hosts.iter().zip(Self::VTEPS) {
            host.address(Self::UNDERLAY, Ipv4Net::new(vtep, 24)?).await?;
        }
        Ok(Self { hosts })
    }

    /// Makes `vxlan0` in `into`, up, with its socket in host `host`.
    pub async fn vtep(&self, host: usize, into: &Place, vni: Vni, proxy: bool) -> Result<()> {
        let name = interface("vxlan0")?;
        let spec = VxlanSpec {
            name: &name,
            into: &into.netns,
            vni,
            local: Self::VTEPS[host],
            port: VXLAN_PORT,
            mac: MacAddr::of_vtep(Self::VTEPS[host].octets()),
            mtu: mtu()?.carrier,
            proxy,
            udp_checksum: false,
        };
        self.hosts[host].links.create_vxlan(&spec).await?;
        into.up("vxlan0").await
    }
}

/// The MTUs that follow from the underlay's.
pub fn mtu() -> Result<Mtu> {
    Mtu::from_underlay(UNDERLAY_MTU).map_err(Into::into)
}

/// A name for an interface.
pub fn interface(name: &str) -> Result<IfName> {
    Ok(name.parse()?)
}
