//! The DNS process: what `privnet dns` is.
//!
//! It is its own session, outlives the agent that started it, and has no privilege: it holds the sockets that the agent
//! opened in the containers' namespaces, and the last names that it was told. It ends by SIGTERM, when anything in it
//! panics, or when it has nobody to serve and no agent for a minute. A container that ends is forgotten at once, or within
//! two seconds where nothing but a pin tells of it: the sockets would keep its namespace for ever.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _};
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, ensure};
use rustix::process::{Resource, Rlimit};
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::protocol::{
    Ask, BinaryId, Birth, Born, MAX_MESSAGE_OCTETS, ProcessState, Request, Resolved, Response, ServedContainer, Source,
    VERSION,
};
use super::responder::{Responder, ResponderConfig};
use crate::companion::{self, Anchor, RunDir, Watched, give_up_privileges, listen, log_to};
use crate::names::{Asker, Name, QueryType, Question, Rcode, Resolution};
use crate::netns::NetnsId;

/// How often the process looks whether pins are still there, and how old its names are.
const WATCH_INTERVAL: Duration = Duration::from_secs(2);
/// How long a connection may take for its one request; others wait meanwhile.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a process without containers waits for an agent: one that restarts finds it, and one that is gone for good
/// leaves nothing behind.
const ORPHAN_PATIENCE: Duration = Duration::from_secs(60);
/// How long replies that are under way may take when the process ends.
const FAREWELL: Duration = Duration::from_millis(1500);
/// How often it is looked whether they are done.
const FAREWELL_PAUSE: Duration = Duration::from_millis(5);

/// Runs the DNS process whose files are in `run_dir`, until it is told to end.
///
/// To be called first thing in `main`, before a runtime or a log exists: standard input is the socket over which
/// `start_process` tells it how to be.
///
/// # Errors
/// When it could not be started; whoever started it is told the same.
pub fn serve_process(run_dir: &Path) -> anyhow::Result<()> {
    // What `ps` and `top` show, whatever the binary was started as.
    rustix::thread::set_name(c"privnet-dns").context("cannot take a name")?;
    // Fails if it leads a group already, when somebody started it from a shell: then it stays in that session.
    let _ = rustix::process::setsid();
    let mut stream = UnixStream::from(io::stdin().as_fd().try_clone_to_owned().context("cannot use standard input")?);
    let run_dir = RunDir::new(run_dir);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let started = (|| {
        let mut text = String::new();
        stream.read_to_string(&mut text).context("standard input is not the agent's socket")?;
        let birth: Birth = serde_json::from_str(&text).context("the message is unreadable")?;
        ensure!(birth.version == VERSION, "the agent speaks version {}, this binary {VERSION}", birth.version);
        let lock = run_dir.lock().context("another process has the directory")?;
        log_to(&run_dir, "the DNS process")?;
        raise_file_limit();
        give_up_privileges()?;
        let process = runtime.block_on(async { Process::start(&run_dir, &birth) })?;
        anyhow::Ok((process, lock))
    })();
    let answer = match &started {
        Ok(_) => Born::Ready,
        Err(error) => Born::Failed { problem: format!("{error:#}") },
    };
    // Nobody reads it if the agent died meanwhile; the next one finds the process.
    let _ = serde_json::to_writer(&stream, &answer);
    let _ = stream.shutdown(std::net::Shutdown::Both);
    let (process, lock) = started?;
    let reason = runtime.block_on(process.serve())?;
    tracing::info!(reason, "the DNS process ends");
    // After the socket and before the lock: the next process must not find it.
    let (_directory, socket) = run_dir.control_socket()?;
    let _ = fs::remove_file(socket);
    drop(lock);
    Ok(())
}

/// Three files per container and one per connection: the usual 1024 do not go far.
fn raise_file_limit() {
    let maximum = rustix::process::getrlimit(Resource::Nofile).maximum;
    // What there is must do otherwise.
    let _ = rustix::process::setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

struct Process {
    responder: Responder,
    control: UnixListener,
    anchors: BTreeMap<NetnsId, (Arc<Watched>, AbortHandle)>,
    gone: mpsc::UnboundedSender<NetnsId>,
    told_gone: mpsc::UnboundedReceiver<NetnsId>,
    started_unix_seconds: u64,
    was_stale: bool,
    /// When an agent last asked.
    heard: Instant,
}

impl Process {
    fn start(run_dir: &RunDir, birth: &Birth) -> anyhow::Result<Self> {
        let config = ResponderConfig {
            threads: birth.threads,
            max_age: Duration::from_secs(birth.max_age_seconds),
            resolv_conf: birth.resolv_conf.clone(),
        };
        let responder = Responder::start(&config).context("cannot serve")?;
        let control = listen(run_dir).context("cannot open the control socket")?;
        let (gone, told_gone) = mpsc::unbounded_channel();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        tracing::info!(threads = config.threads, "the DNS process is ready");
        let anchors = BTreeMap::new();
        Ok(Self {
            responder,
            control,
            anchors,
            gone,
            told_gone,
            started_unix_seconds: now,
            was_stale: false,
            heard: Instant::now(),
        })
    }

    /// Serves and answers until there is a reason to end, which is returned.
    async fn serve(mut self) -> anyhow::Result<&'static str> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut look = tokio::time::interval(WATCH_INTERVAL);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let reason = loop {
            tokio::select! {
                _ = terminate.recv() => break "SIGTERM",
                _ = interrupt.recv() => break "SIGINT",
                Some(container) = self.told_gone.recv() => self.forget(container),
                _ = look.tick() => {
                    self.look();
                    if self.anchors.is_empty() && self.heard.elapsed() > ORPHAN_PATIENCE {
                        break "there is nobody to serve";
                    }
                }
                connection = self.control.accept() => match connection {
                    Ok((stream, _)) => {
                        // What went wrong with a connection is the other side's to notice.
                        let _ = tokio::time::timeout(REQUEST_TIMEOUT, self.answer(stream)).await;
                    }
                    // Out of files, say: do not spin.
                    Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
                },
            }
        };
        // New queries go to a successor that has the same sockets; those that were taken are answered.
        let containers: Vec<NetnsId> = self.anchors.keys().copied().collect();
        containers.into_iter().for_each(|container| self.forget(container));
        let farewell = async {
            while !self.responder.is_idle() {
                tokio::time::sleep(FAREWELL_PAUSE).await;
            }
        };
        let _ = tokio::time::timeout(FAREWELL, farewell).await;
        Ok(reason)
    }

    /// What nobody tells of.
    fn look(&mut self) {
        let unpinned = self.anchors.iter().filter(|(_, (watched, _))| watched.is_unpinned());
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
        if let Some((_, watching)) = self.anchors.remove(&container) {
            watching.abort();
        }
        if self.responder.forget(container) {
            tracing::info!(%container, "the DNS server of a container is closed");
        }
    }

    /// Answers the one request of a connection.
    async fn answer(&mut self, stream: tokio::net::UnixStream) -> anyhow::Result<()> {
        ensure!(stream.peer_cred()?.uid() == rustix::process::geteuid().as_raw(), "not the owner");
        let (message, files) = companion::receive(&stream, MAX_MESSAGE_OCTETS).await?;
        self.heard = Instant::now();
        let mut passed: Vec<OwnedFd> = Vec::new();
        let response = match serde_json::from_slice::<Request<serde::de::IgnoredAny>>(&message) {
            Ok(Request { version, .. }) if version != VERSION => Response::OtherVersion { version: VERSION },
            Ok(_) | Err(_) => match serde_json::from_slice::<Request>(&message) {
                Ok(Request { request, .. }) => {
                    let response = self.respond(request, files, &mut passed);
                    response.unwrap_or_else(|error| Response::Refused { problem: format!("{error:#}") })
                }
                Err(error) => Response::Refused { problem: format!("the request is invalid: {error}") },
            },
        };
        let files: Vec<_> = passed.iter().map(std::os::fd::AsFd::as_fd).collect();
        Ok(companion::send(&stream, &serde_json::to_vec(&response)?, &files).await?)
    }

    fn respond(&mut self, ask: Ask, files: Vec<OwnedFd>, passed: &mut Vec<OwnedFd>) -> anyhow::Result<Response> {
        let served = |is_served: bool| if is_served { Response::Done } else { Response::NotServed };
        Ok(match ask {
            Ask::Observe => Response::State(self.state()),
            Ask::Serve { container, asker, anchor } => {
                self.begin(container, asker, anchor, files)?;
                Response::Done
            }
            Ask::Change { container, asker } => served(self.responder.set_asker(container, asker)),
            Ask::Forget { container } => {
                let was_served = self.anchors.contains_key(&container);
                self.forget(container);
                served(was_served)
            }
            Ask::Sockets { container } => match self.responder.sockets(container)? {
                Some((udp, tcp)) => {
                    passed.extend([udp.into(), tcp.into()]);
                    Response::Sockets
                }
                None => Response::NotServed,
            },
            Ask::Names { everything: true, difference } => {
                self.responder.engine().replace(difference);
                Response::Done
            }
            Ask::Names { everything: false, difference } => {
                self.responder.engine().apply(difference);
                Response::Done
            }
            Ask::Confirm => {
                self.responder.engine().confirm();
                Response::Done
            }
            Ask::Resolve { container, name, kind } => {
                let asker = self.responder.containers().find(|(id, _)| *id == container).map(|(_, asker)| asker);
                match asker {
                    Some(asker) => Response::Resolved(self.resolve(&asker, &name, kind)?),
                    None => Response::NotServed,
                }
            }
        })
    }

    fn begin(&mut self, container: NetnsId, asker: Asker, anchor: Anchor, files: Vec<OwnedFd>) -> anyhow::Result<()> {
        let mut files = files.into_iter();
        let (Some(udp), Some(tcp)) = (files.next(), files.next()) else { anyhow::bail!("the sockets are missing") };
        let watched = Arc::new(Watched::new(anchor, files.next()).context("cannot watch the container")?);
        self.forget(container);
        self.responder
            .serve(container, asker, UdpSocket::from(udp), TcpListener::from(tcp))
            .context("cannot use the sockets")?;
        let (of_task, gone) = (Arc::clone(&watched), self.gone.clone());
        let watching = tokio::spawn(async move {
            of_task.ended().await;
            // The receiver is gone when the process ends.
            let _ = gone.send(container);
        });
        self.anchors.insert(container, (watched, watching.abort_handle()));
        Ok(())
    }

    fn state(&self) -> ProcessState {
        let engine = self.responder.engine();
        let view = engine.view();
        let containers = self.responder.containers();
        ProcessState {
            pid: std::process::id(),
            binary_version: env!("CARGO_PKG_VERSION").to_owned(),
            binary: BinaryId::own(),
            started_unix_seconds: self.started_unix_seconds,
            containers: containers
                .map(|(container, asker)| ServedContainer { container, asker: Asker::clone(&asker) })
                .collect(),
            networks: view.zones().networks(),
            members: view.zones().members(),
            age_seconds: engine.age().map(|age| age.as_secs_f64()),
            is_stale: engine.is_stale(),
            counted: engine.counters.read(),
        }
    }

    fn resolve(&self, asker: &Asker, name: &str, kind: u16) -> anyhow::Result<Resolved> {
        let asked: Name = name.parse()?;
        let engine = self.responder.engine();
        let view = engine.view();
        let question = Question { name: &asked.to_lowercase(), kind: QueryType::from(kind), most: usize::MAX };
        let resolution = view.zones().resolve(asker, question, &mut rand::rng());
        let (source, rcode, records) = match resolution {
            Resolution::Elsewhere => (Source::Forwarded(view.zones().forwarding(asker)), None, Vec::new()),
            Resolution::Answered(answer) => {
                let rcode = match answer.rcode {
                    Rcode::NoError => "noerror",
                    Rcode::NameError => "nxdomain",
                };
                let records = answer.answers.iter().chain(&answer.additional).map(|record| record.line(&asked));
                (Source::Snapshot, Some(rcode.to_owned()), records.collect())
            }
        };
        let age_seconds = engine.age().map(|age| age.as_secs_f64());
        Ok(Resolved { source, rcode, records, age_seconds, is_stale: engine.is_stale() })
    }
}
