//! What is not ours is not touched: not by attach, not by a pass, not by detach.
//!
//! ```text
//!  host namespace                            container
//! ┌───────────────────────────────┐         ┌────────────────────────────────────────┐
//! │ docker0, vethd2 (Docker's)    │   veth  │ eth0 with a filter of the customer's   │
//! │ cni0, flannel.1 (a CNI's)     ╪═════════╪═ wg0, wg2 (the customer's)             │
//! └───────────────────────────────┘         │ wg1 (ours: the lowest free name)       │
//!  namespaces: pn-shop, bind-x, cni-…       └────────────────────────────────────────┘
//! ```

use std::fs;
use std::net::Ipv4Addr;

use privnet_tests::lab::container::DOCKER_PREFIX;
use privnet_tests::lab::{Lab, Options, Space, wait_until};

#[test]
fn the_links_filters_and_namespaces_of_strangers_survive() {
    for options in [Options::ebpf(), Options::bridge()] {
        let lab = Lab::new("the_links_filters_and_namespaces_of_strangers_survive");
        let host = lab.host(&options);
        host.space.run("ip link add cni0 type bridge");
        host.space.run("ip link add flannel.1 type vxlan id 1 dstport 8472 local 192.168.77.1 dev eth0");
        let container = lab.container("web-1").with_eth0(&host.space, 2);
        container.space.run("ip tuntap add dev wg0 mode tun");
        container.space.run("ip address add 10.6.0.1/24 dev wg0");
        container.space.run("ip tuntap add dev wg2 mode tun");
        container.space.run("tc qdisc add dev eth0 clsact");
        // One classic instruction, "no match": it sees everything and decides nothing.
        let bytecode = lab.directory().join("bytecode");
        fs::write(&bytecode, "1,6 0 0 0,").expect("a file");
        for side in ["ingress", "egress"] {
            let filter =
                format!("tc filter add dev eth0 {side} prio 7 protocol ip bpf bytecode-file {}", bytecode.display());
            container.space.run(&filter);
        }
        // Names like ours that are not: of no agent's prefix, or of no form that we make.
        let beside = format!("{}x", lab.space("pn-shop").pin());
        let foreign = [lab.space("bind-xyz"), lab.space("cni-1234"), Space::create("", &beside)];
        let spaces = [&host.space, &container.space];
        let before = spaces.map(strangers);

        let network = host.network("shop", "10.90.0.0/24");
        let web = host.join(&network, &container);
        assert_eq!(web.attached.interface.as_str(), "wg1", "the customer's wg0 is the customer's");
        let worker = lab.member(&host, &network, "worker-1");
        wait_until("web reaches worker", || web.pings(worker.address()));
        let docker0 = Ipv4Addr::new(172, 30, 0, 1);
        assert!(web.pings(docker0), "the way through eth0 is as it was");
        host.stop();
        host.start();
        host.wait_until_settled();
        for (space, before) in spaces.iter().zip(&before) {
            assert_eq!(changed(before, &strangers(space)), (vec![], vec![]), "after attach and a restart");
        }

        for member in [&web, &worker] {
            assert!(host.detach(&network, &member.container).expect("detach").detached);
        }
        wait_until("nothing of ours is left", || host.leftovers().is_empty());
        for (space, before) in spaces.iter().zip(&before) {
            assert_eq!(changed(before, &strangers(space)), (vec![], vec![]), "after detach");
        }
        assert!(foreign.iter().all(Space::exists));
        let ping = format!("ping -q -n -c 1 -W 1 {DOCKER_PREFIX}.1");
        assert!(container.space.succeeds(&ping));
        foreign[2].remove();
        lab.finish_detached();
    }
}

/// Everything in a namespace that is not ours: links with their indexes and addresses, routes, filters.
fn strangers(space: &Space) -> Vec<String> {
    let ours = |line: &str| line.contains(" wg1") || line.contains("10.90.0.0/24");
    let mut lines = Vec::new();
    for command in ["ip -o link show", "ip -o -4 address show", "ip -4 route show table all"] {
        // The flags and the state of a link follow its peers; the rest of the line is its owner's.
        let shown = space.run(command);
        let kept = shown.lines().filter(|line| !ours(line)).map(|line| line.split(" qdisc ").next().unwrap_or(line));
        lines.extend(kept.map(str::to_owned));
    }
    for direction in ["ingress", "egress"] {
        if space.link("eth0").is_some() {
            let shown = space.run(&format!("tc filter show dev eth0 {direction} prio 7"));
            lines.extend(shown.lines().map(|line| format!("{direction} {line}")));
        }
    }
    lines.sort();
    lines
}

/// The lines that went and the lines that came.
fn changed(before: &[String], after: &[String]) -> (Vec<String>, Vec<String>) {
    let without =
        |some: &[String], others: &[String]| some.iter().filter(|line| !others.contains(line)).cloned().collect();
    (without(before, after), without(after, before))
}
