//! `privnet agent`: starts the agent, serves it, and ends in order.
//!
//! Ending leaves the datapath in place: traffic goes on, isolated as before, until the next agent takes over.

pub mod args;
pub mod audit;
pub mod config;
mod notify;
pub mod purge;
mod readiness;
mod watchdog;

use std::path::Path;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::agent::{self, Agent, ControlError, ErrorCode};
use crate::api::{self, Accounts, Activation, ControlSocket, Surface, activation};
use crate::cli::runtime::no_runtime;
use crate::docker::{self, Plugin};
use crate::netns::Netns;
use args::{AgentArgs, DnsAddress, StoreKind};
use config::AgentOptions;
use notify::notify;

/// Runs the agent until SIGTERM or SIGINT.
///
/// # Errors
/// When it cannot start; nothing of it is left then.
pub fn run(arguments: AgentArgs) -> Result<(), ControlError> {
    // Before there is a second thread.
    let handed_over = Activation::from_environment();
    let options = AgentOptions::resolve(arguments, &rustix::system::uname().nodename().to_string_lossy())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.map_err(|error| no_runtime(&error))?.block_on(run_until_told(options, handed_over))
}

/// What an agent is started with.
fn config_of(options: &AgentOptions) -> Result<agent::Config, ControlError> {
    // This very binary, also when its file was replaced or removed since.
    let binary = std::path::PathBuf::from("/proc/self/exe");
    let names = match options.dns_address {
        DnsAddress::Off => None,
        DnsAddress::At(address) => Some(agent::NamesConfig { address, ..agent::NamesConfig::new(binary.clone()) }),
    };
    // Before the first step that needs one.
    agent::check_capabilities(names.is_some())?;
    Ok(agent::Config {
        host: options.host.clone(),
        vtep: options.vtep,
        host_netns: Netns::current()?,
        netns_dir: crate::netns::DEFAULT_DIR.into(),
        netns_prefix: options.netns_prefix.clone(),
        bpffs_dir: options.bpffs.clone(),
        state_dir: options.state_dir.clone(),
        datapath: options.datapath.into(),
        wireguard: options.wireguard.into(),
        offload: options.offload.into(),
        wireguard_binary: binary,
        names,
        observe_interval: options.observe_interval,
        machine_id_file: options.machine_id_file.clone(),
        serves_alone: true,
    })
}

/// Starts an agent on the store that the options name.
async fn start_agent(
    options: &AgentOptions,
    waiting: &watch::Sender<Option<ControlError>>,
) -> Result<Agent, ControlError> {
    let config = config_of(options)?;
    match options.store {
        StoreKind::Embedded => Agent::start_embedded(config).await,
        StoreKind::Etcd => {
            let etcd = etcd_options(options)?;
            Agent::start_etcd(config, &etcd, |reason| {
                notify(&format!("STATUS=waiting: {reason}"));
                waiting.send_replace(Some(reason.clone()));
            })
            .await
        }
    }
}

fn etcd_options(options: &AgentOptions) -> Result<agent::EtcdOptions, ControlError> {
    let read = |path: &Path| {
        std::fs::read(path).map_err(|error| {
            let message = format!("cannot read {}: {error}", path.display());
            ControlError::new(ErrorCode::InvalidArgument, message, "give another --etcd-ca, --etcd-cert or --etcd-key")
        })
    };
    let mut etcd = agent::EtcdOptions::new(options.etcd_endpoints.clone());
    if let Some(ca) = &options.etcd_ca {
        let identity_pem = match &options.etcd_identity {
            Some((certificate, key)) => Some((read(certificate)?, read(key)?.into())),
            None => None,
        };
        etcd.tls = Some(agent::EtcdTls { ca_pem: read(ca)?, identity_pem });
    }
    let login = options.etcd_login.clone();
    etcd.login = login.map(|(user, password_file)| agent::EtcdLogin { user, password_file });
    Ok(etcd)
}

async fn run_until_told(options: AgentOptions, mut handed_over: Activation) -> Result<(), ControlError> {
    let mut signals = Signals::listen()?;
    let accounts = Accounts::in_directory(Path::new("/etc"));
    // First of all, because it is what refuses a second agent.
    let socket = match handed_over.take(activation::CONTROL) {
        Some(listener) => ControlSocket::handed_over(listener, &options.socket)?,
        None => ControlSocket::bind(&options.socket, accounts.group().map(|group| group.gid))?,
    };
    let (end, ended) = watch::channel(());
    let plugin = Arc::new(Plugin::new(&options.state_dir, docker::Engine::of_environment()));
    let plugin_server = plugin_socket(&options, &mut handed_over)?.map(|socket| {
        tracing::info!(socket = %socket.path().display(), "Docker's plugin is served");
        // From now on: dockerd waits for ever for an answer.
        tokio::spawn(docker::serve(Arc::clone(&plugin), socket, until(ended.clone())))
    });
    for name in handed_over.left() {
        tracing::warn!(name, "systemd handed over a socket that this build does not serve");
    }
    let metrics_listener = bind_metrics(&options).await?;
    let waiting = watch::Sender::new(None);
    let agent = tokio::select! {
        agent = start_agent(&options, &waiting) => agent?,
        () = api::serve_waiting(&socket, waiting.subscribe()) => return Ok(()),
        never = readiness::tell_once_served(waiting.subscribe()) => match never {},
        never = watchdog::tell_while_starting() => match never {},
        () = signals.told_to_end() => return Ok(()),
    };
    plugin.begin(Arc::new(agent.control()));
    let surface = Surface::new(Arc::new(agent.control()), accounts);
    tracing::info!(socket = %socket.path().display(), "the agent is running");
    let (watched, told) = (agent.control(), until(ended.clone()));
    tokio::spawn(async move {
        told.await;
        // These requests would not end by themselves.
        watched.end_watching();
    });
    let control = tokio::spawn(api::serve_control(socket, api::router(surface.clone()), until(ended.clone())));
    let metrics = metrics_listener
        .map(|listener| tokio::spawn(api::serve_metrics(listener, api::metrics_router(surface), until(ended))));
    serve(agent, [Some(control), metrics, plugin_server], end, signals).await
}

/// Until the sender is dropped, which ends everything.
async fn until(mut ended: watch::Receiver<()>) {
    while ended.changed().await.is_ok() {}
}

/// The socket of Docker's plugin: systemd's, or one at the path that was given; none otherwise.
fn plugin_socket(options: &AgentOptions, handed_over: &mut Activation) -> Result<Option<ControlSocket>, ControlError> {
    let given = options.docker_socket.as_deref();
    let socket = match (handed_over.take(activation::DOCKER), given) {
        (Some(listener), _) => ControlSocket::handed_over(listener, given.unwrap_or(Path::new(docker::PLUGIN_SOCKET))),
        (None, Some(path)) => ControlSocket::bind(path, None),
        (None, None) => return Ok(None),
    };
    let remedy = "give --docker-socket and ListenStream= of the unit the same path, or each agent its own";
    socket.map(Some).map_err(|error| ControlError { remedy: remedy.to_owned(), ..error })
}

async fn serve(
    mut agent: Agent,
    servers: [Option<JoinHandle<()>>; 3],
    end: watch::Sender<()>,
    mut signals: Signals,
) -> Result<(), ControlError> {
    notify("READY=1\nSTATUS=running");
    let outcome = tokio::select! {
        failure = wait_for_failure(&mut agent) => Err(failure),
        () = signals.told_to_end() => Ok(()),
    };
    notify("STOPPING=1");
    drop(end);
    for server in servers.into_iter().flatten() {
        if let Err(error) = server.await {
            tracing::error!(%error, "a server ended abnormally");
        }
    }
    tracing::info!("the agent has ended; the members keep their connections");
    outcome
}

/// Tells the watchdog as long as the agent's tasks turn, and returns when one of them fails.
async fn wait_for_failure(agent: &mut Agent) -> ControlError {
    loop {
        tokio::select! {
            failure = agent.failed() => return failure,
            () = watchdog::next_turn() => watchdog::tell_unless(agent.stuck()),
        }
    }
}

async fn bind_metrics(options: &AgentOptions) -> Result<Option<TcpListener>, ControlError> {
    let Some(address) = options.metrics_listen else { return Ok(None) };
    let listener = TcpListener::bind(address).await.map_err(|error| {
        let message = format!("cannot listen for metrics on {address}: {error}");
        ControlError::new(ErrorCode::InvalidArgument, message, "give another --metrics-listen")
    })?;
    Ok(Some(listener))
}

/// The signals an agent hears.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    fn listen() -> Result<Self, ControlError> {
        let listen = |kind| {
            signal(kind).map_err(|error| {
                let message = format!("cannot listen for signals: {error}");
                ControlError::new(ErrorCode::Internal, message, "report it as a fault")
            })
        };
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hang_up: listen(SignalKind::hangup())?,
        })
    }

    async fn told_to_end(&mut self) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hang_up.recv() => {
                    tracing::info!("SIGHUP is ignored: restart the agent to change its configuration");
                }
            }
        }
    }
}
