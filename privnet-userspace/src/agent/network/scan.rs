//! One look at what the kernel holds of a network on this host. Each list is read once, by the first kind that needs it.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use anyhow::Result;
use privnet_ebpf::abi::{MemberRow, PortRow};
use tokio::sync::OnceCell;

use super::local::{LocalNetwork, MemberNamespaces, Programs};
use crate::agent::host::journal::Record;
use crate::agent::netns_links::NetnsLinks;
use crate::link::{BridgeFdbEntry, Link, LinkKind, Route};
use crate::model::PublicKey;
use crate::topology::ownership;
use crate::wireguard::DeviceState;

/// A look at the network's own objects.
pub struct NetworkScan<'a> {
    /// The network.
    pub net: &'a LocalNetwork,
    netns: Option<Arc<NetnsLinks>>,
    programs: Option<Programs>,
    links: BTreeMap<String, Link>,
    bridge_rows: OnceCell<Vec<BridgeFdbEntry>>,
    ports: OnceCell<BTreeMap<u32, PortRow>>,
    member_rows: OnceCell<BTreeMap<Ipv4Addr, MemberRow>>,
}

/// A look at the objects of one member of this host.
pub struct MemberScan<'a> {
    /// The look that it is a part of.
    pub network: &'a NetworkScan<'a>,
    /// The member's record.
    pub record: &'a Record,
    /// The member's namespaces.
    pub namespaces: Arc<MemberNamespaces>,
    /// The member's veth pair, when both ends are there and fit; read by the veth's file.
    pub veth: OnceCell<Option<VethPair>>,
    app_links: OnceCell<Vec<Link>>,
    app_routes: OnceCell<Vec<Route>>,
    /// The member's WireGuard device, when it is there; read by the device's file.
    pub device: OnceCell<Option<SeenDevice>>,
}

/// A veth pair as it was seen.
pub struct VethPair {
    /// The end in the network netns.
    pub near: Link,
    /// The end in the binding netns.
    pub far: Link,
    /// Whether the near end is a port of `br0`.
    pub bridged: bool,
}

/// A WireGuard device as it was seen.
pub enum SeenDevice {
    /// It, its interface and its public key.
    Sound(DeviceState, Box<Link>, PublicKey),
    /// Not as any plan could want it, in the given way.
    Broken(String),
}

impl<'a> NetworkScan<'a> {
    /// Begins a look.
    ///
    /// # Errors
    /// When the programs or the network netns cannot be opened, or its links not listed.
    pub async fn begin(net: &'a LocalNetwork) -> Result<Self> {
        net.adopt_programs().await?;
        let netns = net.reopen_netns().await?;
        let links = match &netns {
            Some(netns) => netns.links.links().await?,
            None => Vec::new(),
        };
        Ok(Self {
            net,
            netns,
            programs: net.programs(),
            links: links.into_iter().map(|link| (link.name.clone(), link)).collect(),
            bridge_rows: OnceCell::new(),
            ports: OnceCell::new(),
            member_rows: OnceCell::new(),
        })
    }

    /// The network netns, when it is there.
    pub fn netns(&self) -> Option<&NetnsLinks> {
        self.netns.as_deref()
    }

    /// The loaded programs, when they are.
    pub const fn programs(&self) -> Option<&Programs> {
        self.programs.as_ref()
    }

    /// The links of the network netns, by name.
    pub const fn links(&self) -> &BTreeMap<String, Link> {
        &self.links
    }

    /// `br0`, when it is there and a bridge.
    pub fn bridge(&self) -> Option<&Link> {
        self.links.get(ownership::BRIDGE).filter(|link| link.kind == LinkKind::Bridge)
    }

    /// What is called `vxlan0`, when it is there.
    pub fn vtep(&self) -> Option<&Link> {
        self.links.get(ownership::VTEP)
    }

    /// The rows of the bridge's FDB; none without a bridge.
    ///
    /// # Errors
    /// When they cannot be read.
    pub async fn bridge_rows(&self) -> Result<&[BridgeFdbEntry]> {
        let read = || async {
            match (&self.netns, self.bridge()) {
                (Some(netns), Some(bridge)) => Ok::<_, anyhow::Error>(netns.links.bridge_fdb(bridge.index).await?),
                (_, _) => Ok(Vec::new()),
            }
        };
        Ok(self.bridge_rows.get_or_try_init(read).await?)
    }

    /// The rows that bind interfaces to members; none without programs.
    ///
    /// # Errors
    /// When they cannot be read.
    pub async fn ports(&self) -> Result<&BTreeMap<u32, PortRow>> {
        let read = || async {
            match &self.programs {
                Some(programs) => Ok::<_, anyhow::Error>(programs.lock().await.ports()?),
                None => Ok(BTreeMap::new()),
            }
        };
        self.ports.get_or_try_init(read).await
    }

    /// The rows that say where members live; none without programs.
    ///
    /// # Errors
    /// When they cannot be read.
    pub async fn member_rows(&self) -> Result<&BTreeMap<Ipv4Addr, MemberRow>> {
        let read = || async {
            match &self.programs {
                Some(programs) => Ok::<_, anyhow::Error>(programs.lock().await.members()?),
                None => Ok(BTreeMap::new()),
            }
        };
        self.member_rows.get_or_try_init(read).await
    }
}

impl<'a> MemberScan<'a> {
    /// Begins a look at one member.
    ///
    /// # Errors
    /// When one of its namespaces is there and cannot be opened.
    pub async fn begin(network: &'a NetworkScan<'a>, record: &'a Record) -> Result<Self> {
        let namespaces = network.net.namespaces_of(record.id).await?;
        Ok(Self {
            network,
            record,
            namespaces,
            veth: OnceCell::new(),
            app_links: OnceCell::new(),
            app_routes: OnceCell::new(),
            device: OnceCell::new(),
        })
    }

    /// The network.
    pub const fn net(&self) -> &LocalNetwork {
        self.network.net
    }

    /// The loaded programs, when they are.
    pub const fn programs(&self) -> Option<&Programs> {
        self.network.programs()
    }

    /// The index of the near end of the member's veth pair, when that is there.
    pub fn near_index(&self) -> Option<u32> {
        self.network.links().get(self.record.link().name().as_str()).map(|link| link.index)
    }

    /// The links of the app netns; none when the container is gone.
    ///
    /// # Errors
    /// When they cannot be read.
    pub async fn app_links(&self) -> Result<&[Link]> {
        let read = || async {
            match &self.namespaces.app {
                Some(app) => Ok::<_, anyhow::Error>(app.links.links().await?),
                None => Ok(Vec::new()),
            }
        };
        Ok(self.app_links.get_or_try_init(read).await?)
    }

    /// The routes of the app netns; none when the container is gone.
    ///
    /// # Errors
    /// When they cannot be read.
    pub async fn app_routes(&self) -> Result<&[Route]> {
        let read = || async {
            match &self.namespaces.app {
                Some(app) => Ok::<_, anyhow::Error>(app.links.routes().await?),
                None => Ok(Vec::new()),
            }
        };
        Ok(self.app_routes.get_or_try_init(read).await?)
    }
}

/// What was seen of an object that is sound only where its link is up, with the flags of a new one.
pub fn if_up<S>(link: &Link, spec: S) -> Result<S, &'static str> {
    match (link.up, link.plain) {
        (true, true) => Ok(spec),
        (false, _) => Err("down"),
        (true, false) => Err("with a flag that a stranger set"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::network::objects::tests::link;

    #[test]
    fn an_object_that_is_down_or_flagged_is_none_that_a_plan_wants() {
        let sound = link(2, "br0", LinkKind::Bridge);
        assert_eq!(if_up(&sound, 1450), Ok(1450));
        assert_eq!(if_up(&Link { up: false, ..sound.clone() }, 1450), Err("down"));
        assert!(if_up(&Link { plain: false, ..sound }, 1450).is_err());
    }
}
