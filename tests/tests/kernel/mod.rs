//! What the kernel lists of a member, and how each of it is removed or changed: found by listing, not by privnet's plan.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;

use privnet::datapath::{self, Hook};
use privnet::netns::Netns;
use privnet::topology::ownership;
use privnet::wireguard::{Device, PeerChange};
use privnet_ebpf::abi::ABI_VERSION;
use privnet_tests::lab::{Host, Joined, Space, say, wait_until};
use serde_json::Value;

/// One thing that a stranger does.
pub struct Removal {
    text: String,
    act: Box<dyn Fn()>,
}

impl Removal {
    fn command(space: &Space, line: String) -> Self {
        let (space, text) = (space.clone(), format!("[{}] {line}", space.pin()));
        // What is done in two steps may find the first one repaired by the second.
        Self { text, act: Box::new(move || drop(space.attempt(&line))) }
    }

    fn call(text: String, act: impl Fn() + 'static) -> Self {
        Self { text, act: Box::new(act) }
    }

    /// Does it.
    pub fn carry_out(&self) {
        say(&self.text);
        (self.act)();
    }
}

impl fmt::Display for Removal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Removal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Everything that the kernel lists in a member's three namespaces, a line each, without indexes.
pub fn listed(member: &Joined) -> BTreeSet<String> {
    let spaces = [("app", &member.app), ("binding", &member.binding), ("network", &member.network)];
    let lines = spaces.iter().flat_map(|(name, space)| {
        let prefixed = |line: String| format!("{name}: {line} ");
        space_lines(space).into_iter().map(prefixed).collect::<Vec<_>>()
    });
    let settings = [("app", &member.app), ("binding", &member.binding), ("network", &member.network)]
        .into_iter()
        .flat_map(|(name, space)| {
            settings(name, space, member).into_iter().map(move |(key, value)| format!("{name}: {key} = {value}"))
        });
    lines.chain(settings).collect()
}

/// Every removal and change that the kernel announces.
pub fn announced(member: &Joined) -> Vec<Removal> {
    let mut removals = Vec::new();
    for space in [&member.app, &member.binding, &member.network] {
        let command = |line: String| Removal::command(space, line);
        for link in links(space) {
            let (name, mac) = (text(&link, "ifname"), text(&link, "address"));
            removals.push(command(format!("ip link set {name} down")));
            removals.push(command(format!("ip link set {name} mtu 1284")));
            if mac.contains(':') {
                removals.push(command(format!("ip link set {name} address 02:00:00:00:00:77")));
            }
            if !text(&link, "master").is_empty() {
                removals.push(command(format!("ip link set {name} nomaster")));
                removals.push(command(format!("bridge link set dev {name} learning on")));
                removals.push(command(format!("bridge link set dev {name} flood on")));
                removals.push(command(format!("ip link set {name} type bridge_slave bcast_flood on")));
            }
            removals.push(command(format!("ip link delete {name}")));
        }
        for (name, address) in addresses(space) {
            removals.push(command(format!("ip address delete {address} dev {name}")));
            removals.push(command(format!("ip address change {address} dev {name} valid_lft 1000 preferred_lft 0")));
            removals.push(command(format!("ip address flush dev {name}")));
            removals.push(command(format!("ip route flush dev {name}")));
            removals.push(command(format!("ip route flush table local dev {name}")));
        }
        for route in json(space, "ip -4 -j route show table all").iter().filter(|route| is_ours(&text(route, "dev"))) {
            removals.push(command(format!("ip -4 route delete {}", route_line(route))));
        }
        for row in json(space, "ip -j neigh show nud permanent").iter().filter(|row| is_ours(&text(row, "dev"))) {
            let (address, name) = (text(row, "dst"), text(row, "dev"));
            removals.push(command(format!("ip neigh delete {address} dev {name}")));
            removals
                .push(command(format!("ip neigh replace {address} lladdr 02:00:00:00:00:78 dev {name} nud permanent")));
        }
        for row in json(space, "bridge -j fdb show").iter().filter(|row| text(row, "mac").starts_with("02:")) {
            let (mac, name) = (text(row, "mac"), text(row, "ifname"));
            if !text(row, "dst").is_empty() {
                removals.push(command(format!("bridge fdb delete {mac} dev {name} self")));
                removals.push(command(format!("bridge fdb replace {mac} dev {name} dst 192.0.2.99 self")));
            } else if text(row, "state") == "static" {
                removals.push(command(format!("bridge fdb delete {mac} dev {name} master")));
            }
        }
        for link in json(space, "ip -j link show") {
            let name = text(&link, "ifname");
            let of_link: Vec<(&str, Value)> = filters(space, &name);
            for (hook, filter) in &of_link {
                let (pref, handle) = (filter["pref"].to_string(), text(&filter["options"], "handle"));
                removals.push(command(format!("tc filter delete dev {name} {hook} pref {pref} handle {handle} bpf")));
            }
            if !of_link.is_empty() {
                removals.push(command(format!("tc qdisc delete dev {name} clsact")));
            }
        }
    }
    removals
}

/// Every removal and change that no netlink message tells: settings, peers, rows of maps, TCX.
pub fn quiet(host: &Host, member: &Joined) -> Vec<Removal> {
    let mut removals = Vec::new();
    for (name, space) in [("app", &member.app), ("binding", &member.binding), ("network", &member.network)] {
        for (key, value) in settings(name, space, member) {
            let other = if value == "0" { "1" } else { "0" };
            let (space, path) = (space.clone(), format!("/proc/sys/{key}"));
            removals.push(Removal::call(format!("[{name}] {key} = {other}"), move || {
                let path = path.clone();
                space.inside(move || fs::write(path, other).expect("a setting"));
            }));
        }
    }
    let (device, runtime) = device_of(host, member);
    let state = runtime.block_on(device.observe()).expect("the device").expect("there");
    for key in state.peers.into_keys() {
        let device = device.clone();
        removals.push(Removal::call(format!("wg remove {key}"), move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            let change = PeerChange { set: Vec::new(), remove: vec![key] };
            runtime.block_on(device.change_peers(&change)).expect("the peer goes");
        }));
    }
    removals.extend(of_programs(host, member));
    removals
}

fn of_programs(host: &Host, member: &Joined) -> Vec<Removal> {
    let paths = host.paths();
    let pins = ownership::network_netns(&paths.prefix, member.attached.network);
    let pins = paths.bpffs.join("privnet").join(format!("v{ABI_VERSION}")).join(pins);
    let open = move || datapath::Network::adopt(&pins).expect("readable").expect("there");
    let programs = open();
    let mut removals = Vec::new();
    for (index, row) in programs.ports().expect("rows") {
        let open = open.clone();
        removals.push(Removal::call(format!("the port row of {:?}", row.address()), move || {
            open().remove_port(index).expect("the row goes");
        }));
    }
    for address in programs.members().expect("rows").into_keys() {
        let open = open.clone();
        removals.push(Removal::call(format!("the member row of {address}"), move || {
            open().remove_member(address).expect("the row goes");
        }));
    }
    if programs.vtep().expect("the configuration").is_some() {
        let opened = open.clone();
        removals.push(Removal::call("the VTEP of the programs".to_owned(), move || {
            opened().set_vtep(None).expect("the VTEP goes");
        }));
        let path = member.network.path();
        removals.push(Removal::call("from_vtep on vxlan0".to_owned(), move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            let netns = Netns::open(&path).expect("the network netns");
            let vtep = ownership::fixed(ownership::VTEP);
            runtime.block_on(open().detach(&netns, &vtep, Hook::FromVtep)).expect("the program goes");
        }));
    }
    removals
}

/// Waits until the agent listens in a member's namespaces: from then on it misses nothing.
pub fn wait_until_watched(member: &Joined) {
    // RTNLGRP_LINK, _NEIGH, _TC, _IPV4_IFADDR, _IPV4_ROUTE.
    for (space, groups) in [(&member.app, 0x59_u32), (&member.binding, 0x51), (&member.network, 0x0d)] {
        wait_until(format!("the agent listens in {}", space.pin()), || {
            let table = space.inside(|| fs::read_to_string("/proc/thread-self/net/netlink").expect("netlink sockets"));
            let of_line = |line: &str| {
                let mut fields = line.split_whitespace().skip(1);
                let (protocol, groups) = (fields.next()?.to_owned(), fields.nth(1)?);
                Some((protocol, u32::from_str_radix(groups, 16).ok()?))
            };
            table.lines().filter_map(of_line).any(|(protocol, found)| protocol == "0" && found & groups == groups)
        });
    }
}

/// A member's WireGuard device, and a runtime to talk to it.
fn device_of(host: &Host, member: &Joined) -> (Device, tokio::runtime::Runtime) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let of_member = format!("-{:08x}", u32::from(member.address()));
    let processes = fs::read_dir(host.paths().state.join("wireguard")).into_iter().flatten().flatten();
    let run_dir = processes.map(|entry| entry.path()).find(|path| path.to_string_lossy().ends_with(&of_member));
    let device = match run_dir {
        Some(run_dir) => Device::userspace(&run_dir),
        None => {
            let netns = Netns::open(&member.app.path()).expect("the app netns");
            Device::kernel(netns, member.attached.interface.clone())
        }
    };
    (device, runtime)
}

fn space_lines(space: &Space) -> Vec<String> {
    let mut lines = Vec::new();
    for link in json(space, "ip -d -j link show") {
        let name = text(&link, "ifname");
        let mut flags: Vec<&str> = link["flags"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        flags.sort_unstable();
        let port = &link["linkinfo"]["info_slave_data"];
        let port = ["learning", "flood", "mcast_flood", "bcast_flood"].map(|field| port[field].to_string());
        let (mtu, mac, master) = (&link["mtu"], text(&link, "address"), text(&link, "master"));
        lines.push(format!("link {name} mtu {mtu} {mac} {flags:?} master {master:?} {}", port.join(" ")));
        for (hook, filter) in filters(space, &name) {
            let options = &filter["options"];
            let (handle, program) = (text(options, "handle"), text(options, "bpf_name"));
            lines.push(format!("filter on {name} {hook} {} {handle} {program}", filter["pref"]));
        }
    }
    for interface in json(space, "ip -4 -j address show") {
        for address in interface["addr_info"].as_array().into_iter().flatten() {
            lines.push(format!("address of {} {address}", text(&interface, "ifname")));
        }
    }
    lines.extend(
        json(space, "ip -4 -j route show table all").iter().map(|route| format!("route {}", route_line(route))),
    );
    lines.extend(json(space, "ip -j neigh show nud permanent").iter().map(|row| format!("neighbour {row}")));
    // The groups that a link joined are the kernel's: one that spoke IPv6 for a moment stays in its.
    let is_group = |row: &&Value| ["33:33:", "01:00:5e:"].iter().any(|prefix| text(row, "mac").starts_with(prefix));
    let rows = json(space, "bridge -j fdb show");
    lines.extend(rows.iter().filter(|row| !is_group(row)).map(|row| format!("fdb {row}")));
    lines
}

/// As `ip route` takes it.
fn route_line(route: &Value) -> String {
    let mut line = format!("{} {}", text(route, "type"), text(route, "dst"));
    for (field, word) in
        [("gateway", "via"), ("dev", "dev"), ("table", "table"), ("prefsrc", "src"), ("protocol", "proto")]
    {
        let value = text(route, field);
        if !value.is_empty() {
            line += &format!(" {word} {value}");
        }
    }
    if let Some(metric) = route["metric"].as_u64() {
        line += &format!(" metric {metric}");
    }
    line.trim().to_owned()
}

/// The links that privnet made: all but the loopback, the container's `eth0` and a stranger's.
fn links(space: &Space) -> Vec<Value> {
    let mut links = json(space, "ip -j link show");
    links.retain(|link| is_ours(&text(link, "ifname")));
    links
}

fn is_ours(name: &str) -> bool {
    !["lo", "eth0", "s0", "s1"].contains(&name)
}

fn addresses(space: &Space) -> Vec<(String, String)> {
    let mut addresses = Vec::new();
    for interface in json(space, "ip -4 -j address show").iter().filter(|link| is_ours(&text(link, "ifname"))) {
        for address in interface["addr_info"].as_array().into_iter().flatten() {
            addresses.push((text(interface, "ifname"), format!("{}/{}", text(address, "local"), address["prefixlen"])));
        }
    }
    addresses
}

fn filters(space: &Space, link: &str) -> Vec<(&'static str, Value)> {
    let of_hook = |hook: &'static str| {
        let rows = json(space, &format!("tc -j filter show dev {link} {hook}"));
        rows.into_iter().filter(|row| !text(&row["options"], "handle").is_empty()).map(move |row| (hook, row))
    };
    ["ingress", "egress"].into_iter().flat_map(of_hook).collect()
}

/// The settings that decide whether a namespace of ours forwards or speaks IPv6, and those of our links.
fn settings(name: &str, space: &Space, member: &Joined) -> Vec<(String, String)> {
    let scopes = match name {
        "app" => vec![member.attached.interface.to_string()],
        "binding" => vec!["all".to_owned(), "default".to_owned(), member.carrier()],
        _ => vec!["all".to_owned(), "default".to_owned()],
    };
    let forwards = name != "app";
    space.inside(move || {
        let mut settings = Vec::new();
        for scope in scopes {
            let forwarding = forwards.then(|| format!("net/ipv4/conf/{scope}/forwarding"));
            for key in forwarding.into_iter().chain([format!("net/ipv6/conf/{scope}/disable_ipv6")]) {
                if let Ok(value) = fs::read_to_string(format!("/proc/sys/{key}")) {
                    settings.push((key, value.trim().to_owned()));
                }
            }
        }
        settings
    })
}

/// Nothing when there is nothing to list, as of a namespace that is being made again.
fn json(space: &Space, line: &str) -> Vec<Value> {
    let output = space.command(line).output().expect("nsenter starts");
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}

fn text(value: &Value, field: &str) -> String {
    value[field].as_str().unwrap_or_default().to_owned()
}
