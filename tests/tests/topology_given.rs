//! What a network is given: a subnet beside what containers have already, and an MTU that fits.
//!
//! ```text
//!  gateway 172.17.0.1/24 ── eth0 172.17.0.50/24 ─ container ─ wg0 10.90.0.2/24       shop, attached before
//!                                                     └╌╌╌╌╌╌ refused: networks that overlap 172.17.0.0/24
//! ```

use std::time::Duration;

use privnet::agent::views::{Check, CheckStatus, NetworkView};
use privnet::agent::{ControlError, ErrorCode};
use privnet_tests::lab::{Container, Host, Lab, Options, Space, say, wait_until};

/// Gives the container an `eth0` with this address, whose other end is in `gateway`.
fn connect(container: &Space, gateway: &Space, address: &str, gateways: &str) {
    let far = gateway.path();
    container.run(&format!("ip link add eth0 type veth peer name e0 netns {}", far.display()));
    gateway.run(&format!("ip address add {gateways} dev e0"));
    gateway.run("ip link set e0 up");
    container.run("ip link set lo up");
    container.run(&format!("ip address add {address} dev eth0"));
    container.run("ip link set eth0 up");
}

fn refusal(host: &Host, name: &str, subnet: &str, container: &Container) -> ControlError {
    let network = host.network(name, subnet);
    let before = host.leftovers();
    let routes = container.space.run("ip -4 route show table all");
    let error = host.attach(&network, container, None).expect_err("an overlap");
    assert_eq!(error.code, ErrorCode::SubnetOverlap, "{error:?}");
    assert_eq!(container.space.run("ip -4 route show table all"), routes, "nothing is half done");
    assert_eq!(host.leftovers(), before);
    error
}

#[test]
fn a_network_that_would_cut_off_an_interface_of_the_container_is_refused() {
    let lab = Lab::new("a_network_that_would_cut_off_an_interface_of_the_container_is_refused");
    let host = lab.host(&Options { observe_interval: Some(Duration::from_secs(1)), ..Options::ebpf() });
    let (web, gateway) = (lab.container("web-1"), lab.space("gateway"));
    connect(&web.space, &gateway, "172.17.0.50/24", "172.17.0.1/24");
    web.space.run("ip route add default via 172.17.0.1");
    web.space.run("ip route add 10.60.8.0/22 via 172.17.0.1");
    web.space.run("ip route add 100.64.0.0/10 via 172.17.0.1");
    web.space.run("ip route add blackhole 10.61.0.0/24");

    say("connected: equal, contained and containing");
    for (name, subnet) in [("equal", "172.17.0.0/24"), ("inside", "172.17.0.0/28"), ("around", "172.17.0.0/16")] {
        let error = refusal(&host, name, subnet, &web);
        assert!(error.message.contains("172.17.0.0/24, which is connected to eth0"), "{}", error.message);
        assert!(error.remedy.contains("--subnet"), "{}", error.remedy);
    }
    say("routes that are as narrow or narrower");
    for (name, subnet, said) in [
        ("route", "10.60.8.0/22", "10.60.8.0/22, which has a route through eth0"),
        ("wider", "10.60.0.0/16", "10.60.8.0/22, which has a route through eth0"),
        ("hole", "10.61.0.0/22", "10.61.0.0/24, which has a route of its own"),
    ] {
        let error = refusal(&host, name, subnet, &web);
        assert!(error.message.contains(said), "{}", error.message);
    }

    say("the twins: a subnet beside it, one inside a wider route, and one under the default route");
    let shop = host.network("shop", "172.17.1.0/24");
    let joined = host.join(&shop, &web);
    let within = host.network("within", "100.64.3.0/24");
    assert_eq!(joined.attached.problems, [], "a default route is nothing");
    let narrower = host.attach(&within, &web, None).expect("a narrower subnet than the route around it");
    let worker = lab.member(&host, &shop, "worker-1");
    wait_until("the member talks", || joined.pings(worker.address()));
    assert!(web.space.succeeds("ping -c 1 -W 5 172.17.0.1"), "and eth0 goes on");

    say("the wider route is a warning of the member, in the answer, the status, the metrics and doctor");
    let said = "subnet 100.64.3.0/24 is inside 100.64.0.0/10, which has a route through eth0 of the container";
    let [warning] = &narrower.problems[..] else { panic!("{:?}", narrower.problems) };
    assert!(warning.what.starts_with("1.web.") && warning.why.starts_with(said), "{warning:?}");
    let warned = || {
        let problems = host.status().expect("status").problems;
        problems.iter().any(|problem| problem.contains(&warning.what) && problem.contains(said))
    };
    assert!(warned(), "{:?}", host.status());
    let sample = |network: &NetworkView| {
        let text = host.cli().text(&["metrics"]);
        let of_web = format!("privnet_member_problems{{network=\"{}\"", network.id);
        text.lines().find(|line| line.starts_with(&of_web) && line.contains("1.web.")).map(str::to_owned)
    };
    assert!(sample(&within).is_some_and(|line| line.ends_with(" 1")), "{:?}", sample(&within));
    assert!(sample(&shop).is_some_and(|line| line.ends_with(" 0")), "{:?}", sample(&shop));
    let checked = || host.cli().json::<Vec<Check>>(&["doctor"]).expect("no check fails");
    let agent = |checks: Vec<Check>| checks.into_iter().find(|check| check.check == "agent").expect("the check");
    assert_eq!(agent(checked()).status, CheckStatus::Warn);
    web.space.run("ip route del 100.64.0.0/10");
    assert_eq!(agent(checked()).status, CheckStatus::Ok);
    assert!(!warned(), "{:?}", host.status());

    say("an interface that comes later is a problem with the member's name, and over when it goes");
    let problem = || {
        let problems = host.status().expect("status").problems;
        problems.into_iter().find(|problem| problem.contains("172.17.1.0/24, which is connected to late"))
    };
    assert_eq!(problem(), None);
    web.space.run("ip link add late type veth peer name late1");
    web.space.run("ip address add 172.17.1.77/24 dev late");
    wait_until("the problem is said", || problem().is_some_and(|problem| problem.contains("1.web.")));
    web.space.run("ip link del late");
    wait_until("it is over", || problem().is_none());
    for network in [&shop, &within] {
        assert!(host.detach(network, &web).expect("detach").detached);
    }
    assert!(host.detach(&shop, &worker.container).expect("detach").detached);
    lab.finish_detached();
}

#[test]
fn a_network_without_a_wish_gets_a_subnet_that_host_and_containers_do_not_have() {
    let lab = Lab::new("a_network_without_a_wish_gets_a_subnet_that_host_and_containers_do_not_have");
    let host = lab.host(&Options::ebpf());
    let (web, gateway) = (lab.container("web-1"), lab.space("gateway"));
    let shop = host.network("shop", "10.90.0.0/24");
    let _joined = host.join(&shop, &web);
    assert_eq!(host.create_network("first", None).expect("created").subnet.to_string(), "10.240.0.0/22");

    say("an interface of the host, and one of a container that is attached");
    host.space.run("ip link add z0 type veth peer name z1");
    host.space.run("ip address add 10.240.5.1/24 dev z0");
    connect(&web.space, &gateway, "10.240.8.9/24", "10.240.8.1/24");
    assert_eq!(host.create_network("second", None).expect("created").subnet.to_string(), "10.240.12.0/22");

    say("the twin: they are gone");
    host.space.run("ip link del z0");
    web.space.run("ip link del eth0");
    assert_eq!(host.create_network("third", None).expect("created").subnet.to_string(), "10.240.4.0/22");
    assert!(host.detach(&shop, &web).expect("detach").detached);
    lab.finish_detached();
}

#[test]
fn a_network_may_have_a_smaller_mtu_than_the_underlay_leaves() {
    /// IPv4 and ICMP headers of an echo request.
    const HEADERS: usize = 28;
    let lab = Lab::new("a_network_may_have_a_smaller_mtu_than_the_underlay_leaves");
    let host = lab.host(&Options::ebpf());
    let create = |name: &str, mtu: &str| {
        host.cli().json::<NetworkView>(&["network", "create", name, "--subnet", "10.90.0.0/24", "--mtu", mtu])
    };
    assert_eq!(create("tiny", "575").expect_err("too small").code, ErrorCode::InvalidArgument);
    assert_eq!(create("large", "1391").expect_err("too large").code, ErrorCode::MtuTooSmall);
    let network = create("small", "1000").expect("in between");
    assert_eq!(network.mtu, 1000);
    let (web, worker) = (lab.member(&host, &network, "web-1"), lab.member(&host, &network, "worker-1"));
    assert_eq!([&web.app, &worker.app].map(|app| app.link("wg0").expect("wg0")["mtu"].as_u64()), [Some(1000); 2]);
    let ping = |bytes: usize| web.app.succeeds(&format!("ping -c 1 -W 1 -M do -s {bytes} {}", worker.address()));
    wait_until("the largest packet passes", || ping(1000 - HEADERS));
    assert!(!ping(1001 - HEADERS), "and one that is larger does not");
    lab.finish();
}
