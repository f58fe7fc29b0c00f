//! What no message of the kernel tells when a stranger removes or changes it.

use std::fs;

use privnet::datapath::{self, Hook};
use privnet::netns::Netns;
use privnet::topology::ownership;
use privnet::wireguard::{Backend, Device, PeerChange};
use privnet_ebpf::maps;
use privnet_tests::lab::{Host, Joined};

use super::inventory::settings;
use super::{Removal, pin_names, pins};

/// Every removal and change that no netlink message tells: settings, WireGuard, rows of maps, TCX, pins.
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
    if is_kernels(&device) {
        removals.extend(of_wireguard(host, member));
    }
    // With a bridge there is such a row, and watched.
    let carrier = member.carrier();
    if member.binding.run(&format!("ip neigh show dev {carrier} nud permanent")).is_empty() {
        let line = format!("ip neigh replace 10.90.0.9 lladdr 02:00:00:00:00:78 dev {carrier} nud permanent");
        removals.push(Removal::command(&member.binding, &carrier, line));
    }
    removals.extend(of_programs(host, member));
    removals
}

/// What `wg` changes of a device of the kernel's.
fn of_wireguard(host: &Host, member: &Joined) -> Vec<Removal> {
    let key = host.paths().state.with_file_name("preshared-key");
    fs::write(&key, "cHJpdm5ldC10ZXN0cy1wcmVzaGFyZWQta2V5LTMyYiE=\n").expect("a file");
    let interface = &member.attached.interface;
    let peer = member.app.run(&format!("wg show {interface} peers")).lines().next().expect("a peer").to_owned();
    let set = |line: String| Removal::command(&member.app, "wg", format!("wg set {interface} {line}"));
    vec![
        set("fwmark 51".to_owned()),
        set(format!("peer {peer} persistent-keepalive 1")),
        set(format!("peer {peer} endpoint 192.0.2.9:9")),
        set(format!("peer {peer} preshared-key {}", key.display())),
    ]
}

/// The pins of a member's programs and maps, which go one by one. A TCX link ends with its pin, and is none of these.
pub fn unpinned(host: &Host, member: &Joined) -> Vec<Removal> {
    let remove = |name: String| {
        let path = pins(host, member).join(&name);
        // A map is found again by the programs that are pinned, so these go one by one.
        let is_map = maps::ALL.iter().any(|map| map.name == name);
        let place = if is_map { &name } else { "programs" };
        Removal::call(place, format!("rm {name}"), move || fs::remove_file(&path).expect("the pin goes"))
    };
    pin_names(host, member).into_iter().filter(|name| !name.starts_with("link-")).map(remove).collect()
}

fn of_programs(host: &Host, member: &Joined) -> Vec<Removal> {
    let pins = pins(host, member);
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

fn is_kernels(device: &Device) -> bool {
    device.backend() == Backend::Kernel
}
