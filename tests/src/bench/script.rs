//! The same topology by a script of `ip` commands, as one would write it by hand after the seed's drawing: each link is
//! made where the shell is and moved to where it belongs, with a bridge in the network netns.
//!
//! WireGuard is left out where the kernel has none; the script's figure is then to be compared with ours without its
//! process. `guard` and the programs are left out too: `ip` has nothing like them.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use privnet::netns::Netns;
use privnet::wireguard::Backend;

use super::attach::{Case, milliseconds};
use super::place::Workspace;
use super::{tell, tunnel};

/// The script's host, networks and containers. Dropped, it removes their namespaces.
pub struct Script {
    host: Netns,
    prefix: String,
    containers: usize,
    namespaces: Vec<String>,
    kernel_wireguard: bool,
}

impl Script {
    /// Builds the networks and the members that the case starts from.
    pub fn new(workspace: &Workspace, case: &Case) -> Result<Self> {
        let host = Netns::create_anonymous()?;
        let prefix = format!("{}{}", workspace.prefix(), case.group.replace('/', "-"));
        let kernel_wireguard = tunnel::backend() == Backend::Kernel;
        let mut script = Self { host, prefix, containers: 0, namespaces: Vec::new(), kernel_wireguard };
        tell(&format!("{}: the script builds the same", case.group));
        script.run("ip link set lo up\nip addr add 192.0.2.1/24 dev lo\n")?;
        for network in 0..case.networks() {
            script.add_network(network)?;
        }
        for member in 0..case.size {
            script.attach(case.network_of(member))?;
        }
        Ok(script)
    }

    /// Attaches one more container and returns how long that took in milliseconds.
    pub fn attach(&mut self, network: usize) -> Result<f64> {
        self.containers += 1;
        let (app, binding) = (self.name("app"), self.name("bind"));
        // The container is there before, as for the agent.
        self.run(&format!("ip netns add {app}\nip -n {app} link set lo up\n"))?;
        let lines = self.attach_lines(&app, &binding, network);
        self.namespaces.extend([app, binding]);
        self.timed(&lines)
    }

    /// Detaches the container that was attached last and returns how long that took in milliseconds.
    pub fn detach(&mut self, network: usize) -> Result<f64> {
        let (app, binding, room) = (self.name("app"), self.name("bind"), self.network(network));
        let mut lines = String::new();
        if self.kernel_wireguard {
            let _ = writeln!(lines, "ip -n {app} link del wg0");
        }
        let near = self.near_name();
        let _ = write!(
            lines,
            "ip -n {room} link del {near}\n\
             ip netns del {binding}\n\
             ip -n {app} route del unreachable 10.240.0.0/16 metric 4294967295\n",
        );
        let time = self.timed(&lines)?;
        self.run(&format!("ip netns del {app}\n"))?;
        self.namespaces.retain(|name| *name != app && *name != binding);
        Ok(time)
    }

    fn add_network(&mut self, network: usize) -> Result<()> {
        let room = self.network(network);
        self.namespaces.push(room.clone());
        let vni = network + 1;
        self.run(&format!(
            "ip netns add {room}\n\
             ip -n {room} link set lo up\n\
             ip link add vx{vni} type vxlan id {vni} local 192.0.2.1 dstport 4789 nolearning proxy\n\
             ip link set vx{vni} netns {room} name vxlan0\n\
             ip -n {room} link add br0 type bridge\n\
             ip -n {room} link set vxlan0 mtu 1450 master br0 up\n\
             ip -n {room} link set br0 up\n"
        ))
    }

    fn attach_lines(&self, app: &str, binding: &str, network: usize) -> String {
        let (room, near, address) = (self.network(network), self.near_name(), self.address());
        let [a, b, c, d] = address.octets();
        let mut lines = format!(
            "ip netns add {binding}\n\
             ip -n {app} route add unreachable 10.240.0.0/16 metric 4294967295\n\
             ip link add {near} mtu 1450 type veth peer name {near}p mtu 1450 address 02:01:{a:02x}:{b:02x}:{c:02x}:{d:02x}\n\
             ip link set {near} netns {room}\n\
             ip link set {near}p netns {binding} name vxlan-1-veth0\n\
             ip -n {room} link set {near} master br0 up\n\
             ip -n {binding} addr add {address}/16 dev vxlan-1-veth0\n\
             ip -n {binding} link set vxlan-1-veth0 up\n"
        );
        if self.kernel_wireguard {
            let number = self.containers;
            let _ = write!(
                lines,
                "ip -n {binding} link add wg{number} mtu 1390 type wireguard\n\
                 ip -n {binding} link set wg{number} netns {app} name wg0\n\
                 ip -n {app} addr add {address}/16 dev wg0\n\
                 ip -n {app} link set wg0 up\n"
            );
        }
        lines
    }

    fn network(&self, network: usize) -> String {
        format!("{}-net{network}", self.prefix)
    }

    /// The name of a namespace of the container that was attached last.
    fn name(&self, what: &str) -> String {
        format!("{}-{what}{}", self.prefix, self.containers)
    }

    fn near_name(&self) -> String {
        format!("v{}", self.containers)
    }

    fn address(&self) -> Ipv4Addr {
        // Never the network's own address or the first one.
        Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 240, 0, 1)) + u32::try_from(self.containers).unwrap_or(u32::MAX / 2))
    }

    fn timed(&self, lines: &str) -> Result<f64> {
        let start = Instant::now();
        self.run(lines)?;
        Ok(milliseconds(start.elapsed()))
    }

    /// Runs the lines by one shell on the script's host.
    fn run(&self, lines: &str) -> Result<()> {
        let text = format!("set -e\n{lines}");
        // A process is born in the namespace of the thread that starts it.
        let run = move || Command::new("sh").arg("-c").arg(text).stdin(Stdio::null()).output();
        let output = self.host.run_blocking(run)?.context("cannot start sh")?;
        let told = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "the script failed: {}\n{lines}", told.trim());
        Ok(())
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        for name in &self.namespaces {
            let _ = self.run(&format!("ip netns del {name}\n"));
        }
    }
}
