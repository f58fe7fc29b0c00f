//! Containers: namespaces that the agent is handed, as Docker would leave them.

use std::net::Ipv4Addr;

use privnet::agent::views::{Attached, Detach, MemberView};
use privnet::model::{AppId, ContainerRef};

use super::space::Space;
use super::wait::wait_until;

/// The app that the containers of a lab belong to, unless told otherwise.
pub const APP: &str = "ap-a71da13f-7c70-4c00-a644-eee8558d8053";
/// The prefix of the bridge that stands for Docker's; the bridge itself has `.1`.
pub const DOCKER_PREFIX: &str = "172.30.0";

/// A namespace that can be attached.
#[derive(Clone, Debug)]
pub struct Container {
    /// The app netns.
    pub space: Space,
    /// Its app.
    pub app: String,
    /// Its type.
    pub kind: String,
    /// Its number within the type.
    pub number: u32,
}

impl Container {
    pub(crate) fn new(space: Space, name: &str) -> Self {
        let (kind, number) = name.rsplit_once('-').expect("a container's name is <type>-<number>");
        let number = number.parse().expect("a container's name is <type>-<number>");
        Self { space, app: APP.to_owned(), kind: kind.to_owned(), number }
    }

    /// Gives it an `eth0` with the address 172.30.0.`last`, plugged into `docker0` of `host`, which is made when missing.
    #[must_use]
    pub fn with_eth0(self, host: &Space, last: u8) -> Self {
        if host.link("docker0").is_none() {
            host.run("ip link add docker0 type bridge");
            host.run(&format!("ip address add {DOCKER_PREFIX}.1/24 dev docker0"));
            host.run("ip link set docker0 up");
        }
        let pin = self.space.pin();
        // The kernel takes the links of a namespace that ended away some time after its pin has gone.
        wait_until(format!("vethd{last} of a container before is gone"), || {
            host.link(&format!("vethd{last}")).is_none()
        });
        host.run(&format!("ip link add vethd{last} type veth peer name eth0 netns {pin}"));
        host.run(&format!("ip link set vethd{last} master docker0 up"));
        self.space.run(&format!("ip address add {DOCKER_PREFIX}.{last}/24 dev eth0"));
        self.space.run("ip link set eth0 up");
        self.space.run(&format!("ip route add default via {DOCKER_PREFIX}.1"));
        self
    }

    /// Its name in the model.
    ///
    /// # Panics
    /// When it has none.
    #[must_use]
    pub fn reference(&self) -> ContainerRef {
        let app: AppId = self.app.parse().expect("an app");
        format!("{}.{}.{app}", self.number, self.kind).parse().expect("a container")
    }
}

/// The request that ends a membership.
#[must_use]
pub fn detach_request(MemberView { network, member, .. }: &MemberView) -> Detach {
    Detach {
        network: network.to_string(),
        app: member.app.to_string(),
        kind: Some(member.kind.to_string()),
        number: Some(member.number.get()),
        drain: false,
        force: false,
    }
}

/// A container that is a member of a network: its three namespaces, and what the agent said of it.
#[derive(Clone, Debug)]
pub struct Joined {
    /// The container.
    pub container: Container,
    /// What `attach` answered.
    pub attached: Attached,
    /// The app netns.
    pub app: Space,
    /// The binding netns.
    pub binding: Space,
    /// The network netns.
    pub network: Space,
    /// Its veth's end in the network netns.
    pub(super) port_veth: String,
}

impl Joined {
    /// The addresses that it is told for a name.
    #[must_use]
    pub fn told(&self, name: &str) -> String {
        self.app.run(&format!("dig @127.0.0.82 +time=10 +tries=1 +short {name}")).trim().to_owned()
    }

    /// The member's address.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.attached.member.address
    }

    /// The n of its `wg<n>`.
    ///
    /// # Panics
    /// When the interface is called otherwise.
    #[must_use]
    pub fn index(&self) -> u8 {
        let interface = self.attached.interface.as_str();
        interface.strip_prefix("wg").and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("{interface} is no wg<n>"))
    }

    /// The UDP port of its WireGuard socket.
    #[must_use]
    pub fn port(&self) -> u16 {
        privnet::topology::ownership::wireguard_port(self.index())
    }

    /// Its veth's end in the binding netns.
    #[must_use]
    pub fn carrier(&self) -> String {
        privnet::topology::ownership::binding_veth(self.index()).to_string()
    }

    /// Its veth's end in the network netns.
    #[must_use]
    pub fn port_veth(&self) -> String {
        self.port_veth.clone()
    }

    /// The MAC address of its carrier.
    #[must_use]
    pub fn mac(&self) -> [u8; 6] {
        self.binding.mac(&self.carrier())
    }

    /// The same, as the tools write it.
    #[must_use]
    pub fn mac_text(&self) -> String {
        self.mac().map(|byte| format!("{byte:02x}")).join(":")
    }

    /// Whether its app netns can ping an address: one packet, one second.
    #[must_use]
    pub fn pings(&self, address: Ipv4Addr) -> bool {
        self.app.succeeds(&format!("ping -q -n -c 1 -W 1 {address}"))
    }
}
