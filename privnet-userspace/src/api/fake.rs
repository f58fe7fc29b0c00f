//! An agent for tests: answers with fixed values, remembers what it was asked, and fails when told to.

use std::collections::BTreeMap;
use std::sync::Mutex;

use async_trait::async_trait;
use tokio::sync::Notify;

use crate::agent::views::{
    AdoptHost, Adopted, AnswerSource, Attach, Attached, AttachmentView, Check, CheckStatus, CounterRow, CreateNetwork,
    Deleted, Detach, Detached, DomainNameView, DomainNamesQuery, DrainHost, DrainedHost, EndAttachment, EndNetwork,
    EndedNetwork, ExportedState, FleetView, ForgetHost, ForgottenHost, HostState, HostView, ImportedState, MemberRef,
    MemberView, MembersQuery, NameView, NamesCounted, NamesView, NetworkCounters, NetworkPath, NetworkView,
    RebuildState, RebuiltState, ResolveQuery, ResolveView, ResponseCode, Scrape, SetFleet, StatusView, VersionView,
};
use crate::agent::{AgentApi, ControlError, ErrorCode};
use crate::datapath::{Direction, Outcome};
use crate::model::{DEFAULT_VXLAN_PORT, MemberState, NameOptions, PublicKey};
use crate::store::StoreKind;
use crate::topology::Datapath;
use crate::wireguard::Backend;

pub(crate) const NETWORK: &str = "pn-ad0fd6a1-d05e-40ea-bf63-c4f8a75a9d8c";
pub(crate) const APP: &str = "ap-a71da13f-7c70-4c00-a644-eee8558d8053";

/// Knows one network, called `shop`.
#[derive(Default)]
pub(crate) struct Fake {
    /// What was asked, one line each.
    pub(crate) asked: Mutex<Vec<String>>,
    /// What every request that can fail fails with.
    pub(crate) failure: Option<ControlError>,
    /// What the creation of a network waits for.
    pub(crate) gate: Option<Gate>,
}

/// Holds the creation of a network up until a test lets it proceed.
#[derive(Default)]
pub(crate) struct Gate {
    pub(crate) started: Notify,
    pub(crate) proceed: Notify,
    pub(crate) finished: Notify,
}

impl Fake {
    fn hear(&self, request: String) -> Result<(), ControlError> {
        self.asked.lock().expect("no test panics while it holds this").push(request);
        self.failure.clone().map_or(Ok(()), Err)
    }
}

#[async_trait]
impl AgentApi for Fake {
    async fn create_network(&self, request: CreateNetwork) -> Result<NetworkView, ControlError> {
        self.hear(format!("create_network {} {:?}", request.name, request.subnet))?;
        if let Some(gate) = &self.gate {
            gate.started.notify_one();
            gate.proceed.notified().await;
            gate.finished.notify_one();
        }
        Ok(network_view())
    }

    async fn networks(&self) -> Result<Vec<NetworkView>, ControlError> {
        self.hear("networks".to_owned())?;
        Ok(vec![network_view()])
    }

    async fn network(&self, network: NetworkPath) -> Result<NetworkView, ControlError> {
        let id_or_name = network.network;
        self.hear(format!("network {id_or_name}"))?;
        if id_or_name == "shop" || id_or_name == NETWORK {
            return Ok(network_view());
        }
        let message = format!("no network has the id or name {id_or_name:?}");
        Err(ControlError::new(ErrorCode::NetworkNotFound, message, "see `privnet network list`"))
    }

    async fn delete_network(&self, network: NetworkPath) -> Result<Deleted, ControlError> {
        self.hear(format!("delete_network {}", network.network))?;
        Ok(Deleted { deleted: true })
    }

    async fn end_network(&self, request: EndNetwork) -> Result<EndedNetwork, ControlError> {
        self.hear(format!("end_network {} {}", request.network, request.yes))?;
        Ok(EndedNetwork { members_ended: 3 })
    }

    async fn attach(&self, request: Attach) -> Result<Attached, ControlError> {
        let Attach { network, app, kind, number, address, target, ports, resolv_conf, attachment } = request;
        let ports = if ports.is_empty() { String::new() } else { format!(" {ports:?}") };
        let file = resolv_conf.map_or_else(String::new, |file| format!(" {file:?}"));
        let by = attachment.map_or_else(String::new, |by| format!(" by {} {:?}", by.name, by.interface));
        self.hear(format!("attach {network} {app} {kind:?} {number:?} {address:?} {target:?}{ports}{file}{by}"))?;
        Ok(attached())
    }

    async fn detach(&self, request: Detach) -> Result<Detached, ControlError> {
        let drain = if request.drain { " drain" } else { "" };
        let force = if request.force { " force" } else { "" };
        self.hear(format!(
            "detach {} {} {:?} {:?}{drain}{force}",
            request.network, request.app, request.kind, request.number
        ))?;
        Ok(Detached { detached: true, problems: Vec::new() })
    }

    async fn attachments(&self) -> Result<Vec<AttachmentView>, ControlError> {
        self.hear("attachments".to_owned())?;
        Ok(vec![attachment_view()])
    }

    async fn end_attachment(&self, request: EndAttachment) -> Result<Detached, ControlError> {
        self.hear(format!("end_attachment {}", request.name))?;
        Ok(Detached { detached: true, problems: Vec::new() })
    }

    async fn members(&self, query: MembersQuery) -> Result<Vec<MemberView>, ControlError> {
        self.hear(format!("members {:?}", query.network))?;
        Ok(vec![member_view()])
    }

    async fn domain_names(&self, query: DomainNamesQuery) -> Result<Vec<DomainNameView>, ControlError> {
        self.hear(format!("domain_names {} {:?}", query.app, query.network))?;
        Ok(vec![domain_name_view()])
    }

    async fn resolve(&self, query: ResolveQuery) -> Result<ResolveView, ControlError> {
        let ResolveQuery { name, kind, asker } = query;
        self.hear(format!("resolve {name} {kind:?} {asker}"))?;
        Ok(resolve_view())
    }

    async fn fleet(&self) -> Result<FleetView, ControlError> {
        self.hear("fleet".to_owned())?;
        Ok(fleet_view())
    }

    async fn set_fleet(&self, request: SetFleet) -> Result<FleetView, ControlError> {
        self.hear(format!("set_fleet {}", request.vxlan_port))?;
        Ok(FleetView { vxlan_port: request.vxlan_port, ..fleet_view() })
    }

    async fn adopt_host(&self, request: AdoptHost) -> Result<Adopted, ControlError> {
        self.hear(format!("adopt_host {} {}", request.yes, request.force))?;
        Ok(Adopted { kept: 2, ended: 1 })
    }

    async fn forget_host(&self, request: ForgetHost) -> Result<ForgottenHost, ControlError> {
        self.hear(format!("forget_host {} {} {}", request.host, request.yes, request.force))?;
        Ok(ForgottenHost { members_ended: 3 })
    }

    async fn drain_host(&self, request: DrainHost) -> Result<DrainedHost, ControlError> {
        self.hear(format!("drain_host {} {:?} {}", request.host, request.wait_seconds, request.cancel))?;
        Ok(DrainedHost { members_left: 2 })
    }

    async fn hosts(&self) -> Result<Vec<HostView>, ControlError> {
        self.hear("hosts".to_owned())?;
        Ok(vec![host_view()])
    }

    async fn rebuild_state(&self, request: RebuildState) -> Result<RebuiltState, ControlError> {
        self.hear(format!("rebuild_state {} {}", request.dry_run, request.yes))?;
        Ok(rebuilt_state())
    }

    async fn export_state(&self) -> Result<ExportedState, ControlError> {
        self.hear("export_state".to_owned())?;
        Ok(exported_state())
    }

    async fn close_state(&self) -> Result<ExportedState, ControlError> {
        self.hear("close_state".to_owned())?;
        Ok(exported_state())
    }

    async fn import_state(&self, request: ExportedState) -> Result<ImportedState, ControlError> {
        self.hear(format!("import_state {}", request.records.len()))?;
        Ok(ImportedState { fleet: request.fleet, epoch: 2, records: request.records.len(), written: 0 })
    }

    async fn status(&self) -> Result<StatusView, ControlError> {
        self.hear("status".to_owned())?;
        Ok(status_view())
    }

    async fn doctor(&self) -> Result<Vec<Check>, ControlError> {
        Ok(vec![check()])
    }

    async fn version(&self) -> Result<VersionView, ControlError> {
        Ok(VersionView::of_this_binary())
    }

    async fn scrape(&self) -> Result<Scrape, ControlError> {
        self.hear("scrape".to_owned())?;
        Ok(Scrape {
            status: status_view(),
            counters: vec![counters()],
            tunnels: Vec::new(),
            problems: Vec::new(),
            errors: BTreeMap::new(),
        })
    }
}

pub(crate) fn exported_state() -> ExportedState {
    ExportedState {
        version: 1,
        fleet: fleet_view().id,
        fleet_record: "{}".to_owned(),
        exported_unix_seconds: 7,
        store_age_seconds: None,
        records: [("hosts/a".to_owned(), "{}".to_owned())].into(),
        checksum: "00".to_owned(),
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

fn member_ref() -> MemberRef {
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
