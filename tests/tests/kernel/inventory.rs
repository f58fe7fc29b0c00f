//! What the kernel's tools list of a member's namespaces.

use std::fs;

use privnet_tests::lab::{Host, Joined, Space};
use serde_json::Value;

/// What the tools list of a namespace.
pub struct Inventory {
    pub links: Vec<Value>,
    interfaces: Vec<Value>,
    pub routes: Vec<Value>,
    pub neighbours: Vec<Value>,
    rules: Vec<Value>,
    /// Of forwarding tables.
    pub rows: Vec<Value>,
    /// By interface and hook.
    pub filters: Vec<(String, &'static str, Value)>,
}

impl Inventory {
    /// Nothing where there is nothing to list, as of a namespace that is being made again.
    pub fn of(space: &Space) -> Self {
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

    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for link in &self.links {
            let name = text(link, "ifname");
            let mut flags: Vec<&str> =
                link["flags"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            flags.sort_unstable();
            let port = &link["linkinfo"]["info_slave_data"];
            let port = ["learning", "flood", "mcast_flood", "bcast_flood", "state", "isolated", "locked"]
                .map(|field| port[field].to_string());
            let bridge = &link["linkinfo"]["info_data"];
            let bridge = ["stp_state", "mcast_snooping"].map(|field| bridge[field].to_string());
            let (mtu, mac, master) = (&link["mtu"], text(link, "address"), text(link, "master"));
            lines.push(format!(
                "link {name} mtu {mtu} {mac} {flags:?} master {master:?} {} {}",
                port.join(" "),
                bridge.join(" ")
            ));
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

    pub fn addresses(&self) -> Vec<(String, String)> {
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
pub fn route_line(route: &Value) -> String {
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
pub fn is_ours(name: &str) -> bool {
    !["lo", "eth0", "s0", "s1"].contains(&name)
}

/// The settings that decide whether a namespace of ours forwards or speaks IPv6, and those of our links.
pub fn settings(name: &str, space: &Space, member: &Joined) -> Vec<(String, String)> {
    let scopes = match name {
        "app" => vec![member.attached.interface.to_string()],
        "binding" => vec!["all".to_owned(), "default".to_owned(), member.carrier()],
        _ => {
            let links = space.links().into_iter().filter(|link| is_ours(link));
            ["all".to_owned(), "default".to_owned()].into_iter().chain(links).collect()
        }
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

/// What `wg` lists of a member's device, when it is the kernel's; without what changes as it runs.
pub fn wireguard(host: &Host, member: &Joined) -> Vec<String> {
    if host.wireguard_of(member).is_some() {
        return Vec::new();
    }
    let output = member.app.output(&format!("wg show {} dump", member.attached.interface));
    let line = |line: &str| match line.split('\t').collect::<Vec<_>>()[..] {
        [_private, public, port, mark] => Some(format!("wg {public} {port} {mark}")),
        [peer, preshared, endpoint, addresses, _handshake, _received, _sent, keepalive] => {
            // What resumed a session is privnet's own.
            let keepalive = keepalive.replace("65535", "off");
            Some(format!("wg peer {peer} {preshared} {endpoint} {addresses} {keepalive}"))
        }
        _ => None,
    };
    String::from_utf8_lossy(&output.stdout).lines().filter_map(line).collect()
}

pub fn text(value: &Value, field: &str) -> String {
    value[field].as_str().unwrap_or_default().to_owned()
}
