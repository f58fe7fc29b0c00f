//! `privnet connect`: a stream into a network, on stdin and stdout, or for each connection to a port of this host.
//!
//! The agent makes the stream's member and its connection; bytes come and go in frames on the control socket. Half a stream
//! may end before the other one.

use std::io::{self, IsTerminal, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde::Serialize;

use super::args::{ConnectArgs, Format};
use super::client::Client;
use super::output::{print, print_error};
use super::runtime::wait;
use crate::api::frames::{FrameBuffer, HEAD_BYTES, Head, MAX_FRAME_BYTES};
use crate::api::views::OpenStream;
use crate::api::{ControlError, ErrorBody, ErrorCode};

/// Carries bytes until the stream has ended.
///
/// # Errors
/// The agent's, or why the stream broke.
pub fn connect(arguments: &ConnectArgs, format: Format) -> Result<ExitCode, ControlError> {
    let ConnectArgs { network, to, app, timeout, agent, listen } = arguments;
    let request = OpenStream {
        network: network.clone(),
        host: to.host.clone(),
        port: to.port,
        app: app.clone(),
        timeout_seconds: *timeout,
    };
    let client = Client::new(&agent.socket);
    if let Some(address) = listen {
        return accept(&client, &request, *address, format);
    }
    // A person who sees that the container has ended cannot be expected to end the input as well.
    let until = if io::stdin().is_terminal() { Until::ContainerEnds } else { Until::BothEnd };
    Stream::open(&client, &request)?.carry(io::stdin(), Stdout, until).map(|()| ExitCode::SUCCESS)
}

/// How long a caller that cannot accept a connection waits before it tries again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Where `--listen` listens, for a caller that let the kernel choose the port.
#[derive(Serialize)]
struct Listening {
    listen: SocketAddr,
}

/// Connects every connection that is made to an address of this host; never ends by itself.
fn accept(
    client: &Client,
    request: &OpenStream,
    address: SocketAddr,
    format: Format,
) -> Result<ExitCode, ControlError> {
    let cannot = move |what: &str, error: &io::Error| {
        let message = format!("cannot {what} at {address}: {error}");
        ControlError::new(
            ErrorCode::InvalidArgument,
            message,
            "give another --listen; port 0 lets the kernel choose one",
        )
    };
    let listener = TcpListener::bind(address).map_err(|error| cannot("listen", &error))?;
    let listen = listener.local_addr().map_err(|error| cannot("listen", &error))?;
    print(format, &Listening { listen }, |Listening { listen }| format!("listening at {listen}\n"))?;
    loop {
        let local = match listener.accept() {
            Ok((local, _)) => local,
            // No descriptors are left, say: those that are connected go on.
            Err(error) => {
                print_error(format, &cannot("accept a connection", &error));
                thread::sleep(ACCEPT_PAUSE);
                continue;
            }
        };
        let (client, request) = (client.clone(), request.clone());
        let carrier = thread::Builder::new().spawn(move || {
            let carried = Stream::open(&client, &request).and_then(|stream| {
                let input = local.try_clone().map_err(|error| cannot("read a connection", &error))?;
                stream.carry(input, local, Until::BothEnd)
            });
            if let Err(error) = carried {
                print_error(format, &error);
            }
        });
        // Its connection is closed.
        if let Err(error) = carrier {
            print_error(format, &cannot("carry a connection", &error));
        }
    }
}

/// When a stream is over for its caller.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Until {
    /// The container has sent all.
    ContainerEnds,
    /// The caller has sent all, too.
    BothEnd,
}

/// Where what the container sends goes.
trait Output: Write {
    /// Says that no more comes.
    fn end(&mut self);
}

/// This process's stdout, unbuffered.
struct Stdout;

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::io::write(io::stdout(), bytes)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Output for Stdout {
    /// A reader of a pipe sees the end when no process has it open any more.
    fn end(&mut self) {
        if let Ok(nowhere) = std::fs::File::options().write(true).open("/dev/null") {
            // Where it stays open, the reader sees the end together with that of this process.
            let _ = nix::unistd::dup2_stdout(nowhere);
        }
    }
}

impl Output for TcpStream {
    fn end(&mut self) {
        // It may be closed as a whole already.
        let _ = self.shutdown(Shutdown::Write);
    }
}

/// A stream that the agent carries on.
struct Stream {
    agent: UnixStream,
    early: Vec<u8>,
}

impl Stream {
    fn open(client: &Client, request: &OpenStream) -> Result<Self, ControlError> {
        wait(client.open_stream(request)).map(|(agent, early)| Self { agent, early })
    }

    /// Carries bytes in both directions, each in a thread.
    fn carry(self, input: impl Read + Send + 'static, output: impl Output, until: Until) -> Result<(), ControlError> {
        let Self { agent, early } = self;
        let has_sent_all = Arc::new(AtomicBool::new(false));
        let sent_all = Arc::clone(&has_sent_all);
        let to_agent = agent.try_clone().map_err(|error| broken(&error.to_string()))?;
        // It may wait for input for ever: it ends with the process, or with the connection that it reads.
        thread::spawn(move || send(input, &to_agent, &sent_all));
        let received = receive(&mut early.chain(&agent), output, until, &has_sent_all);
        // The sender has the connection too.
        let _ = agent.shutdown(Shutdown::Both);
        received
    }
}

/// Sends the input to the agent, in frames, and its end.
fn send(mut input: impl Read, mut agent: &UnixStream, has_sent_all: &AtomicBool) {
    let mut buffer = FrameBuffer::new();
    loop {
        let length = match input.read(buffer.bytes()) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // A caller whose input broke sends no more.
            read => read.unwrap_or(0),
        };
        // Before the agent can answer it.
        has_sent_all.store(length == 0, Ordering::Relaxed);
        // When the agent takes no more, its last frame says why.
        if agent.write_all(buffer.frame(length)).is_err() || length == 0 {
            return;
        }
    }
}

/// Hands on what the container sends, until the agent closes the connection.
fn receive(
    agent: &mut impl Read,
    mut output: impl Output,
    until: Until,
    has_sent_all: &AtomicBool,
) -> Result<(), ControlError> {
    let mut buffer = FrameBuffer::new();
    let mut has_all = false;
    loop {
        let mut head = [0; HEAD_BYTES];
        if let Err(error) = agent.read_exact(&mut head) {
            let is_over = has_all && has_sent_all.load(Ordering::Relaxed);
            return if is_over { Ok(()) } else { Err(broken(&error.to_string())) };
        }
        match Head::read(head) {
            Some(Head::Bytes(length)) => {
                let bytes = &mut buffer.bytes()[..length];
                agent.read_exact(bytes).map_err(|error| broken(&error.to_string()))?;
                match output.write_all(bytes) {
                    Ok(()) => {}
                    // A reader that has seen enough is no error.
                    Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
                    Err(error) => return Err(unwritable(&error)),
                }
            }
            Some(Head::End) => {
                if until == Until::ContainerEnds {
                    return Ok(());
                }
                has_all = true;
                output.end();
            }
            Some(Head::Failed) => return Err(failure(agent)),
            None => return Err(broken("it has sent what is no frame")),
        }
    }
}

/// The error in the agent's last frame.
fn failure(agent: &mut impl Read) -> ControlError {
    let mut json = Vec::new();
    // The connection is reset behind it, where the agent has not read all that was sent.
    let read = agent.take(MAX_FRAME_BYTES as u64).read_to_end(&mut json);
    serde_json::from_slice(&json).map_or_else(
        |error| broken(&read.err().map_or_else(|| error.to_string(), |error| error.to_string())),
        |ErrorBody { error }| error,
    )
}

fn broken(why: &str) -> ControlError {
    let message = format!("the agent ended, and the stream with it: {why}");
    ControlError::new(ErrorCode::AgentUnavailable, message, "see whether it runs (`privnet status`), and connect again")
}

fn unwritable(error: &io::Error) -> ControlError {
    let message = format!("cannot write what the container sent: {error}");
    ControlError::new(ErrorCode::Internal, message, "check the file or pipe that stdout leads to")
}
