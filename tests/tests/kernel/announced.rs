//! What the kernel announces when a stranger removes or changes it.

use std::collections::BTreeSet;

use privnet::datapath::Hook;
use privnet_tests::lab::{Host, Joined};

use super::inventory::{Inventory, is_ours, route_line, text};
use super::{Removal, pins};

/// Every removal and change that the kernel announces.
pub fn announced(host: &Host, member: &Joined) -> Vec<Removal> {
    let mut removals = Vec::new();
    for space in [&member.app, &member.binding, &member.network] {
        let found = Inventory::of(space);
        for link in found.links.iter().filter(|link| is_ours(&text(link, "ifname"))) {
            let (name, mac) = (text(link, "ifname"), text(link, "address"));
            let command = |line: String| Removal::command(space, &name, line);
            removals.push(command(format!("ip link set {name} down")));
            removals.push(command(format!("ip link set {name} mtu 1284")));
            let is_resolving = !link["flags"].as_array().into_iter().flatten().any(|flag| flag == "NOARP");
            removals.push(command(format!("ip link set {name} arp {}", if is_resolving { "off" } else { "on" })));
            removals.push(command(format!("ip link set {name} promisc on")));
            if text(&link["linkinfo"], "info_kind") == "vxlan" {
                removals.push(command(format!("ip link set {name} protodown on")));
            }
            if mac.contains(':') {
                removals.push(command(format!("ip link set {name} address 02:00:00:00:00:77")));
            }
            if !text(link, "master").is_empty() {
                removals.push(command(format!("ip link set {name} nomaster")));
                removals.push(command(format!("bridge link set dev {name} learning on")));
                removals.push(command(format!("bridge link set dev {name} flood on")));
                removals.push(command(format!("ip link set {name} type bridge_slave bcast_flood on")));
                removals.push(command(format!("bridge link set dev {name} state 0")));
                removals.push(command(format!("bridge link set dev {name} isolated on")));
                removals.push(command(format!("bridge link set dev {name} locked on")));
            }
            if text(&link["linkinfo"], "info_kind") == "bridge" {
                removals.push(command(format!("ip link set {name} type bridge stp_state 1")));
                removals.push(command(format!("ip link set {name} type bridge mcast_snooping 1")));
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
            let filter = format!("dev {name} {hook} pref {pref} handle {handle} bpf");
            removals.push(Removal::command(space, name, format!("tc filter delete {filter}")));
            let pins = pins(host, member);
            // Where there is no TCX, `vxlan0` has a filter as well: the same program again is nothing to repair.
            let other = if name == "vxlan0" { Hook::FromMember } else { Hook::FromVtep };
            let other = pins.join(other.program());
            if other.exists() {
                let line = format!("tc filter replace {filter} direct-action object-pinned {}", other.display());
                removals.push(Removal::command(space, name, line));
            }
        }
        for name in found.filters.iter().map(|(name, ..)| name).collect::<BTreeSet<_>>() {
            removals.push(Removal::command(space, name, format!("tc qdisc delete dev {name} clsact")));
        }
    }
    for space in [&member.binding, &member.network] {
        for line in [
            "add to 10.90.0.0/24 lookup 100 priority 100",
            "add unreachable priority 200",
            "delete priority 0",
            "delete priority 32766",
        ] {
            removals.push(Removal::command(space, "rules", format!("ip rule {line}")));
        }
    }
    removals
}
