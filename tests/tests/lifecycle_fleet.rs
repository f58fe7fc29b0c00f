//! What the hosts of a fleet have in common: the VXLAN port, and which store is theirs.
//!
//! ```text
//!  h1: agent, own state, web-1 ──┐            ┌── h2: agent, own state, backend-1
//!                                ├─ underlay ─┤   UDP 4789, or the port that was set
//!                  h3: etcd ─────┘
//! ```

use std::net::{Ipv4Addr, UdpSocket};

use privnet::agent::views::{Check, CheckStatus, FleetView};
use privnet::agent::{ControlError, ErrorCode};
use privnet_tests::lab::{Host, Lab, wait_until};

const SUBNET: &str = "10.92.0.0/24";

fn show(host: &Host) -> FleetView {
    host.cli().json(&["fleet", "show"]).expect("the fleet")
}

fn set(host: &Host, port: u16) -> Result<FleetView, ControlError> {
    host.cli().json(&["fleet", "set", "--vxlan-port", &port.to_string()])
}

fn listens(host: &Host, port: u16) -> bool {
    host.space.run("ss -Hnlu").contains(&format!(":{port} "))
}

/// What doctor finds of a UDP port.
fn diagnosed(host: &Host, port: u16) -> Option<(CheckStatus, String)> {
    let output = host.cli().output(&["doctor", "-o", "json"]);
    let checks: Vec<Check> = serde_json::from_slice(&output.stdout).expect("checks");
    let check = checks.into_iter().find(|check| check.check == format!("udp_{port}"))?;
    Some((check.status, format!("{}; {}", check.detail, check.remedy)))
}

#[test]
fn the_hosts_of_a_fleet_follow_its_vxlan_port_and_it_does_not_change_under_a_member() {
    let lab = Lab::new("the_hosts_of_a_fleet_follow_its_vxlan_port_and_it_does_not_change_under_a_member");
    let ([one, two], _etcd) = lab.hosts_with_etcd();
    let fleet = show(&one);
    assert_eq!((fleet.epoch, fleet.vxlan_port.get()), (1, 4789));
    assert_eq!(show(&two), fleet);
    for wrong in ["0", "65536", "vxlan"] {
        let output = one.cli().output(&["fleet", "set", "--vxlan-port", wrong]);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
    }

    // A port that a program of this host has.
    let taken = one.space.inside(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 8472))).expect("the port");
    let error = set(&one, 8472).expect_err("it is taken");
    assert!(error.code == ErrorCode::VtepConflict && error.message.contains("8472"), "{error:?}");
    drop(taken);
    assert_eq!(show(&two).vxlan_port.get(), 4789);

    // Members keep the port that they have; agents that ran before the change and know of it by the watch use the new one.
    let network = one.network("shop", SUBNET);
    let (web, backend) = (lab.container("web-1"), lab.container("backend-1"));
    for (before, after) in [(4789, 8472), (8472, 4789)] {
        let members = [one.join(&network, &web), two.join(&network, &backend)];
        wait_until("web reaches backend", || members[0].pings(members[1].address()));
        for host in [&one, &two] {
            assert!(listens(host, before) && !listens(host, after), "{}", host.space.run("ss -Hnlu"));
            assert_eq!(diagnosed(host, before).expect("a check").0, CheckStatus::Ok);
            assert_eq!(diagnosed(host, after), None);
        }
        let error = set(&one, after).expect_err("members have it");
        assert_eq!(error.code, ErrorCode::NetworkNotEmpty, "{error:?}");
        assert!(error.message.contains("shop has 2 (on h1, h2)"), "{error:?}");
        for (host, container) in [(&one, &web), (&two, &backend)] {
            assert!(host.detach(&network, container).expect("detach").detached);
        }
        let set = set(&one, after).expect("nobody has it");
        assert_eq!(set, FleetView { vxlan_port: after.try_into().expect("a port"), ..fleet.clone() });
        wait_until("the other host knows of it", || show(&two) == set);
    }

    // What the device lost is found and made again.
    set(&two, 4790).expect("nobody has it");
    let members = [one.join(&network, &web), two.join(&network, &backend)];
    wait_until("web reaches backend", || members[0].pings(members[1].address()));
    members[0].network.run("ip link delete vxlan0");
    wait_until("web reaches backend again", || members[0].pings(members[1].address()));
    assert!(listens(&one, 4790));
    one.kill();
    one.start();
    one.wait_until_settled();
    assert_eq!(show(&one).vxlan_port.get(), 4790);
    assert!(members[0].pings(members[1].address()));
    for (host, container) in [(&one, &web), (&two, &backend)] {
        assert!(host.detach(&network, container).expect("detach").detached);
    }

    // The program that has the port is named, by its number.
    let taken = two.space.inside(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 4790))).expect("the port");
    let error = two.attach(&network, &backend, None).expect_err("a refusal");
    assert_eq!(error.code, ErrorCode::VtepConflict, "{error:?}");
    assert!(error.message.contains("4790") && error.remedy.contains("4790"), "{error:?}");
    let (status, said) = diagnosed(&two, 4790).expect("a check");
    assert!(status == CheckStatus::Fail && said.contains("port 4790"), "{said}");
    drop(taken);
    let _twin = two.join(&network, &backend);
    lab.finish();
}
