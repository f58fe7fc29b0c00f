//! The VXLAN port of a fleet, and the members that must not be there when it changes.

use std::num::NonZeroU16;
use std::sync::Arc;

use super::super::vxlan_port::{VxlanPortError, hosts_of_earlier_builds, set_vxlan_port};
use super::*;
use crate::store::Fleet;
use crate::store::records::PresenceRecord;

fn port(port: u16) -> NonZeroU16 {
    NonZeroU16::new(port).expect("a port")
}

async fn fleet(store: &Arc<dyn Store>) -> Fleet {
    Fleet::join(Arc::clone(store)).await.expect("joined")
}

#[tokio::test]
async fn the_port_changes_without_members_and_does_not_with_one_on_whichever_host() {
    let store: Arc<dyn Store> = Arc::new(Memory::new());
    let fleet = fleet(&store).await;
    let shop = network(&fleet, "shop").await;
    set_vxlan_port(&fleet, port(4790)).await.expect("set");
    let member = claim_member(&fleet, &claim(&shop, 1)).await.expect("claimed");
    set_vxlan_port(&fleet, port(4790)).await.expect("it is so already");
    let error = set_vxlan_port(&fleet, port(8472)).await.expect_err("it has a member").to_string();
    assert!(error.ends_with("shop has 1 (on host-1)"), "{error}");
    release_member(&fleet, &member, End::by_its_host(NOW), &NothingSeen).await.expect("released");
    assert_eq!(set_vxlan_port(&fleet, port(8472)).await.expect("set").vxlan_port, port(8472));
}

#[tokio::test]
async fn the_port_does_not_change_while_an_agent_of_the_build_before_is_there() {
    let store: Arc<dyn Store> = Arc::new(Memory::new());
    let fleet = fleet(&store).await;
    let tell = async |host: &str, of| {
        let instance = uuid::Uuid::nil();
        let presence = PresenceRecord {
            instance,
            machine: None,
            boot: None,
            fleet: of,
            answers: false,
            asked: None,
            since_unix_seconds: None,
        };
        let key = keys::presence(&host.parse().expect("a host"));
        let told = Transaction::new().put(key, records::encode(&presence, &Envelope::first()));
        fleet.commit(told).await.expect("told");
    };
    tell("h1", Some(fleet.id())).await;
    tell("h2", None).await;
    let error = set_vxlan_port(&fleet, port(4790)).await.expect_err("h2 is of the build before");
    assert!(matches!(&error, VxlanPortError::EarlierBuild(hosts) if hosts.len() == 1), "{error}");
    assert!(error.to_string().ends_with(": h2"), "{error}");
    tell("h2", Some(fleet.id())).await;
    set_vxlan_port(&fleet, port(4790)).await.expect("set");
    assert!(hosts_of_earlier_builds(&fleet).await.expect("read").is_empty());
}

/// Whichever comes first: a member of the port before keeps it, or the agent that claims knows of the new one.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_member_is_claimed_beside_a_change_of_the_port_by_an_agent_that_does_not_know_of_it() {
    let store: Arc<dyn Store> = Arc::new(Memory::new());
    let (setter, claimer) = (Arc::new(fleet(&store).await), Arc::new(fleet(&store).await));
    let shop = network(&*setter, "shop").await;
    let (mut set_first, mut claimed_first) = (0, 0);
    for round in 0..200 {
        let to = port(5000 + u16::try_from(round).expect("small"));
        let before = claimer.vxlan_port();
        let setting = tokio::spawn({
            let setter = Arc::clone(&setter);
            async move { set_vxlan_port(&*setter, to).await }
        });
        let claiming = tokio::spawn({
            let (claimer, claim) = (Arc::clone(&claimer), claim(&shop, round));
            async move { claim_member(&*claimer, &claim).await.map(|member| (member, claimer.vxlan_port())) }
        });
        let (set, claimed) = (setting.await.expect("ended"), claiming.await.expect("ended"));
        let (member, used) = claimed.expect("claimed");
        match set {
            Ok(_) => {
                assert_eq!(used, to);
                set_first += 1;
            }
            Err(VxlanPortError::HasMembers(_)) => {
                assert_eq!(used, before);
                claimed_first += 1;
            }
            Err(error) => panic!("{error}"),
        }
        release_member(&*claimer, &member, End::by_its_host(NOW), &NothingSeen).await.expect("released");
    }
    assert_eq!(set_first + claimed_first, 200);
    assert_consistent(&*setter).await;
}
