//! The built binary, and an agent that is not there for it to talk to.
//!
//! Each test file uses a part of it.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use privnet::agent::views::{
    AdoptHost, Adopted, AnswerSource, Attach, Attached, AttachmentView, Check, CheckStatus, CreateNetwork, Deleted,
    Detach, Detached, DomainNameView, DomainNamesQuery, DrainHost, DrainedHost, EndAttachment, EndNetwork,
    EndedNetwork, ExportedState, FleetView, ForgetHost, ForgottenHost, HostState, HostView, ImportedState, MemberRef,
    MemberView, MembersQuery, NetworkPath, NetworkView, ProblemView, RebuildState, RebuiltState, ResolveQuery,
    ResolveView, ResponseCode, Scrape, SetFleet, StatusView, Target, VersionView,
};
use privnet::agent::{AgentApi, ControlError, ErrorCode};
use privnet::api::{self, Accounts, ControlSocket, Surface};
use privnet::model::{DEFAULT_VXLAN_PORT, MemberState, NameOptions, PublicKey};
use privnet::store::StoreKind;
use privnet::topology::Datapath;
use privnet::wireguard::Backend;
use tokio::sync::oneshot;

pub const NETWORK: &str = "pn-ad0fd6a1-d05e-40ea-bf63-c4f8a75a9d8c";
pub const APP: &str = "ap-a71da13f-7c70-4c00-a644-eee8558d8053";

/// What the fake agent says a container's `resolv.conf` should be.
pub const RESOLV_CONF: &str = "# Written by privnet.\nnameserver 127.0.0.82\noptions ndots:5\n";

/// The built binary, without what the environment of the test might tell it.
pub fn privnet(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_privnet"));
    command.args(arguments);
    for name in ["PRIVNET_SOCKET", "PRIVNET_LOG", "RUST_LOG", "DOCKER_HOST", "NOTIFY_SOCKET"] {
        command.env_remove(name);
    }
    command
}

/// Exit code, stdout and stderr.
pub fn outcome(mut command: Command) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command.output().expect("started");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (status.code().expect("ended by itself"), text(stdout), text(stderr))
}

/// What the fake agent was asked; shared with the test.
#[derive(Default)]
pub struct Memory {
    /// The members that are attached: process and network.
    pub attached: Mutex<Vec<(Target, String)>>,
    /// Every attach and detach, one line each.
    pub asked: Mutex<Vec<String>>,
    /// What an attach fails with.
    pub refuse_attach: bool,
}

/// A fake agent that listens.
pub struct FakeAgent {
    pub socket: PathBuf,
    pub memory: Arc<Memory>,
    _directory: tempfile::TempDir,
    runtime: Option<tokio::runtime::Runtime>,
    end: Option<oneshot::Sender<()>>,
}

impl FakeAgent {
    pub fn start(memory: Memory) -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        let socket = directory.path().join("privnet.sock");
        let memory = Arc::new(memory);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("runtime");
        let service: Arc<dyn AgentApi> = Arc::new(Fake(Arc::clone(&memory)));
        let surface = Surface::new(service, Accounts::in_directory(Path::new("/nonexistent")));
        let (end, ended) = oneshot::channel::<()>();
        let _inside = runtime.enter();
        let listening = ControlSocket::bind(&socket, None).expect("bound");
        runtime.spawn(api::serve_control(listening, api::router(surface), async {
            let _ = ended.await;
        }));
        Self { socket, memory, _directory: directory, runtime: Some(runtime), end: Some(end) }
    }

    /// The built binary, told to talk to this agent.
    pub fn privnet(&self, arguments: &[&str]) -> Command {
        let mut command = privnet(arguments);
        command.env("PRIVNET_SOCKET", &self.socket);
        command
    }

    pub fn asked(&self) -> Vec<String> {
        self.memory.asked.lock().expect("unpoisoned").clone()
    }
}

impl Drop for FakeAgent {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

struct Fake(Arc<Memory>);

#[async_trait]
impl AgentApi for Fake {
    async fn create_network(&self, _request: CreateNetwork) -> Result<NetworkView, ControlError> {
        Ok(network_view())
    }

    async fn networks(&self) -> Result<Vec<NetworkView>, ControlError> {
        Ok(vec![network_view()])
    }

    async fn network(&self, network: NetworkPath) -> Result<NetworkView, ControlError> {
        let id_or_name = network.network;
        if id_or_name == "shop" {
            return Ok(network_view());
        }
        let message = format!("no network has the id or name {id_or_name:?}");
        Err(ControlError::new(ErrorCode::NetworkNotFound, message, "see `privnet network list`"))
    }

    async fn delete_network(&self, _network: NetworkPath) -> Result<Deleted, ControlError> {
        Ok(Deleted { deleted: true })
    }

    async fn end_network(&self, _request: EndNetwork) -> Result<EndedNetwork, ControlError> {
        Ok(EndedNetwork { members_ended: 3 })
    }

    async fn attach(&self, request: Attach) -> Result<Attached, ControlError> {
        let file = request.resolv_conf.map_or_else(String::new, |file| format!(" {file:?}"));
        self.0.asked.lock().expect("unpoisoned").push(format!("attach {:?}{file}", request.target));
        if self.0.refuse_attach {
            return Err(ControlError::new(ErrorCode::PoolExhausted, "no address of shop is free", "detach somebody"));
        }
        self.0.attached.lock().expect("unpoisoned").push((request.target, request.network));
        Ok(attached())
    }

    async fn detach(&self, request: Detach) -> Result<Detached, ControlError> {
        let line = format!("detach {} {} {:?} {:?}", request.network, request.app, request.kind, request.number);
        self.0.asked.lock().expect("unpoisoned").push(line);
        let detached = self.0.attached.lock().expect("unpoisoned").pop().is_some();
        Ok(Detached { detached, problems: Vec::new() })
    }

    async fn attachments(&self) -> Result<Vec<AttachmentView>, ControlError> {
        Ok(Vec::new())
    }

    async fn end_attachment(&self, _request: EndAttachment) -> Result<Detached, ControlError> {
        Ok(Detached::default())
    }

    async fn members(&self, _query: MembersQuery) -> Result<Vec<MemberView>, ControlError> {
        Ok(vec![member_view()])
    }

    async fn domain_names(&self, query: DomainNamesQuery) -> Result<Vec<DomainNameView>, ControlError> {
        let DomainNamesQuery { app, network } = query;
        Ok(vec![DomainNameView {
            name: format!("web.{app}.{NETWORK}.private-network.internal"),
            network: NETWORK.parse().expect("network"),
            network_name: network.as_deref().unwrap_or("shop").parse().expect("name"),
            kind: Some("web".parse().expect("type")),
            number: None,
            addresses: vec![[10, 240, 0, 2].into(), [10, 240, 0, 3].into()],
            store_age_seconds: None,
        }])
    }

    async fn resolve(&self, query: ResolveQuery) -> Result<ResolveView, ControlError> {
        let ResolveQuery { name, kind, asker } = query;
        Ok(ResolveView {
            asked_as: format!("{name}."),
            name,
            kind: kind.unwrap_or_default(),
            asker,
            source: AnswerSource::Snapshot,
            rcode: Some(ResponseCode::NameError),
            records: Vec::new(),
            age_seconds: Some(2),
            reason: "no network has the id or name x".to_owned(),
        })
    }

    async fn fleet(&self) -> Result<FleetView, ControlError> {
        Ok(fleet_view())
    }

    async fn set_fleet(&self, request: SetFleet) -> Result<FleetView, ControlError> {
        Ok(FleetView { vxlan_port: request.vxlan_port, ..fleet_view() })
    }

    async fn adopt_host(&self, request: AdoptHost) -> Result<Adopted, ControlError> {
        Ok(Adopted { kept: 2, ended: u64::from(request.yes) })
    }

    async fn forget_host(&self, _request: ForgetHost) -> Result<ForgottenHost, ControlError> {
        Ok(ForgottenHost { members_ended: 3 })
    }

    async fn drain_host(&self, _request: DrainHost) -> Result<DrainedHost, ControlError> {
        Ok(DrainedHost { members_left: 2 })
    }

    async fn hosts(&self) -> Result<Vec<HostView>, ControlError> {
        Ok(vec![HostView {
            name: "two".parse().expect("host"),
            vtep: [192, 0, 2, 2].into(),
            version: "0.1.0".to_owned(),
            members: 3,
            state: HostState::Unreachable,
            unreachable_since_unix_seconds: Some(1_700_000_000),
            applied_revision: Some(7),
            lag: Some(2),
            members_unadopted: 0,
            draining: false,
            store_age_seconds: Some(65),
        }])
    }

    async fn export_state(&self) -> Result<ExportedState, ControlError> {
        Ok(exported_state())
    }

    async fn close_state(&self) -> Result<ExportedState, ControlError> {
        Ok(exported_state())
    }

    async fn import_state(&self, request: ExportedState) -> Result<ImportedState, ControlError> {
        Ok(ImportedState { fleet: request.fleet, epoch: 2, records: request.records.len(), written: 0 })
    }

    async fn rebuild_state(&self, request: RebuildState) -> Result<RebuiltState, ControlError> {
        Ok(RebuiltState {
            fleet: fleet_view().id,
            epoch: 2,
            networks: 1,
            members: 3,
            hosts: 2,
            removed_networks: 0,
            removed_members: 0,
            done: !request.dry_run,
        })
    }

    async fn status(&self) -> Result<StatusView, ControlError> {
        Ok(StatusView {
            version: "0.1.0".to_owned(),
            host: "one".parse().expect("host"),
            vtep: [192, 0, 2, 1].into(),
            underlay_mtu: 1500,
            datapath: Datapath::Ebpf,
            wireguard: Backend::Kernel,
            store: StoreKind::Embedded,
            networks: 1,
            members: 2,
            members_ready: 1,
            last_pass_unix_seconds: None,
            problems: vec!["something is amiss".to_owned()],
            names: None,
            clock_steps: 0,
            hosts: 1,
            hosts_unreachable: Vec::new(),
            members_unreachable: 0,
            store_age_seconds: None,
        })
    }

    async fn doctor(&self) -> Result<Vec<Check>, ControlError> {
        let check = |check: &str, status, remedy: &str| Check {
            check: check.to_owned(),
            status,
            detail: "seen".to_owned(),
            remedy: remedy.to_owned(),
        };
        Ok(vec![check("kernel", CheckStatus::Ok, ""), check("tcx", CheckStatus::Warn, "none needed")])
    }

    async fn version(&self) -> Result<VersionView, ControlError> {
        Ok(VersionView::of_this_binary())
    }

    async fn scrape(&self) -> Result<Scrape, ControlError> {
        let status = self.status().await?;
        Ok(Scrape { status, counters: Vec::new(), tunnels: Vec::new(), problems: Vec::new(), errors: BTreeMap::new() })
    }
}

fn exported_state() -> ExportedState {
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

fn fleet_view() -> FleetView {
    let id = "fl-5c9f9c0e-3b61-4ab3-8a0e-2f5fd1d6f3b7".parse().expect("a fleet");
    FleetView { id, epoch: 1, vxlan_port: DEFAULT_VXLAN_PORT }
}

fn network_view() -> NetworkView {
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
        store_age_seconds: None,
    }
}

fn member_ref() -> MemberRef {
    MemberRef {
        app: APP.parse().expect("app"),
        app_name: None,
        kind: "web".parse().expect("type"),
        number: 3.try_into().expect("number"),
        address: [10, 240, 0, 2].into(),
        hostname: "a-name".to_owned(),
    }
}

fn attached() -> Attached {
    Attached {
        network: NETWORK.parse().expect("network"),
        member: member_ref(),
        interface: "wg0".parse().expect("interface"),
        ready: true,
        env: BTreeMap::from([("PRIVNET_ADDRESS".to_owned(), "10.240.0.2".to_owned())]),
        resolv_conf: Some(RESOLV_CONF.to_owned()),
        problems: vec![ProblemView { what: "a".to_owned(), why: "b".to_owned(), remedy: "c".to_owned() }],
    }
}

fn member_view() -> MemberView {
    MemberView {
        network: NETWORK.parse().expect("network"),
        network_name: "shop".parse().expect("name"),
        member: member_ref(),
        public_key: PublicKey::new([7; 32]),
        host: "one".parse().expect("host"),
        state: MemberState::Ready,
        interface: None,
        names: Vec::new(),
        unreachable_since_unix_seconds: None,
        store_age_seconds: None,
    }
}
