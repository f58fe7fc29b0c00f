//! What a fake agent answers: one view of each kind.
//!
//! The tests of the built binary have this file too (`tests/support`), so it names the crate as those do.

use std::collections::BTreeMap;

use privnet::agent::views::{
    AnswerSource, Attached, AttachmentView, Check, CheckStatus, CounterRow, DomainNameView, ExportedState, FleetView,
    HostState, HostView, MemberRef, MemberView, NameView, NamesCounted, NamesView, NetworkCounters, NetworkView,
    RebuiltState, ResolveView, ResponseCode, StatusView,
};
use privnet::datapath::{Direction, Outcome};
use privnet::model::{DEFAULT_VXLAN_PORT, MemberState, NameOptions, PublicKey};
use privnet::store::StoreKind;
use privnet::topology::Datapath;
use privnet::wireguard::Backend;

pub(crate) const NETWORK: &str = "pn-ad0fd6a1-d05e-40ea-bf63-c4f8a75a9d8c";
pub(crate) const APP: &str = "ap-a71da13f-7c70-4c00-a644-eee8558d8053";

pub(crate) fn exported_state() -> ExportedState {
    ExportedState {
        version: 1,
        fleet: fleet_view().id,
        fleet_record: "{}".to_owned(),
        exported_unix_seconds: 7,
        store_age_seconds: None,
        records: [("hosts/a".to_owned(), "{}".to_owned())].into(),
        checksum: "00".to_owned(),
        lost_networks: false,
    }
}

pub(crate) fn rebuilt_state() -> RebuiltState {
    RebuiltState {
        fleet: fleet_view().id,
        epoch: 2,
        networks: 1,
        members: 3,
        hosts: 2,
        removed_networks: 0,
        removed_members: 0,
        done: true,
    }
}

pub(crate) fn fleet_view() -> FleetView {
    let id = "fl-5c9f9c0e-3b61-4ab3-8a0e-2f5fd1d6f3b7".parse().expect("a fleet");
    FleetView { id, epoch: 1, vxlan_port: DEFAULT_VXLAN_PORT }
}

pub(crate) fn network_view() -> NetworkView {
    NetworkView {
        id: NETWORK.parse().expect("network"),
        name: "shop".parse().expect("name"),
        vni: 7,
        subnet: "10.240.0.0/22".parse().expect("subnet"),
        mtu: 1390,
        created_unix_seconds: 1_700_000_000,
        addresses_used: 1,
        addresses_max: 1021,
        names: NameOptions::default(),
        store_age_seconds: Some(3),
    }
}

pub(crate) fn member_ref() -> MemberRef {
    MemberRef {
        app: APP.parse().expect("app"),
        app_name: Some("shop-api".parse().expect("name")),
        kind: "web".parse().expect("type"),
        number: 1.try_into().expect("number"),
        address: [10, 240, 0, 2].into(),
        hostname: format!("1.web.{APP}.{NETWORK}.private-network.internal"),
    }
}

pub(crate) fn attached() -> Attached {
    Attached {
        network: NETWORK.parse().expect("network"),
        member: member_ref(),
        interface: "wg0".parse().expect("interface"),
        ready: true,
        env: BTreeMap::from([("PRIVNET_ADDRESS".to_owned(), "10.240.0.2".to_owned())]),
        resolv_conf: Some("nameserver 127.0.0.82\n".to_owned()),
        problems: Vec::new(),
    }
}

pub(crate) fn attachment_view() -> AttachmentView {
    AttachmentView {
        name: "cni/shop/c1/eth0".parse().expect("a name"),
        network: NETWORK.parse().expect("network"),
        network_name: Some("shop".parse().expect("name")),
        member: member_ref(),
        interface: "eth0".parse().expect("interface"),
        ready: true,
        problems: Vec::new(),
    }
}

pub(crate) fn member_view() -> MemberView {
    MemberView {
        network: NETWORK.parse().expect("network"),
        network_name: "shop".parse().expect("name"),
        member: member_ref(),
        public_key: PublicKey::new([7; 32]),
        host: "one".parse().expect("host"),
        state: MemberState::Ready,
        interface: Some("wg0".parse().expect("interface")),
        names: vec![NameView {
            name: member_ref(),
            state: MemberState::Ready,
            ports: ["http=8080".parse().expect("a port")].into(),
        }],
        unreachable_since_unix_seconds: Some(1_700_000_000),
        store_age_seconds: Some(3),
    }
}

pub(crate) fn domain_name_view() -> DomainNameView {
    DomainNameView {
        name: format!("1.web.{APP}.{NETWORK}.private-network.internal"),
        network: NETWORK.parse().expect("network"),
        network_name: "shop".parse().expect("name"),
        kind: Some("web".parse().expect("type")),
        number: Some(1.try_into().expect("number")),
        addresses: vec![[10, 240, 0, 2].into()],
        store_age_seconds: Some(3),
    }
}

pub(crate) fn resolve_view() -> ResolveView {
    ResolveView {
        name: format!("{APP}.shop.private-network.internal."),
        asked_as: format!("{APP}.shop.private-network.internal."),
        kind: "A".to_owned(),
        asker: format!("1.web.{APP}"),
        source: AnswerSource::Snapshot,
        rcode: Some(ResponseCode::NoError),
        records: vec![format!("{APP}.shop.private-network.internal. 5 A 10.240.0.2")],
        age_seconds: Some(1),
        reason: "the container's networks have it, with 1 record".to_owned(),
    }
}

pub(crate) fn names_view() -> NamesView {
    NamesView {
        address: [127, 0, 0, 82].into(),
        containers: 1,
        networks: 1,
        members: 1,
        age_seconds: Some(1),
        is_stale: false,
        counted: NamesCounted::default(),
    }
}

pub(crate) fn host_view() -> HostView {
    HostView {
        name: "two".parse().expect("host"),
        vtep: [192, 0, 2, 2].into(),
        version: "0.1.0".to_owned(),
        members: 3,
        state: HostState::Unreachable,
        unreachable_since_unix_seconds: Some(1_700_000_000),
        lease_since_unix_seconds: Some(1_700_000_000),
        applied_revision: Some(7),
        lag: Some(2),
        members_unadopted: 1,
        draining: true,
        store_age_seconds: Some(3),
    }
}

pub(crate) fn status_view() -> StatusView {
    StatusView {
        version: "0.1.0".to_owned(),
        host: "one".parse().expect("host"),
        vtep: [192, 0, 2, 1].into(),
        underlay_mtu: 1500,
        datapath: Datapath::Ebpf,
        wireguard: Backend::Kernel,
        store: StoreKind::Embedded,
        networks: 1,
        members: 1,
        members_ready: 1,
        last_pass_unix_seconds: Some(1_700_000_000),
        problems: Vec::new(),
        names: Some(names_view()),
        clock_steps: 0,
        hosts: 2,
        hosts_unreachable: Vec::new(),
        members_unreachable: 0,
        store_age_seconds: Some(3),
    }
}

pub(crate) fn check() -> Check {
    Check {
        check: "kernel".to_owned(),
        status: CheckStatus::Warn,
        detail: "Linux 6.1 has no TCX".to_owned(),
        remedy: "none needed: clsact is used".to_owned(),
    }
}

pub(crate) fn counters() -> NetworkCounters {
    NetworkCounters {
        network: NETWORK.parse().expect("network"),
        network_name: "shop".parse().expect("name"),
        rows: vec![CounterRow {
            member: format!("1.web.{APP}"),
            direction: Direction::Out,
            outcome: Outcome::ForwardedLocal,
            packets: 3,
            bytes: 300,
        }],
    }
}
