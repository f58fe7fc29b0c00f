//! Links on the real kernel, as root: created where they belong, observed whole, changed, removed.
//!
//! ```text
//!  host one          network one                       network two          host two
//! ┌─────────┐       ┌───────────┐                     ┌───────────┐       ┌─────────┐
//! │ UDP 4789│       │ vxlan0 ═══╪══ socket in ═╗ ╔════╪══ vxlan0  │       │ UDP 4789│
//! │ under0 ─┼───────┼───────────┼──────────────╨─╨────┼───────────┼───────┼─ under0 │
//! └─────────┘       └───────────┘                     └───────────┘       └─────────┘
//! ```

mod links;

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use ipnet::Ipv4Net;
use links::{MAC_A, MAC_B, MAC_C, PORT, ifname, ip, listens, names, ping, sockets, underlay, until, veth, vtep, vxlan};
use privnet::link::{
    AbsentIsDone, BridgeFdbEntry, BridgePort, BridgeSpec, Error, Event, FilterHook, Link, LinkEvent, LinkKind, Links,
    PortHolder, Route, RouteTarget, Watch, ensure_loopback_up, udp_port_holder,
};
use privnet_ebpf::net::MacAddr;
use privnet_tests::lab::{Ground, run_in};
use tokio::task::JoinSet;

#[tokio::test]
async fn a_veth_is_made_with_both_ends_in_other_namespaces() {
    let ground = Ground::join();
    let [host, binding, network] = ground.namespaces();
    let [on_host, in_binding, in_network] = sockets([&host, &binding, &network]).await;
    veth(&on_host, (&binding, "vxlan-1-veth0", MAC_A), (&network, "veth-0af00002", MAC_B)).await.expect("create");
    assert_eq!(names(&on_host).await, ["lo"], "nothing in the namespace that asked");
    let a = in_binding.link("vxlan-1-veth0").await.expect("one end");
    let b = in_network.link("veth-0af00002").await.expect("the other");
    assert_eq!((&a.kind, a.mac, a.mtu, a.up, a.carrier), (&LinkKind::Veth, Some(MAC_A), 1450, false, false));
    assert_eq!((b.mac, b.mtu, b.lower, a.lower), (Some(MAC_B), 1450, Some(a.index), Some(b.index)));
    assert_eq!(a.lower_nsid, in_binding.nsid_of(&network).await.expect("nsid"));
    assert!(a.lower_nsid.is_some());
    assert_eq!(in_network.nsid_of(&host).await.expect("nsid"), None, "nothing leads there");

    in_binding.set_up(a.index).await.expect("up");
    in_network.set_up(b.index).await.expect("up");
    assert!(in_binding.wait_carrier(&binding, "vxlan-1-veth0", Duration::from_secs(5)).await.expect("carrier"));
    let again = veth(&on_host, (&binding, "vxlan-1-veth0", MAC_A), (&network, "other", MAC_B)).await;
    assert!(matches!(again, Err(Error::AlreadyExists(_))), "{again:?}");
    assert!(matches!(in_network.link("other").await, Err(Error::NotFound(_))), "a refused pair leaves no half");

    in_network.delete(b.index).await.expect("delete");
    assert!(matches!(in_binding.link("vxlan-1-veth0").await, Err(Error::NotFound(_))), "both ends go");
    assert!(!in_network.delete(b.index).await.absent_is_done().expect("already gone"));
}

#[tokio::test]
async fn a_vxlan_link_keeps_its_socket_in_the_host_namespace_and_passes_traffic() {
    let ground = Ground::join();
    let [host_one, host_two] = ground.namespaces();
    let [network_one, network_two] = ground.namespaces();
    let [one, two] = sockets([&host_one, &host_two]).await;
    underlay(&one, (&host_one, &one), (&host_two, &two)).await;
    let left = vtep(&one, &network_one, "192.0.2.1", MAC_A, "10.240.0.2/24").await;
    let right = vtep(&two, &network_two, "192.0.2.2", MAC_B, "10.240.0.3/24").await;

    let (left_link, right_link) =
        (left.link("vxlan0").await.expect("left"), right.link("vxlan0").await.expect("right"));
    assert_eq!(left_link.mac, Some(MAC_A));
    let LinkKind::Vxlan(vxlan) = &left_link.kind else { panic!("{left_link:?}") };
    assert_eq!((vxlan.vni, vxlan.local, vxlan.port), (7, Some(Ipv4Addr::new(192, 0, 2, 1)), PORT));
    assert!(!vxlan.learning && !vxlan.proxy && !vxlan.external && vxlan.remote.is_none());
    assert_eq!(left_link.lower_nsid, left.nsid_of(&host_one).await.expect("nsid"), "born in the host namespace");
    assert!(listens(&host_one, "udp").await && !listens(&network_one, "udp").await);
    assert_eq!(
        udp_port_holder(&host_one, &one, PORT).await.expect("holder"),
        Some(PortHolder::Unseen),
        "the link is in another namespace"
    );

    for (links, link, address, mac, at) in
        [(&left, &left_link, "10.240.0.3", MAC_B, "192.0.2.2"), (&right, &right_link, "10.240.0.2", MAC_A, "192.0.2.1")]
    {
        links.neighbour_replace(link.index, ip(address), mac).await.expect("neighbour");
        links.fdb_replace(link.index, mac, ip("192.0.2.99")).await.expect("a wrong destination");
        links.fdb_replace(link.index, mac, ip(at)).await.expect("replaced");
        let fdb = links.fdb(link.index).await.expect("fdb");
        assert_eq!(
            fdb.iter().map(|row| (row.mac, row.destination, row.permanent)).collect::<Vec<_>>(),
            [(mac, Some(ip(at)), true)]
        );
        let neighbours = links.neighbours(link.index).await.expect("neighbours");
        assert_eq!(
            neighbours.iter().map(|row| (row.address, row.mac, row.permanent)).collect::<Vec<_>>(),
            [(ip(address), Some(mac), true)]
        );
    }
    assert!(ping(&network_one, "10.240.0.3").await, "traffic passes");
    left.fdb_delete(left_link.index, MAC_B).await.expect("delete");
    assert!(!ping(&network_one, "10.240.0.3").await, "no entry, no flooding");
    assert!(!left.fdb_delete(left_link.index, MAC_B).await.absent_is_done().expect("already gone"));
    left.neighbour_delete(left_link.index, ip("10.240.0.3")).await.expect("delete");
    let gone = left.neighbour_delete(left_link.index, ip("10.240.0.3")).await;
    assert!(matches!(gone, Err(Error::NotFound(_))), "{gone:?}");
}

#[tokio::test]
async fn a_taken_port_shows_when_the_vxlan_link_is_set_up_and_its_holder_is_named() {
    let ground = Ground::join();
    let [host, network] = ground.namespaces();
    let [on_host, in_network] = sockets([&host, &network]).await;
    let process = host.run(|| UdpSocket::bind(("0.0.0.0", PORT)).expect("bind")).await.expect("run");
    vxlan(&on_host, &network, "vxlan0", 7).await.expect("the kernel opens no socket yet");
    let index = in_network.link("vxlan0").await.expect("link").index;
    let refused = in_network.set_up(index).await;
    assert!(matches!(refused, Err(Error::PortInUse(_))), "{refused:?}");
    match udp_port_holder(&host, &on_host, PORT).await.expect("holder") {
        Some(PortHolder::Process { pid, .. }) => assert_eq!(pid, std::process::id()),
        other => panic!("{other:?}"),
    }
    drop(process);
    in_network.set_up(index).await.expect("the twin: the port is free");
    in_network.set_down(index).await.expect("down");

    run_in(&host, "ip link add flow0 type vxlan external dstport 4789");
    run_in(&host, "ip link set flow0 up");
    let refused = in_network.set_up(index).await;
    assert!(matches!(refused, Err(Error::PortInUse(_))), "{refused:?}");
    let holder = udp_port_holder(&host, &on_host, PORT).await.expect("holder");
    assert_eq!(holder, Some(PortHolder::Vxlan { name: "flow0".to_owned(), external: true }));
}

#[tokio::test]
async fn a_vni_that_is_taken_in_the_host_namespace_is_refused_with_the_kernels_words() {
    let ground = Ground::join();
    let [host, network, other] = ground.namespaces();
    let [on_host] = sockets([&host]).await;
    vxlan(&on_host, &network, "vxlan0", 7).await.expect("first");
    let refused = vxlan(&on_host, &other, "vxlan0", 7).await.expect_err("the VNI is taken");
    assert!(matches!(refused, Error::AlreadyExists(_)));
    let ack = refused.refusal().and_then(|refusal| refusal.ack.clone()).unwrap_or_default();
    assert!(ack.contains("VNI already exists"), "{refused}");
    vxlan(&on_host, &other, "vxlan0", 8).await.expect("the twin: another VNI");
}

#[tokio::test]
async fn addresses_and_routes_are_added_observed_and_deleted() {
    let ground = Ground::join();
    let [host, binding, network] = ground.namespaces();
    let [on_host, links] = sockets([&host, &binding]).await;
    assert_eq!(links.routes().await.expect("a namespace without tables"), []);
    assert_eq!(links.addresses().await.expect("addresses"), []);
    ensure_loopback_up(&links).await.expect("lo");
    ensure_loopback_up(&links).await.expect("again");
    veth(&on_host, (&binding, "a", MAC_A), (&network, "b", MAC_B)).await.expect("create");
    let index = links.link("a").await.expect("a").index;
    links.set_up(index).await.expect("up");
    let address: Ipv4Net = "10.240.0.2/22".parse().expect("address");
    links.add_address(index, address).await.expect("add");
    assert!(matches!(links.add_address(index, address).await, Err(Error::AlreadyExists(_))));
    let seen = links.addresses().await.expect("addresses");
    assert!(seen.iter().any(|row| row.index == index && row.address == address), "{seen:?}");

    let target = RouteTarget::Link { index, gateway: None };
    let to_link = Route { destination: "10.241.0.0/16".parse().expect("net"), target, metric: 7, protocol: 4 };
    let unreachable = Route { target: RouteTarget::Unreachable, metric: u32::MAX, ..to_link };
    for route in [&to_link, &unreachable] {
        links.add_route(route).await.expect("add");
        assert!(links.routes().await.expect("routes").contains(route));
        assert!(matches!(links.add_route(route).await, Err(Error::AlreadyExists(_))));
    }
    for route in [&to_link, &unreachable] {
        links.del_route(route).await.expect("delete");
        assert!(!links.routes().await.expect("routes").contains(route));
        assert!(matches!(links.del_route(route).await, Err(Error::NotFound(_))));
    }
    let of_prefix = links.routes().await.expect("routes");
    assert_eq!(of_prefix.iter().map(|route| route.destination.to_string()).collect::<Vec<_>>(), ["10.240.0.0/22"]);
    links.del_address(index, address).await.expect("delete");
    assert!(matches!(links.del_address(index, address).await, Err(Error::NotFound(_))));
}

#[tokio::test]
async fn a_bridge_joins_its_ports_and_their_settings_are_taken() {
    let ground = Ground::join();
    let [host, network, binding] = ground.namespaces();
    let [on_host, links] = sockets([&host, &network]).await;
    let name = ifname("br0");
    let spec = BridgeSpec { name: &name, into: &network, mac: MAC_A, mtu: 1450 };
    on_host.create_bridge(&spec).await.expect("bridge");
    veth(&on_host, (&network, "port0", MAC_A), (&binding, "b", MAC_B)).await.expect("veth");
    let bridge = links.link("br0").await.expect("bridge");
    assert_eq!((&bridge.kind, bridge.mac, bridge.mtu), (&LinkKind::Bridge, Some(MAC_A), 1450));
    let index = links.link("port0").await.expect("port").index;
    let port = BridgePort {
        learning: false,
        unicast_flood: false,
        multicast_flood: false,
        broadcast_flood: true,
        // Neither it nor the bridge is up.
        forwarding: false,
        isolated: true,
        locked: false,
    };
    assert!(links.set_bridge_port(index, port).await.is_err(), "it is no port yet");
    links.set_controller(index, Some(bridge.index)).await.expect("join");
    links.set_bridge_port(index, port).await.expect("settings");
    let shown = run_in(&network, "ip -d link show port0");
    for expected in ["learning off", "flood off", "mcast_flood off", "bcast_flood on", "isolated on"] {
        assert!(shown.contains(expected), "{expected} in {shown}");
    }
    let seen = links.link("port0").await.expect("port");
    assert_eq!((seen.controller, seen.bridge_port), (Some(bridge.index), Some(port)));
    assert_eq!(bridge.bridge_port, None, "the bridge itself is no port");
    assert!(links.open_bridge_port(index).await.is_err(), "it is down");

    assert_eq!(links.bridge_fdb(bridge.index).await.expect("table"), [], "a port's own address is not of the table");
    links.bridge_fdb_replace(index, MAC_C).await.expect("write");
    links.bridge_fdb_replace(index, MAC_C).await.expect("again");
    let rows = links.bridge_fdb(bridge.index).await.expect("table");
    assert_eq!(rows, [BridgeFdbEntry { mac: MAC_C, port: index, fixed: true }]);
    let own = links.fdb(index).await.expect("the port's own table");
    assert!(own.iter().all(|row| row.mac != MAC_C), "{own:?}");
    links.bridge_fdb_delete(index, MAC_C).await.expect("delete");
    assert!(!links.bridge_fdb_delete(index, MAC_C).await.absent_is_done().expect("already gone"));
    links.set_controller(index, None).await.expect("leave");
    let seen = links.link("port0").await.expect("port");
    assert_eq!((seen.controller, seen.bridge_port), (None, None));
    assert!(links.bridge_fdb_replace(index, MAC_C).await.is_err(), "it is no port any more");
}

#[tokio::test]
async fn a_link_is_changed_one_setting_at_a_time() {
    let ground = Ground::join();
    let [host, network, binding] = ground.namespaces();
    let [on_host, links] = sockets([&host, &network]).await;
    veth(&on_host, (&network, "a", MAC_A), (&binding, "b", MAC_B)).await.expect("veth");
    let index = links.link("a").await.expect("a").index;
    links.set_mtu(index, 1400).await.expect("mtu");
    links.set_mac(index, MAC_B).await.expect("mac");
    links.set_alias(index, "privnet: one of ours").await.expect("alias");
    let link = links.link("a").await.expect("a");
    assert_eq!((link.mtu, link.mac, link.alias.as_deref()), (1400, Some(MAC_B), Some("privnet: one of ours")));
    let refused = links.set_mtu(index, 10).await.expect_err("too small");
    assert!(matches!(refused, Error::Kernel(_)), "{refused:?}");
    assert!(refused.to_string().contains("mtu"), "the kernel's words: {refused}");
    for result in [links.set_up(9999).await, links.set_mtu(9999, 1400).await, links.delete(9999).await] {
        assert!(matches!(result, Err(Error::NotFound(_))), "{result:?}");
    }
}

#[tokio::test]
async fn a_wireguard_link_is_created_or_the_kernel_is_said_to_lack_it() {
    let ground = Ground::join();
    let [binding, app] = ground.namespaces();
    let [in_binding, in_app] = sockets([&binding, &app]).await;
    match in_binding.create_wireguard(&ifname("wg0"), 1390, &app).await {
        Ok(()) => {
            let link = in_app.link("wg0").await.expect("it is in the app netns");
            assert_eq!((link.kind, link.mtu, link.mac), (LinkKind::Wireguard, 1390, None));
        }
        Err(Error::Unsupported(refusal)) => assert!(refusal.to_string().contains("wireguard wg0"), "{refusal}"),
        Err(other) => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn filters_are_observed_per_hook() {
    let ground = Ground::join();
    let [host, network, binding] = ground.namespaces();
    let [on_host, links] = sockets([&host, &network]).await;
    veth(&on_host, (&network, "a", MAC_A), (&binding, "b", MAC_B)).await.expect("veth");
    let index = links.link("a").await.expect("a").index;
    assert!(!links.has_clsact(index).await.expect("qdiscs"));
    assert_eq!(links.filters(index, FilterHook::Ingress).await.expect("filters"), []);
    run_in(&network, "tc qdisc add dev a clsact");
    run_in(&network, "tc filter add dev a ingress prio 3 bpf bytecode '1,6 0 0 4294967295,'");
    assert!(links.has_clsact(index).await.expect("qdiscs"));
    let filters = links.filters(index, FilterHook::Ingress).await.expect("filters");
    assert_eq!(
        filters.iter().map(|row| (row.priority, row.handle, row.kind.as_str())).collect::<Vec<_>>(),
        [(3, 1, "bpf")]
    );
    assert_eq!(links.filters(index, FilterHook::Egress).await.expect("filters"), []);
}

#[tokio::test]
async fn an_interface_that_appears_and_goes_is_heard_of() {
    let ground = Ground::join();
    let [host, app, other] = ground.namespaces();
    let [on_host, in_app] = sockets([&host, &app]).await;
    let mut watch = Watch::open(&app, &[]).await.expect("watch");
    veth(&on_host, (&app, "eth0", MAC_A), (&other, "b", MAC_B)).await.expect("veth");
    let appeared =
        until(&mut watch, |event| matches!(event, Event::Link(LinkEvent::Changed(link)) if link.name == "eth0")).await;
    let Event::Link(LinkEvent::Changed(Link { index, .. })) = appeared else { unreachable!() };
    in_app.delete(index).await.expect("delete");
    let gone = until(&mut watch, |event| matches!(event, Event::Link(LinkEvent::Gone { .. }))).await;
    assert_eq!(gone, Event::Link(LinkEvent::Gone { index, name: "eth0".to_owned() }));
}

#[tokio::test]
async fn an_observation_is_whole_while_links_come_and_go() {
    let ground = Ground::join();
    let [host, app, other] = ground.namespaces();
    let [on_host, in_app] = sockets([&host, &app]).await;
    for number in 0..40 {
        let (a, b) = (format!("keep{number}"), format!("peer{number}"));
        veth(&on_host, (&app, &a, MAC_A), (&other, &b, MAC_B)).await.expect("veth");
    }
    let churn = async {
        for _ in 0..20 {
            veth(&on_host, (&app, "flap", MAC_A), (&other, "flop", MAC_B)).await.expect("veth");
            let index = in_app.link("flap").await.expect("flap").index;
            in_app.delete(index).await.expect("delete");
        }
    };
    let [observer] = sockets([&app]).await;
    let watching = async {
        for _ in 0..100 {
            let names = names(&observer).await;
            assert_eq!(names.iter().filter(|name| name.starts_with("keep")).count(), 40);
            tokio::task::yield_now().await;
        }
    };
    tokio::join!(churn, watching);
}

/// A socket of the kernel carries one dump at a time, and a table that needs more than one message keeps it busy.
#[tokio::test]
async fn observations_of_a_large_table_at_the_same_time_are_all_whole() {
    const ROWS: u8 = 200;
    let ground = Ground::join();
    let [host, network] = ground.namespaces();
    let [on_host] = sockets([&host]).await;
    vxlan(&on_host, &network, "vxlan0", 7).await.expect("vxlan");
    let [links] = sockets([&network]).await;
    let index = links.link("vxlan0").await.expect("vxlan0").index;
    for host in 1..=ROWS {
        let mac = MacAddr::of_member([10, 240, 1, host], 1);
        links.fdb_replace(index, mac, ip("192.0.2.2")).await.expect("a row");
    }
    // As when many rows are removed by one pass, each of which is looked for before.
    let links = Arc::new(links);
    let remove = |host| {
        let links = Arc::clone(&links);
        async move {
            let rows = links.fdb(index).await?;
            links.fdb_delete(index, MacAddr::of_member([10, 240, 1, host], 1)).await?;
            Ok::<_, Error>(rows.len())
        }
    };
    let removed: JoinSet<_> = (1..=16).map(remove).collect();
    for seen in removed.join_all().await {
        let rows = seen.expect("all of them are observed");
        assert!(rows >= usize::from(ROWS) - 16, "{rows}");
    }
    assert_eq!(links.fdb(index).await.expect("the rest").len(), usize::from(ROWS) - 16);
}

#[tokio::test]
async fn a_socket_does_not_keep_the_namespaces_thread() {
    let ground = Ground::join();
    let [host] = ground.namespaces();
    let links = Links::open(&host).await.expect("open");
    drop(host);
    assert_eq!(names(&links).await, ["lo"], "the socket works on");
}
