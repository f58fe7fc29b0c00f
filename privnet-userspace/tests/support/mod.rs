//! The built binary, and an agent that is not there for it to talk to.
//!
//! Each test file uses a part of it.

#![allow(dead_code, unused_imports, reason = "each test file uses a part of it")]

#[path = "../../src/api/fake/views.rs"]
mod views;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use privnet::agent::streams::{Caller, Carried, OpenedStream};
use privnet::agent::views::{
    AdoptHost, Adopted, AnswerSource, Attach, Attached, AttachmentView, Check, CheckStatus, CreateNetwork, Deleted,
    Detach, Detached, DomainNameView, DomainNamesQuery, DrainHost, DrainedHost, DropLine, DropsQuery, EndAttachment,
    EndNetwork, EndedNetwork, ExportedState, FleetView, ForgetHost, ForgottenHost, HostView, ImportedState, MemberRef,
    MemberView, MembersQuery, NetworkPath, NetworkView, OpenStream, ProblemView, RebuildState, RebuiltState,
    ResolveQuery, ResolveView, ResponseCode, Scrape, SetFleet, StatusView, Target, VersionView,
};
use privnet::agent::{AgentApi, ControlError, ErrorCode};
use privnet::api::{self, Accounts, ControlSocket, Surface};
use tokio::sync::oneshot;
pub(crate) use views::{APP, NETWORK};
use views::{exported_state, fleet_view};

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
    /// What one who watches the drops is told.
    pub drops: Mutex<Vec<DropLine>>,
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
        Ok(vec![views::host_view()])
    }

    async fn export_state(&self) -> Result<ExportedState, ControlError> {
        Ok(exported_state())
    }

    async fn close_state(&self) -> Result<ExportedState, ControlError> {
        Ok(exported_state())
    }

    async fn import_state(&self, request: ExportedState) -> Result<ImportedState, ControlError> {
        Ok(ImportedState {
            fleet: request.fleet,
            epoch: 2,
            records: request.records.len(),
            written: 0,
            passed_over: Vec::new(),
        })
    }

    async fn rebuild_state(&self, request: RebuildState) -> Result<RebuiltState, ControlError> {
        Ok(RebuiltState { done: !request.dry_run, ..views::rebuilt_state() })
    }

    async fn status(&self) -> Result<StatusView, ControlError> {
        Ok(StatusView {
            members: 2,
            last_pass_unix_seconds: None,
            problems: vec!["something is amiss".to_owned()],
            names: None,
            hosts: 1,
            store_age_seconds: None,
            ..views::status_view()
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

    /// The host and port that it is asked for are this host's.
    async fn open_stream(&self, request: OpenStream, caller: Caller) -> Result<OpenedStream, ControlError> {
        let OpenStream { network, host, port, app, timeout_seconds } = request;
        let memory = Arc::clone(&self.0);
        let hear = move |line: String| memory.asked.lock().expect("unpoisoned").push(line);
        hear(format!("open_stream {network} {host}:{port} {app:?} {timeout_seconds:?} uid {}", caller.uid));
        let failed = |error: std::io::Error| {
            ControlError::new(ErrorCode::ConnectionFailed, format!("cannot connect: {error}"), "see whether it listens")
        };
        let socket = tokio::net::TcpStream::connect((host, port.get())).await.map_err(failed)?;
        let (ended, end) = oneshot::channel();
        let carried: Arc<Carried> = Arc::default();
        let counted = Arc::clone(&carried);
        tokio::spawn(async move {
            let why = end.await.unwrap_or_else(|_| "dropped".to_owned());
            let [sent, received] = [&counted.sent, &counted.received].map(|count| count.load(Ordering::Relaxed));
            hear(format!("{sent} sent, {received} received: {why}"));
        });
        Ok(OpenedStream { socket, carried, ended })
    }

    /// Drops that the test has put there; the lines end behind them.
    async fn watch_drops(&self, query: DropsQuery) -> Result<BoxStream<'static, DropLine>, ControlError> {
        let DropsQuery { network, member, direction, reason } = query;
        let line = format!("watch_drops {network:?} {member:?} {direction:?} {reason:?}");
        self.0.asked.lock().expect("unpoisoned").push(line);
        let lines = self.0.drops.lock().expect("unpoisoned").clone();
        Ok(futures::stream::iter(lines).boxed())
    }

    async fn scrape(&self) -> Result<Scrape, ControlError> {
        let status = self.status().await?;
        Ok(Scrape { status, counters: Vec::new(), tunnels: Vec::new(), problems: Vec::new(), errors: BTreeMap::new() })
    }
}

fn network_view() -> NetworkView {
    NetworkView { store_age_seconds: None, ..views::network_view() }
}

/// Without an app's name, and with a number that a test does not meet by chance.
fn member_ref() -> MemberRef {
    MemberRef { app_name: None, number: 3.try_into().expect("number"), ..views::member_ref() }
}

fn attached() -> Attached {
    Attached {
        member: member_ref(),
        resolv_conf: Some(RESOLV_CONF.to_owned()),
        problems: vec![ProblemView { what: "a".to_owned(), why: "b".to_owned(), remedy: "c".to_owned() }],
        ..views::attached()
    }
}

/// As an agent of a build before further names tells it.
fn member_view() -> MemberView {
    MemberView {
        member: member_ref(),
        interface: None,
        names: Vec::new(),
        unreachable_since_unix_seconds: None,
        store_age_seconds: None,
        ..views::member_view()
    }
}
