//! The DNS process, `privnet dns`.
//!
//! The process has no privilege: it holds the sockets that the agent opened in the containers' namespaces, and the last
//! names that the agent sent. It ends on SIGTERM, when a task panics, and after a minute without a container and without
//! a request of an agent. It closes a container's sockets when the container ends: at once where it watches the
//! container's process, within two seconds where it watches a pin. An open socket would keep the namespace for ever.

use std::collections::BTreeMap;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::Interval;

use super::protocol::{Dns, ProcessState, Request, Resolved, Response, ServedContainer, Source, Start};
use super::responder::{Responder, ResponderConfig};
use super::wire::ResponseCode;
use crate::companion::{self, Given, Identity, Liveness, LivenessWatch, Service};
use crate::names::{DnsClient, Name, QueryType, Question, Resolution};
use crate::netns::NetnsId;

/// The time between two checks of the pins and of the age of the names.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);
/// The time for which a process without containers waits for an agent: an agent that restarts finds the process, and an
/// agent that is gone for good leaves none behind.
const ORPHAN_PATIENCE: Duration = Duration::from_secs(60);
/// The time that the process gives to the replies under way when it ends.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(1500);
/// The time between two checks that they are done.
const DRAIN_PAUSE: Duration = Duration::from_millis(5);

/// Runs the DNS process whose files are in `run_dir`, until it ends.
///
/// `main` must call it before anything else, see [`companion::serve`].
///
/// # Errors
/// When it could not be started; the agent is told the same.
pub fn serve_process(run_dir: &Path) -> anyhow::Result<()> {
    companion::serve::<Dns, Process>(run_dir)
}

struct Process {
    identity: Identity,
    responder: Responder,
    watches: BTreeMap<NetnsId, (Arc<LivenessWatch>, AbortHandle)>,
    ended: mpsc::UnboundedSender<NetnsId>,
    ended_containers: mpsc::UnboundedReceiver<NetnsId>,
    check: Interval,
    was_stale: bool,
    /// When the last request of an agent came.
    heard: Instant,
}

impl Service<Dns> for Process {
    async fn start(identity: Identity, given: Given<Dns>) -> anyhow::Result<Self> {
        // Three per container and one per connection.
        companion::raise_descriptor_limit();
        let Start { threads, max_age_seconds, resolv_conf } = given.start;
        let config = ResponderConfig { threads, max_age: Duration::from_secs(max_age_seconds), resolv_conf };
        let responder = Responder::start(&config).context("cannot serve")?;
        let (ended, ended_containers) = mpsc::unbounded_channel();
        let mut check = tokio::time::interval(CHECK_INTERVAL);
        check.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        tracing::info!(threads = config.threads, "the DNS process is ready");
        let (watches, heard) = (BTreeMap::new(), Instant::now());
        Ok(Self { identity, responder, watches, ended, ended_containers, check, was_stale: false, heard })
    }

    async fn respond(&mut self, request: Request, files: Vec<OwnedFd>) -> anyhow::Result<(Response, Vec<OwnedFd>)> {
        self.heard = Instant::now();
        let served = |is_served: bool| if is_served { Response::Done } else { Response::NotServed };
        let response = match request {
            Request::Observe => Response::State(self.state()),
            Request::Serve { container, client, liveness } => {
                self.begin(container, client, liveness, files)?;
                Response::Done
            }
            Request::Change { container, client } => served(self.responder.set_client(container, client, files)?),
            Request::Forget { container } => {
                let was_served = self.watches.contains_key(&container);
                self.forget(container);
                served(was_served)
            }
            Request::Sockets { container } => match self.responder.sockets(container)? {
                Some((udp, tcp)) => return Ok((Response::Sockets, vec![udp.into(), tcp.into()])),
                None => Response::NotServed,
            },
            Request::Names { everything: true, difference } => {
                self.responder.engine().replace(difference);
                Response::Done
            }
            Request::Names { everything: false, difference } => {
                self.responder.engine().apply(difference);
                Response::Done
            }
            Request::Confirm => {
                self.responder.engine().confirm();
                Response::Done
            }
            Request::Resolve { container, name, kind } => {
                let client = self.responder.containers().find(|(id, _)| *id == container).map(|(_, client)| client);
                match client {
                    Some(client) => Response::Resolved(self.resolve(&client, &name, kind)?),
                    None => Response::NotServed,
                }
            }
        };
        Ok((response, Vec::new()))
    }

    async fn reason_to_end(&mut self) -> &'static str {
        loop {
            tokio::select! {
                Some(container) = self.ended_containers.recv() => self.forget(container),
                _ = self.check.tick() => {
                    self.check();
                    if self.watches.is_empty() && self.heard.elapsed() > ORPHAN_PATIENCE {
                        return "it serves no container and has no agent";
                    }
                }
            }
        }
    }

    /// The process answers the queries that it has read; a successor with the same sockets reads the next ones.
    async fn end(mut self) {
        let containers: Vec<NetnsId> = self.watches.keys().copied().collect();
        containers.into_iter().for_each(|container| self.forget(container));
        let drained = async {
            while !self.responder.is_idle() {
                tokio::time::sleep(DRAIN_PAUSE).await;
            }
        };
        let _ = tokio::time::timeout(DRAIN_TIMEOUT, drained).await;
    }
}

impl Process {
    /// Checks the pins and the age of the names, of which the kernel reports no change.
    fn check(&mut self) {
        let unpinned = self.watches.iter().filter(|(_, (watched, _))| watched.is_unpinned());
        let unpinned: Vec<NetnsId> = unpinned.map(|(container, _)| *container).collect();
        unpinned.into_iter().for_each(|container| self.forget(container));
        let engine = self.responder.engine();
        let is_stale = engine.is_stale() && engine.age().is_some();
        if is_stale && !self.was_stale {
            tracing::error!(age = ?engine.age(), "the names are too old: answering SERVFAIL until an agent confirms them");
        }
        self.was_stale = is_stale;
    }

    fn forget(&mut self, container: NetnsId) {
        if let Some((_, watching)) = self.watches.remove(&container) {
            watching.abort();
        }
        if self.responder.forget(container) {
            tracing::info!(%container, "the DNS server of a container is closed");
        }
    }

    fn begin(
        &mut self,
        container: NetnsId,
        client: DnsClient,
        liveness: Liveness,
        files: Vec<OwnedFd>,
    ) -> anyhow::Result<()> {
        let mut files = files.into_iter();
        let (Some(udp), Some(tcp)) = (files.next(), files.next()) else { anyhow::bail!("the sockets are missing") };
        let process = if liveness == Liveness::Process { files.next() } else { None };
        let watched = Arc::new(LivenessWatch::new(liveness, process).context("cannot watch the container")?);
        self.forget(container);
        self.responder
            .serve(container, client, (UdpSocket::from(udp), TcpListener::from(tcp)), files.collect())
            .context("cannot use the sockets")?;
        let (of_task, ended) = (Arc::clone(&watched), self.ended.clone());
        let watching = tokio::spawn(async move {
            of_task.ended().await;
            // The receiver is gone when the process ends.
            let _ = ended.send(container);
        });
        self.watches.insert(container, (watched, watching.abort_handle()));
        Ok(())
    }

    fn state(&self) -> ProcessState {
        let engine = self.responder.engine();
        let view = engine.view();
        let containers = self.responder.containers();
        ProcessState {
            identity: self.identity.clone(),
            containers: containers
                .map(|(container, client)| ServedContainer { container, client: DnsClient::clone(&client) })
                .collect(),
            networks: view.zones().networks(),
            members: view.zones().members(),
            age_seconds: engine.age().map(|age| age.as_secs_f64()),
            is_stale: engine.is_stale(),
            counted: engine.counters.read(),
        }
    }

    fn resolve(&self, client: &DnsClient, name: &str, kind: u16) -> anyhow::Result<Resolved> {
        let asked: Name = name.parse()?;
        let engine = self.responder.engine();
        let view = engine.view();
        let question = Question { name: &asked.to_lowercase(), kind: QueryType::from(kind), most: usize::MAX };
        let resolution = view.zones().resolve(client, question, &mut rand::rng());
        let (source, rcode, records) = match resolution {
            Resolution::Elsewhere => (Source::Forwarded(view.zones().forwarding(client)), None, Vec::new()),
            Resolution::Answered(answer) => {
                let rcode = ResponseCode::from(answer.rcode).name();
                let records = answer.answers.iter().chain(&answer.additional).map(|record| record.line(&asked));
                (Source::Snapshot, Some(rcode.to_owned()), records.collect())
            }
        };
        let age_seconds = engine.age().map(|age| age.as_secs_f64());
        let upstreams = client.upstreams.clone();
        Ok(Resolved { source, rcode, records, age_seconds, is_stale: engine.is_stale(), upstreams })
    }
}
