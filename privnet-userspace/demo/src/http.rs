//! The processes in the demo's containers: an HTTP server and an HTTP client, as small as HTTP/1.0 allows.
//!
//! The client asks for names itself, and not through libc: what that would do depends on this machine's
//! `/etc/nsswitch.conf`. Each says what happened as one line of JSON on stdout. They are this binary, so that nothing has
//! to be installed.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use privnet::agent::{ControlError, ErrorCode};
use privnet::cli::output;
use privnet::dns::stub::{self, Heard};
use privnet::netns::Netns;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncBufReadExt as _;
use tokio::process::{Child, ChildStdout, Command};

use crate::args::{FetchArgs, ServeArgs};

/// The port of the demo's servers: any will do in a private network.
pub const PORT: u16 = 8080;
/// How the demo's server on `host`, a name or an address, is given to [`fetch_from`].
#[must_use]
pub fn on(host: impl std::fmt::Display) -> String {
    format!("{host}:{PORT}")
}
/// How long a request that must be answered may take.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// How often the server looks whether its container is there.
const LOOK_NANOSECONDS: i64 = 20_000_000;
/// How long the server waits for a request.
const REQUEST_PATIENCE: Duration = Duration::from_secs(5);
/// How long a server may take to start, or to tell of a request that was answered.
const START_PATIENCE: Duration = Duration::from_secs(5);

/// What the server says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Told {
    /// It listens.
    Listening(SocketAddrV4),
    /// It answered a request.
    Served {
        /// The client's address.
        client: SocketAddrV4,
        /// The request line.
        request: String,
    },
}

/// What the client says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fetched {
    /// There was an answer.
    Answer {
        /// What it was told about the server's name, if it was given a name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        heard: Option<Heard>,
        /// From which of its addresses it asked.
        client: SocketAddrV4,
        /// The HTTP status.
        status: u16,
        /// The body.
        body: String,
    },
    /// There was none.
    Failed {
        /// As above.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        heard: Option<Heard>,
        /// The kernel's reason, or that there is no address.
        reason: String,
    },
}

/// `privnet-demo serve`: answers requests until the pin of its namespace is gone.
///
/// # Errors
/// When it cannot listen.
pub fn serve(arguments: &ServeArgs) -> Result<(), ControlError> {
    let failed = |error: io::Error| {
        let message = format!("cannot serve on {}: {error}", arguments.listen);
        ControlError::new(ErrorCode::Internal, message, "only the demo starts it")
    };
    let listener = TcpListener::bind(arguments.listen).map_err(failed)?;
    tell(&Told::Listening(arguments.listen));
    let look = Timespec { tv_sec: 0, tv_nsec: LOOK_NANOSECONDS };
    while arguments.while_exists.exists() {
        let mut ready = [PollFd::new(&listener, PollFlags::IN)];
        if poll(&mut ready, Some(&look)) == Ok(1)
            && let Ok((stream, _)) = listener.accept()
        {
            // A client that went away is the client's affair.
            let _ = answer(stream);
        }
    }
    Ok(())
}

fn answer(mut stream: TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(REQUEST_PATIENCE))?;
    let client = stream.peer_addr()?;
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    for line in lines {
        if line?.is_empty() {
            break;
        }
    }
    let body = format!("hello {}, you asked: {request}\n", client.ip());
    // Sent before the answer: a client that has the answer finds it sent.
    if let std::net::SocketAddr::V4(client) = client {
        tell(&Told::Served { client, request });
    }
    write!(stream, "HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// `privnet-demo fetch`: asks once.
///
/// # Errors
/// Never; what went wrong is said on stdout.
pub fn fetch(arguments: &FetchArgs) -> Result<ExitCode, ControlError> {
    let mut heard = None;
    let fetched = ask(arguments, &mut heard);
    let fetched = fetched.unwrap_or_else(|error| Fetched::Failed { heard, reason: error.to_string() });
    tell(&fetched);
    Ok(if matches!(fetched, Fetched::Answer { .. }) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn ask(arguments: &FetchArgs, heard: &mut Option<Heard>) -> io::Result<Fetched> {
    let patience = Duration::from_millis(arguments.patience_ms.max(1));
    let server = find(arguments, patience, heard)?;
    let mut stream = TcpStream::connect_timeout(&server.into(), patience)?;
    stream.set_read_timeout(Some(patience))?;
    write!(stream, "GET {} HTTP/1.0\r\nHost: {}\r\n\r\n", arguments.path, arguments.from)?;
    let std::net::SocketAddr::V4(client) = stream.local_addr()? else { return Err(io::ErrorKind::Unsupported.into()) };
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    Ok(Fetched::Answer { heard: heard.take(), client, status, body: body.to_owned() })
}

/// Where the server is: what was given, or what its name means here.
fn find(arguments: &FetchArgs, patience: Duration, heard: &mut Option<Heard>) -> io::Result<SocketAddrV4> {
    if let Ok(address) = arguments.from.parse() {
        return Ok(address);
    }
    let invalid = || io::Error::new(io::ErrorKind::InvalidInput, "expected HOST:PORT");
    let (name, port) = arguments.from.rsplit_once(':').ok_or_else(invalid)?;
    let port = port.parse().map_err(|_| invalid())?;
    let told = heard.insert(stub::ask(arguments.nameserver, name, patience)?);
    let address = told.addresses.first().map(|(address, _)| SocketAddrV4::new(*address, port));
    address.ok_or_else(|| io::Error::other(format!("{} has no address for {name}: {}", told.server, told.rcode)))
}

fn tell<T: Serialize>(what: &T) {
    // A receiver that is gone needs no message.
    if let Ok(line) = serde_json::to_string(what) {
        let _ = output::print_text(&(line + "\n"));
    }
}

/// A server that runs in a container. It ends with the pin of its namespace, not with this value.
pub struct Server {
    _process: Child,
    told: tokio::io::Lines<tokio::io::BufReader<ChildStdout>>,
}

impl Server {
    /// Starts a server in `netns`, which is pinned at `pin`; returns when it listens on `address`.
    ///
    /// # Errors
    /// When it does not start in time.
    pub async fn start(netns: &Netns, pin: &Path, address: Ipv4Addr) -> Result<Self> {
        let listen = SocketAddrV4::new(address, PORT);
        let mut command = this_binary("serve")?;
        command.arg("--listen").arg(listen.to_string()).arg("--while-exists").arg(pin);
        let mut process = spawn(netns, command).await.context("starting the HTTP server")?;
        let stdout = process.stdout.take().context("the HTTP server has no stdout")?;
        let mut server = Self { _process: process, told: tokio::io::BufReader::new(stdout).lines() };
        let told = server.next().await?;
        ensure!(told == Told::Listening(listen), "the HTTP server began with {told:?}");
        Ok(server)
    }

    /// What it says next.
    ///
    /// # Errors
    /// When it says nothing in time, or has ended.
    pub async fn next(&mut self) -> Result<Told> {
        let line = tokio::time::timeout(START_PATIENCE, self.told.next_line()).await;
        let line = line.context("the HTTP server says nothing")??.context("the HTTP server has ended")?;
        serde_json::from_str(&line).with_context(|| format!("the HTTP server said {line:?}"))
    }
}

/// Asks `server`, `HOST:PORT`, from within `netns`; a name is asked for there too.
///
/// # Errors
/// When the client cannot be run; what the client could not do is a value.
pub async fn fetch_from(netns: &Netns, server: &str, path: &str, patience: Duration) -> Result<Fetched> {
    let mut command = this_binary("fetch")?;
    command.arg("--from").arg(server).arg("--path").arg(path);
    command.arg("--patience-ms").arg(patience.as_millis().to_string()).kill_on_drop(true);
    let process = spawn(netns, command).await.context("starting the HTTP client")?;
    let output = process.wait_with_output().await.context("waiting for the HTTP client")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    serde_json::from_str(text.trim()).with_context(|| format!("the HTTP client said {text:?}"))
}

fn this_binary(verb: &str) -> Result<Command> {
    let mut command = std::process::Command::new(std::env::current_exe().context("finding this binary")?);
    // A process group of its own: a terminal's Ctrl-C is for the demo, which ends them in order.
    command.arg(verb).env_clear().current_dir("/").process_group(0);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    Ok(command.into())
}

/// Starts a process in `netns`: it inherits the namespace of the thread that starts it.
async fn spawn(netns: &Netns, mut command: Command) -> Result<Child> {
    let runtime = tokio::runtime::Handle::current();
    let spawned = netns.run(move || {
        let _inside = runtime.enter();
        command.spawn()
    });
    Ok(spawned.await??)
}
