//! What happens to the underlay below a host that has members: `status`, `doctor`, the metrics and the log say so.

use privnet_tests::lab::probe::reaches;
use privnet_tests::lab::{Host, Lab, wait_until};

/// What `status` says of the underlay.
fn troubles(host: &Host) -> Vec<String> {
    let problems = host.status().expect("status").problems;
    problems.into_iter().filter(|problem| problem.starts_with("underlay: ")).collect()
}

/// What `doctor` says of the VTEP, when that is not well.
fn doctors(host: &Host) -> Option<String> {
    let output = host.cli().output(&["doctor", "-o", "json"]);
    let checks: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).expect("checks");
    let vtep: Vec<_> = checks.into_iter().filter(|check| check["check"] == "vtep").collect();
    assert!(!vtep.is_empty(), "it is always looked at");
    vtep.into_iter().find(|check| check["status"] != "ok").map(|check| check["detail"].to_string())
}

fn is_well(host: &Host) {
    assert_eq!((troubles(host), doctors(host)), (vec![], None));
}

/// Whether all say it, and nobody any more once it is undone.
fn is_said(host: &Host, word: &str, change: &str, back: &[&str]) {
    let logged = || host.said("underlay: ").iter().filter(|line| line.contains(word)).count();
    let (before, over) = (logged(), host.said("packets can come and go again").len());
    host.space.run(change);
    let said = troubles(host);
    assert!(matches!(&said[..], [one] if one.contains(word)), "{change}: {said:?}");
    assert!(doctors(host).is_some_and(|said| said.contains(word)), "{change}");
    // A store that is not reached any more is a problem as well.
    let metrics = host.cli().text(&["metrics"]);
    let count = metrics.lines().find_map(|line| line.strip_prefix("privnet_problems ")?.parse::<u64>().ok());
    assert!(count.is_some_and(|count| count > 0), "{change}: {count:?}");
    wait_until(format!("the log says it: {word}"), || logged() > before);
    back.iter().for_each(|line| drop(host.space.run(line)));
    wait_until(format!("it is over: {word}"), || troubles(host).is_empty());
    is_well(host);
    wait_until(format!("the log says that it is over: {word}"), || {
        host.said("packets can come and go again").len() > over
    });
}

#[test]
fn an_underlay_that_lost_its_address_or_is_too_small_or_down_is_said_to_be() {
    let lab = Lab::new("an_underlay_that_lost_its_address_or_is_too_small_or_down_is_said_to_be");
    let ([host, other], _etcd) = lab.hosts_with_etcd();
    let (shop, own) = (host.network("shop", "10.90.0.0/24"), host.network("own", "10.91.0.0/24"));
    let (web, far) = (lab.member(&host, &shop, "web-1"), lab.member(&other, &shop, "backend-1"));
    let _alone = lab.member(&host, &own, "alone-1");
    wait_until("both know each other", || web.pings(far.address()));
    is_well(&host);

    let (up, small, large) = ("ip link set eth0 up", "ip link set eth0 mtu 1300", "ip link set eth0 mtu 1500");
    is_said(&host, "is 1300, and shop needs 1500", small, &[large]);
    let address = format!("{}/24", host.vtep);
    let [delete, add] = ["delete", "add"].map(|verb| format!("ip address {verb} {address} dev eth0"));
    is_said(&host, &format!("has the VTEP address {} any more", host.vtep), &delete, &[&add]);
    is_said(&host, "eth0, which has the VTEP address", "ip link set eth0 down", &[up]);

    // An agent that is started after it says it too: what it finds at its start is not what its networks need.
    host.stop();
    host.space.run(small);
    host.start();
    wait_until("the networks are there", || host.status().is_ok_and(|status| status.members_ready == 2));
    let said = troubles(&host);
    assert!(matches!(&said[..], [one] if one.contains("shop needs 1500")), "{said:?}");
    // A network whose members are all here does not use the underlay.
    assert!(other.detach(&shop, &far.container).expect("detach").detached);
    wait_until("nothing has to fit any more", || troubles(&host).is_empty());
    host.space.run(large);
    assert!(!reaches(&web.app, (far.address(), 7000)), "it is gone");
    lab.finish();
}
