//! A store that loses what it was told takes no running container's network away, and gets it back.
//!
//! ```text
//!  h1: agent, web-1 ──────────┐            ┌── h2: agent, backend-1
//!                             ├─ underlay ─┤   a stream of datagrams from web-1 to backend-1, and back, throughout
//!               h3: etcd ─────┘            └── (keys deleted, an older copy put back, agents away meanwhile)
//! ```

mod cluster;

use std::time::Duration;

use cluster::{Cluster, LATER, PACE, PORT};
use privnet::agent::ErrorCode;
use privnet_tests::lab::probe::{Server, Stream};
use privnet_tests::lab::{Container, Lab, wait_until, wait_within};

#[test]
fn keys_that_are_deleted_come_back_and_no_datagram_is_lost() {
    let lab = Lab::new("keys_that_are_deleted_come_back_and_no_datagram_is_lost");
    let (hosts, etcd) = lab.hosts_with_etcd();
    let cluster = Cluster::of(&lab, hosts, etcd);
    let records = cluster.ready_records();
    let everything =
        ["networks/", "names/", "vnis/", "members/", "addresses/", "public-keys/", "hosts/", "presences/", "fences/"];
    let one_member = format!("members/{}/1.backend.", cluster.network.id);
    // What is lost again and again waits longer each time, so each record is lost a few times only.
    let losses: [&[&str]; 6] =
        [&["members/"], &["addresses/", "public-keys/"], &["networks/"], &["hosts/"], &[&one_member], &everything];
    let name = cluster.backend.attached.member.hostname.clone();
    let address = cluster.backend.address().to_string();
    for lost in losses {
        cluster.etcd.delete(lost);
        cluster.wait_until_back(&records, &lost.join(" "));
        cluster.flows();
        assert_eq!(cluster.web.told(&name), address);
    }
    // The names stay while the hosts say again that they are there.
    cluster.etcd.delete(&["presences/"]);
    wait_until("the hosts say again that they are there", || {
        let present = cluster.etcd.records(&[]);
        cluster.hosts.iter().all(|host| present.contains_key(&format!("presences/{}", host.name)))
    });
    assert_eq!(cluster.web.told(&name), address);
    cluster.wait_until_settled();

    // The agents were away when it happened: what they saw is on the disk.
    for host in &cluster.hosts {
        host.kill();
    }
    cluster.etcd.delete(&["members/", "addresses/", "networks/", "names/", "vnis/", "public-keys/"]);
    for host in &cluster.hosts {
        host.start();
    }
    cluster.wait_until_back(&records, "what was lost while no agent ran");
    cluster.wait_until_settled();

    // A host that is away: another one puts its records back.
    let two = &cluster.hosts[1];
    two.kill();
    cluster.etcd.delete(&["members/", "presences/h2"]);
    let took = cluster.wait_until_back(&records, "members of a host that is away");
    assert!(took > Duration::from_secs(1), "it is the host's own turn first: {took:?}");
    two.start();
    cluster.wait_until_settled();
    cluster.end_stream();

    // The twin: a detach ends it everywhere, and is not put back.
    assert!(cluster.hosts[0].detach(&cluster.network, &cluster.web.container).expect("detach").detached);
    let route = format!("ip route get {}", cluster.web.address());
    wait_until("backend hears that web is gone", || !cluster.backend.app.succeeds(&route));
    let records = cluster.records();
    assert!(!records.keys().any(|key| key.contains("/1.web.")), "{records:?}");
    cluster.etcd.delete(&["members/"]);
    cluster.wait_until_back(&records, "the other member alone");
    lab.finish();
}

#[test]
fn an_older_copy_of_the_store_brings_nothing_back_and_takes_nothing_away() {
    let lab = Lab::new("an_older_copy_of_the_store_brings_nothing_back_and_takes_nothing_away");
    let (hosts, etcd) = lab.hosts_with_etcd();
    let mut cluster = Cluster::of(&lab, hosts, etcd);
    let [one, two] = &cluster.hosts;
    // One of two names ends while the store has lost the record of both, which is put back first.
    let side = Container { kind: "side".to_owned(), ..cluster.web.container.clone() };
    let attached = one.attach(&cluster.network, &side, None).expect("a further name");
    assert_eq!(attached.member.address, cluster.web.address());
    cluster.etcd.delete(&[&format!("members/{}/1.web.", cluster.network.id)]);
    wait_until("the name is detached", || match one.detach(&cluster.network, &side) {
        Ok(detached) => detached.detached,
        Err(error) => {
            assert_eq!(error.code, ErrorCode::StoreUnavailable, "{error:?}");
            false
        }
    });
    wait_until("the name has ended, and the membership goes on", || {
        let records = cluster.etcd.records(&[]);
        let has = |part: &str| records.keys().any(|key| key.contains(part));
        has("/1.web.") && !has("/1.side.") && !records.values().any(|record| record.contains(r#""side""#))
    });
    let old = lab.member(two, &cluster.network, "old-1");
    let reused = lab.member(one, &cluster.network, "reused-1");
    cluster.etcd.kill();
    cluster.etcd.back_up_data();
    cluster.etcd.start();
    wait_within("both hosts reach the store", LATER, || {
        [one, two].iter().all(|host| host.status().is_ok_and(|status| status.problems.is_empty()))
    });

    // Since then: one has gone, one has come, and an address has another holder.
    assert!(two.detach(&cluster.network, &old.container).expect("detach").detached);
    assert!(one.detach(&cluster.network, &reused.container).expect("detach").detached);
    let new = lab.member(one, &cluster.network, "new-1");
    let next = lab.container("next-1");
    let next = two.attach(&cluster.network, &next, Some(reused.address())).expect("the address is free");
    wait_until("web reaches the new member", || cluster.backend.pings(new.address()));
    let server = Server::echo(&cluster.web.app, PORT);
    let other = Stream::start(&new.app, (cluster.web.address(), PORT), PACE);
    wait_until("it flows", || other.answered() > 100);
    let records = cluster.ready_records();
    assert!(next.ready);

    cluster.etcd.kill();
    cluster.etcd.put_data_back();
    cluster.etcd.start();
    let took = cluster.wait_until_back(&records, "what the older copy had not");
    assert!(took < LATER);
    cluster.wait_until_settled_with(2);
    assert_eq!(cluster.web.told(&old.attached.member.hostname), "");
    assert_eq!(cluster.web.told(&new.attached.member.hostname), new.address().to_string());
    assert_eq!(cluster.web.told(&next.member.hostname), next.member.address.to_string());
    other.finish_whole();
    drop(server);
    cluster.end_stream();
    lab.finish();
}
