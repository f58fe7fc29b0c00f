//! An agent for tests: answers with fixed values, remembers what it was asked, and fails when told to.

mod views;

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use tokio::sync::{Notify, oneshot, watch};

pub(crate) use self::views::{
    APP, NETWORK, attached, attachment_view, check, counters, domain_name_view, exported_state, fleet_view, host_view,
    member_view, names_view, network_view, rebuilt_state, resolve_view, status_view,
};
use crate::agent::streams::{Caller, Carried, OpenedStream};
use crate::agent::views::{
    AdoptHost, Adopted, Attach, Attached, AttachmentView, Check, CreateNetwork, Deleted, Detach, Detached,
    DomainNameView, DomainNamesQuery, DrainHost, DrainedHost, DropLine, DropsQuery, EndAttachment, EndNetwork,
    EndedNetwork, ExportedState, FleetView, ForgetHost, ForgottenHost, HostView, ImportedState, MemberView,
    MembersQuery, NetworkPath, NetworkView, OpenStream, RebuildState, RebuiltState, ResolveQuery, ResolveView, Scrape,
    SetFleet, StatusView, VersionView,
};
use crate::agent::{AgentApi, ControlError, ErrorCode};

/// Knows one network, called `shop`.
#[derive(Default)]
pub(crate) struct Fake {
    /// What was asked, one line each.
    pub(crate) asked: Mutex<Vec<String>>,
    /// What every request that can fail fails with.
    pub(crate) failure: Option<ControlError>,
    /// What the creation of a network waits for.
    pub(crate) gate: Option<Gate>,
    /// How the last stream has ended.
    pub(crate) ended: Arc<watch::Sender<Option<String>>>,
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
        Ok(ImportedState {
            fleet: request.fleet,
            epoch: 2,
            records: request.records.len(),
            written: 0,
            passed_over: Vec::new(),
        })
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

    /// The address and port that it is asked for are this host's.
    async fn open_stream(&self, request: OpenStream, caller: Caller) -> Result<OpenedStream, ControlError> {
        let OpenStream { network, host, port, app, timeout_seconds } = request;
        self.hear(format!("open_stream {network} {host}:{port} {app:?} {timeout_seconds:?} uid {}", caller.uid))?;
        let refused = |error: std::io::Error| ControlError::new(ErrorCode::ConnectionFailed, error.to_string(), "x");
        let socket = tokio::net::TcpStream::connect((host, port.get())).await.map_err(refused)?;
        let (ended, end) = oneshot::channel();
        let carried: Arc<Carried> = Arc::default();
        let (heard, counted) = (Arc::clone(&self.ended), Arc::clone(&carried));
        tokio::spawn(async move {
            let why = end.await.unwrap_or_else(|_| "dropped".to_owned());
            let [sent, received] = [&counted.sent, &counted.received].map(|count| count.load(Ordering::Relaxed));
            heard.send_replace(Some(format!("{sent} sent, {received} received: {why}")));
        });
        Ok(OpenedStream { socket, carried, ended })
    }

    /// One drop, and what the query asks for.
    async fn watch_drops(&self, query: DropsQuery) -> Result<BoxStream<'static, DropLine>, ControlError> {
        let DropsQuery { network, member, direction, reason } = query;
        self.hear(format!("watch_drops {network:?} {member:?} {direction:?} {reason:?}"))?;
        let lines =
            [DropLine::Watching { networks: vec!["shop".parse().expect("a name")] }, DropLine::Missed { lines: 3 }];
        Ok(futures::stream::iter(lines).boxed())
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
