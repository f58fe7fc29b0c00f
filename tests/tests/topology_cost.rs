//! What namespaces and links cost. Not a test of right or wrong: it prints, and runs only when asked for.

#![expect(clippy::print_stdout, reason = "printing is what it is for")]

mod links;

use std::time::Instant;

use links::{MAC_A, MAC_B, ip, sockets, veth, vxlan};
use privnet::link::{LinkKind, Links};
use privnet::netns::Netns;
use privnet_ebpf::net::MacAddr;
use privnet_tests::lab::Ground;

/// `cargo test -p privnet-tests --release --test topology_cost -- --ignored --nocapture`
#[tokio::test]
#[ignore = "a measurement"]
async fn the_operations_are_measured() {
    let ground = Ground::join();
    let pins = ground.directory().join("netns");
    let started = Instant::now();
    let pinned: Vec<Netns> =
        (0..50).map(|number| Netns::create(&pins, &format!("n{number}")).expect("create")).collect();
    report("netns create, pinned", started, 50);
    let started = Instant::now();
    for number in 0..50 {
        Netns::open(&pins.join(format!("n{number}"))).expect("open");
    }
    report("netns open", started, 50);
    let [host, network] = [&pinned[0], &pinned[1]];
    let [on_host, in_network] = sockets([host, network]).await;
    let started = Instant::now();
    for binding in &pinned[2..] {
        let name = format!("veth-{:08x}", binding.id().ino);
        veth(&on_host, (network, &name, MAC_A), (binding, "vxlan-1-veth0", MAC_B)).await.expect("veth");
    }
    report("veth, both ends elsewhere", started, 48);
    let started = Instant::now();
    for (number, into) in (1000..).zip(&pinned[2..]) {
        vxlan(&on_host, into, "vxlan0", number).await.expect("vxlan");
    }
    report("vxlan, directly in its namespace", started, 48);
    let started = Instant::now();
    for binding in &pinned[2..] {
        Links::open(binding).await.expect("open");
    }
    report("netlink socket", started, 48);
    let [few] = sockets([&pinned[2]]).await;
    let started = Instant::now();
    for _ in 0..100 {
        observe_all(&few).await;
    }
    report("observation of 3 links (links, addresses, routes, neighbours, fdb)", started, 100);
    let started = Instant::now();
    for _ in 0..20 {
        in_network.links().await.expect("links");
    }
    report("links() of 49 links", started, 20);
    let index = few.link("vxlan0").await.expect("vxlan0").index;
    let started = Instant::now();
    for number in 0..1000u32 {
        let address = number.to_be_bytes();
        few.fdb_replace(index, MacAddr::of_member(address, 0), ip("192.0.2.9")).await.expect("fdb");
    }
    report("fdb_replace", started, 1000);
    let started = Instant::now();
    few.delete(index).await.expect("delete");
    report("delete vxlan", started, 1);
    for number in 0..50 {
        Netns::remove(&pins, &format!("n{number}")).expect("remove");
    }
    Netns::remove_dir(&pins).expect("clean up");
}

async fn observe_all(links: &Links) {
    for link in links.links().await.expect("links") {
        links.neighbours(link.index).await.expect("neighbours");
        if matches!(link.kind, LinkKind::Vxlan(_)) {
            links.fdb(link.index).await.expect("fdb");
        }
    }
    links.addresses().await.expect("addresses");
    links.routes().await.expect("routes");
}

fn report(what: &str, started: Instant, count: u32) {
    println!("{what}: {:.0} µs each", (started.elapsed() / count).as_secs_f64() * 1e6);
}
