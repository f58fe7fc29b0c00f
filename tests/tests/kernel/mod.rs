//! What the kernel lists of a member, and how each of it is removed or changed: found by listing, not by privnet's plan.

use std::collections::{BTreeMap, BTreeSet};
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
    /// What it is done to: what is done to others meanwhile does not stand in its way. Nothing of a link that goes, and
    /// takes others' work with it.
    place: Option<String>,
    text: String,
    act: Box<dyn Fn()>,
}

impl Removal {
    fn command(space: &Space, link: &str, line: String) -> Self {
        let (space, text) = (space.clone(), format!("[{}] {line}", space.pin()));
        let place = (!line.starts_with("ip link delete")).then(|| format!("{} {link}", space.pin()));
        let act = move || {
            let output = space.attempt(&line);
            // A flush is done in steps, and may find the first one repaired by the second. In an emulated guest a stranger is
            // at work elsewhere in the member at the same time.
            let may_fail = line.contains(" flush ") || privnet_tests::is_emulated();
            assert!(output.status.success() || may_fail, "{line}: {}", String::from_utf8_lossy(&output.stderr));
        };
        Self { place, text, act: Box::new(act) }
    }

    fn call(place: &str, text: String, act: impl Fn() + 'static) -> Self {
        Self { place: Some(place.to_owned()), text, act: Box::new(act) }
    }

    /// Does it.
    pub fn carry_out(&self) {
        say(&self.text);
        (self.act)();
    }
}

/// What is done at once, one after the other: one thing at a time, but in an emulated guest one at each place of the member,
/// and what takes other things with it by itself.
pub fn rounds(removals: &[Removal]) -> Vec<Vec<&Removal>> {
    if !privnet_tests::is_emulated() {
        return removals.iter().map(|removal| vec![removal]).collect();
    }
    let (mut rounds, mut alone) = (Vec::<Vec<&Removal>>::new(), Vec::new());
    let mut next = BTreeMap::<&str, usize>::new();
    for removal in removals {
        let Some(place) = &removal.place else {
            alone.push(vec![removal]);
            continue;
        };
        let round = next.entry(place).or_default();
        rounds.resize_with(rounds.len().max(*round + 1), Vec::new);
        rounds[*round].push(removal);
        *round += 1;
    }
    rounds.extend(alone);
    rounds
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
        Inventory::of(space).lines().into_iter().map(prefixed).collect::<Vec<_>>()
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
        let found = Inventory::of(space);
        for link in found.links.iter().filter(|link| is_ours(&text(link, "ifname"))) {
            let (name, mac) = (text(link, "ifname"), text(link, "address"));
            let command = |line: String| Removal::command(space, &name, line);
            removals.push(command(format!("ip link set {name} down")));
            removals.push(command(format!("ip link set {name} mtu 1284")));
            if mac.contains(':') {
                removals.push(command(format!("ip link set {name} address 02:00:00:00:00:77")));
            }
            if !text(link, "master").is_empty() {
                removals.push(command(format!("ip link set {name} nomaster")));
                removals.push(command(format!("bridge link set dev {name} learning on")));
                removals.push(command(format!("bridge link set dev {name} flood on")));
                removals.push(command(format!("ip link set {name} type bridge_slave bcast_flood on")));
            }
            removals.push(command(format!("ip link delete {name}")));
        }
        for (name, address) in found.addresses() {
            let command = |line: String| Removal::command(space, &name, line);
            removals.push(command(format!("ip address delete {address} dev {name}")));
            removals.push(command(format!("ip address change {address} dev {name} valid_lft 1000 preferred_lft 0")));
            removals.push(command(format!("ip address flush dev {name}")));
            removals.push(command(format!("ip route flush dev {name}")));
            removals.push(command(format!("ip route flush table local dev {name}")));
        }
        for route in found.routes.iter().filter(|route| is_ours(&text(route, "dev"))) {
            let line = format!("ip -4 route delete {}", route_line(route));
            removals.push(Removal::command(space, &text(route, "dev"), line));
        }
        for row in found.neighbours.iter().filter(|row| is_ours(&text(row, "dev"))) {
            let (address, name) = (text(row, "dst"), text(row, "dev"));
            let command = |line: String| Removal::command(space, &name, line);
            removals.push(command(format!("ip neigh delete {address} dev {name}")));
            removals
                .push(command(format!("ip neigh replace {address} lladdr 02:00:00:00:00:78 dev {name} nud permanent")));
        }
        for row in found.rows.iter().filter(|row| text(row, "mac").starts_with("02:")) {
            let (mac, name) = (text(row, "mac"), text(row, "ifname"));
            let command = |line: String| Removal::command(space, &name, line);
            if !text(row, "dst").is_empty() {
                removals.push(command(format!("bridge fdb delete {mac} dev {name} self")));
                removals.push(command(format!("bridge fdb replace {mac} dev {name} dst 192.0.2.99 self")));
            } else if text(row, "state") == "static" {
                removals.push(command(format!("bridge fdb delete {mac} dev {name} master")));
            }
        }
        for (name, hook, filter) in &found.filters {
            let (pref, handle) = (filter["pref"].to_string(), text(&filter["options"], "handle"));
            let line = format!("tc filter delete dev {name} {hook} pref {pref} handle {handle} bpf");
            removals.push(Removal::command(space, name, line));
        }
        for name in found.filters.iter().map(|(name, ..)| name).collect::<BTreeSet<_>>() {
            removals.push(Removal::command(space, name, format!("tc qdisc delete dev {name} clsact")));
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
            removals.push(Removal::call(name, format!("[{name}] {key} = {other}"), move || {
                let path = path.clone();
                space.inside(move || fs::write(path, other).expect("a setting"));
            }));
        }
    }
    let (device, runtime) = device_of(host, member);
    let state = runtime.block_on(device.observe()).expect("the device").expect("there");
    for key in state.peers.into_keys() {
        let device = device.clone();
        removals.push(Removal::call("peers", format!("wg remove {key}"), move || {
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
        removals.push(Removal::call("ports", format!("the port row of {:?}", row.address()), move || {
            open().remove_port(index).expect("the row goes");
        }));
    }
    for address in programs.members().expect("rows").into_keys() {
        let open = open.clone();
        removals.push(Removal::call("members", format!("the member row of {address}"), move || {
            open().remove_member(address).expect("the row goes");
        }));
    }
    if programs.vtep().expect("the configuration").is_some() {
        let opened = open.clone();
        removals.push(Removal::call("VTEP", "the VTEP of the programs".to_owned(), move || {
            opened().set_vtep(None).expect("the VTEP goes");
        }));
        let path = member.network.path();
        removals.push(Removal::call("VTEP", "from_vtep on vxlan0".to_owned(), move || {
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

/// What the tools list of a namespace.
struct Inventory {
    links: Vec<Value>,
    interfaces: Vec<Value>,
    routes: Vec<Value>,
    neighbours: Vec<Value>,
    rules: Vec<Value>,
    rows: Vec<Value>,
    /// By interface and hook.
    filters: Vec<(String, &'static str, Value)>,
}

impl Inventory {
    /// Nothing where there is nothing to list, as of a namespace that is being made again.
    fn of(space: &Space) -> Self {
        let lines = ["link show", "address show", "route show table all", "neigh show nud permanent", "rule show"];
        let mut listed = space.batch("ip", &lines.map(str::to_owned)).into_iter().map(rows_of);
        let mut next = || listed.next().unwrap_or_default();
        let (links, interfaces, mut routes, neighbours, rules) = (next(), next(), next(), next(), next());
        routes.retain(|route| !text(route, "dst").contains(':'));
        let rows = serde_json::from_slice(&space.output("bridge -j fdb show").stdout).unwrap_or_default();
        let names = links.iter().map(|link| text(link, "ifname"));
        let hooks: Vec<(String, &str)> =
            names.flat_map(|name| ["ingress", "egress"].map(|hook| (name.clone(), hook))).collect();
        let lines: Vec<String> = hooks.iter().map(|(name, hook)| format!("filter show dev {name} {hook}")).collect();
        let listed = hooks.into_iter().zip(space.batch("tc", &lines));
        let filters = listed.flat_map(|((name, hook), listed)| {
            let rows = rows_of(listed).into_iter().filter(|row| !text(&row["options"], "handle").is_empty());
            rows.map(|row| (name.clone(), hook, row)).collect::<Vec<_>>()
        });
        Self { filters: filters.collect(), links, interfaces, routes, neighbours, rules, rows }
    }

    fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for link in &self.links {
            let name = text(link, "ifname");
            let mut flags: Vec<&str> =
                link["flags"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            flags.sort_unstable();
            let port = &link["linkinfo"]["info_slave_data"];
            let port = ["learning", "flood", "mcast_flood", "bcast_flood"].map(|field| port[field].to_string());
            let (mtu, mac, master) = (&link["mtu"], text(link, "address"), text(link, "master"));
            lines.push(format!("link {name} mtu {mtu} {mac} {flags:?} master {master:?} {}", port.join(" ")));
        }
        for (name, hook, filter) in &self.filters {
            let options = &filter["options"];
            let (handle, program) = (text(options, "handle"), text(options, "bpf_name"));
            lines.push(format!("filter on {name} {hook} {} {handle} {program}", filter["pref"]));
        }
        for interface in &self.interfaces {
            for address in ipv4(interface) {
                lines.push(format!("address of {} {address}", text(interface, "ifname")));
            }
        }
        lines.extend(self.routes.iter().map(|route| format!("route {}", route_line(route))));
        lines.extend(self.neighbours.iter().map(|row| format!("neighbour {row}")));
        lines.extend(self.rules.iter().map(|rule| format!("rule {rule}")));
        // The groups that a link joined are the kernel's: one that spoke IPv6 for a moment stays in its.
        let is_group = |row: &&Value| ["33:33:", "01:00:5e:"].iter().any(|prefix| text(row, "mac").starts_with(prefix));
        lines.extend(self.rows.iter().filter(|row| !is_group(row)).map(|row| format!("fdb {row}")));
        lines
    }

    fn addresses(&self) -> Vec<(String, String)> {
        let ours = self.interfaces.iter().filter(|interface| is_ours(&text(interface, "ifname")));
        let of_interface = |interface| {
            let line = |address: &Value| format!("{}/{}", text(address, "local"), address["prefixlen"]);
            ipv4(interface).map(move |address| (text(interface, "ifname"), line(address)))
        };
        ours.flat_map(of_interface).collect()
    }
}

fn ipv4(interface: &Value) -> impl Iterator<Item = &Value> {
    interface["addr_info"].as_array().into_iter().flatten().filter(|address| text(address, "family") == "inet")
}

fn rows_of(listed: Value) -> Vec<Value> {
    if let Value::Array(rows) = listed { rows } else { Vec::new() }
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

/// Whether privnet made the link: all but the loopback, the container's `eth0` and a stranger's.
fn is_ours(name: &str) -> bool {
    !["lo", "eth0", "s0", "s1"].contains(&name)
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

fn text(value: &Value, field: &str) -> String {
    value[field].as_str().unwrap_or_default().to_owned()
}
