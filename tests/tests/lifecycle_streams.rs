//! `privnet connect` and `privnet curl`: a process of the host in a network, by a member that lasts as long as it does.
//!
//! ```text
//!  host: privnet connect ── socket ── agent ── a namespace without a name: privnet/connect/1 ── wg0 ── backend.demo
//!        kill -9 of the caller, of the agent; another request ends the member
//! ```
#![forbid(unsafe_code)]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;

use privnet::agent::views::NetworkView;
use privnet::agent::{ControlError, ErrorCode};
use privnet::model::AppName;
use privnet_tests::lab::cli::{Cli, failure};
use privnet_tests::lab::{Host, Joined, Lab, Options, SOON, wait_until};
use rustix::net::{AddressFamily, SocketType};

const PORT: u16 = 8000;
/// Nothing listens there.
const REFUSED: u16 = 8001;
/// What listens there accepts nothing.
const SILENT: u16 = 8002;

/// Answers each connection once it has an HTTP request, or all that comes; tells how much that was. The count is of all bytes
/// that have come until now.
fn serve(backend: &Joined) -> (mpsc::Receiver<usize>, Arc<AtomicUsize>) {
    let address = backend.address();
    let listener = backend.app.inside(move || TcpListener::bind((address, PORT)).expect("bound"));
    let (heard, told) = mpsc::channel();
    let come = Arc::<AtomicUsize>::default();
    let count = Arc::clone(&come);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, heard, count) = (stream.expect("a connection"), heard.clone(), Arc::clone(&count));
            // The test may have ended.
            thread::spawn(move || heard.send(answer(stream, &count)).unwrap_or_default());
        }
    });
    (told, come)
}

fn answer(mut stream: TcpStream, count: &AtomicUsize) -> usize {
    let mut bytes = Vec::new();
    let mut part = [0; 4096];
    while !bytes.ends_with(b"\r\n\r\n") {
        // A connection that breaks has ended.
        match stream.read(&mut part).unwrap_or(0) {
            0 => break,
            length => {
                bytes.extend(&part[..length]);
                count.fetch_add(length, Ordering::Relaxed);
            }
        }
    }
    // Its caller may be gone.
    let _ = write!(stream, "HTTP/1.0 200 OK\r\n\r\nheard {}", bytes.len());
    let _ = stream.shutdown(Shutdown::Write);
    bytes.len()
}

/// A port with room for one connection, which is there.
fn fill(backend: &Joined) -> (impl Send, TcpStream) {
    let address = backend.address();
    backend.app.inside(move || {
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
        rustix::net::bind(&socket, &std::net::SocketAddrV4::new(address, SILENT)).expect("bound");
        rustix::net::listen(&socket, 0).expect("it listens");
        (socket, TcpStream::connect((address, SILENT)).expect("connected"))
    })
}

/// `privnet connect` with a pipe at each end.
struct Connect(Child);

impl Connect {
    fn start(cli: &Cli, to: &str) -> Self {
        let mut command = cli.command(&["connect", "shop", to, "-o", "json"]);
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self(command.spawn().expect("it starts"))
    }

    fn say(&mut self, what: &str) {
        self.0.stdin.as_mut().expect("piped").write_all(what.as_bytes()).expect("written");
    }

    /// Ends its input, and returns what it has said.
    fn end(mut self) -> (ExitStatus, String, String) {
        drop(self.0.stdin.take());
        self.left()
    }

    /// What it has said, once it ends by itself.
    fn left(self) -> (ExitStatus, String, String) {
        let Self(mut process) = self;
        // Not the input: it goes on.
        let input = process.stdin.take();
        let output = process.wait_with_output().expect("it ends");
        drop(input);
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
        (output.status, text(output.stdout), text(output.stderr))
    }

    /// The error that it ends with by itself.
    fn fails(self) -> ControlError {
        let (status, stdout, stderr) = self.left();
        assert_eq!((status.code(), stdout.as_str()), (Some(1), ""), "{stderr}");
        failure(&stderr)
    }
}

/// The members of streams, by number and address.
fn stream_members(host: &Host) -> Vec<(u32, Ipv4Addr)> {
    let members = host.members().expect("the members").into_iter().map(|view| view.member);
    let of_streams = members.filter(|member| member.kind.as_str() == "connect");
    of_streams.map(|member| (member.number.get(), member.address)).collect()
}

/// Waits until no stream has a member, nor anything else.
fn until_nothing_is_left(host: &Host, before: &[String]) {
    wait_until("nothing is left of the stream", || stream_members(host).is_empty() && host.leftovers() == before);
}

/// The line of the log that has all these words.
#[track_caller]
fn logged(host: &Host, words: &[&str]) {
    wait_until(format!("the log has a line with {words:?}"), || {
        let log = fs::read_to_string(&host.paths().log).expect("the log");
        log.lines().any(|line| line.contains(" INFO ") && words.iter().all(|word| line.contains(word)))
    });
}

#[test]
fn a_stream_reaches_a_container_and_ends_with_its_caller_its_agent_or_its_member() {
    let lab = Lab::new("a_stream_reaches_a_container_and_ends_with_its_caller_its_agent_or_its_member");
    let host = lab.host(&Options::ebpf());
    let cli = host.cli();
    let network: NetworkView = host.network("shop", "10.90.0.0/24");
    let mut container = lab.container("backend-1");
    container.app = "demo".parse::<AppName>().expect("a name").id().to_string();
    let backend = host.join(&network, &container);
    let (heard, come) = serve(&backend);
    let (_silent, _waiting) = fill(&backend);
    let before = host.leftovers();
    let reaches = |arguments: &[&str]| {
        let mut command = cli.command(arguments);
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
        process.stdin.take().expect("piped").write_all(b"hello").expect("written");
        let output = process.wait_with_output().expect("it ends");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "HTTP/1.0 200 OK\r\n\r\nheard 5", "{arguments:?}");
        assert!(output.status.success(), "{arguments:?}");
        assert_eq!(heard.recv_timeout(SOON), Ok(5));
    };

    // Each way to say which container, and the twin of each refusal below.
    for host in ["backend.demo", "1.backend.demo", &backend.attached.member.hostname, &backend.address().to_string()] {
        reaches(&["connect", "shop", &format!("{host}:{PORT}")]);
    }
    reaches(&["connect", "--app", "demo", "shop", &format!("backend:{PORT}")]);
    until_nothing_is_left(&host, &before);

    let refused = |arguments: &[&str], code: ErrorCode, words: &[&str]| {
        let error = cli.json::<()>(&[&["connect"], arguments].concat()).expect_err("refused");
        assert_eq!(error.code, code, "{error:?}");
        assert!(words.iter().all(|word| error.message.contains(word)), "{error:?}");
        assert_eq!(stream_members(&host), [], "{arguments:?}");
    };
    let at = |port: u16| format!("{}:{port}", backend.address());
    let nobody = network.subnet.hosts().last().expect("an address").to_string();
    refused(&["bank", "backend.demo:8000"], ErrorCode::NetworkNotFound, &["bank"]);
    for unknown in ["backend:8000", "frontend.demo:8000", "2.backend.demo:8000", "example.org:8000"] {
        refused(&["shop", unknown], ErrorCode::MemberNotFound, &["shop", unknown.trim_end_matches(":8000")]);
    }
    refused(&["shop", &format!("{nobody}:8000")], ErrorCode::MemberNotFound, &["shop", &nobody]);
    refused(&["shop", &at(REFUSED)], ErrorCode::ConnectionFailed, &["shop", &at(REFUSED), "Connection refused"]);
    refused(&["shop", &at(SILENT), "--timeout", "1"], ErrorCode::Timeout, &["shop", &at(SILENT), "1 s"]);
    until_nothing_is_left(&host, &before);

    // A stream that stays open has a member, and is in the log.
    let open = |say: &str| {
        let mut stream = Connect::start(&cli, &format!("backend.demo:{PORT}"));
        let before = come.load(Ordering::Relaxed);
        stream.say(say);
        wait_until("what it says has come", || come.load(Ordering::Relaxed) == before + say.len());
        assert_eq!(stream_members(&host).len(), 1);
        let to = format!("a stream to backend.demo:{PORT}");
        logged(&host, &[&to, &at(PORT), "begins", "uid=0", &format!("pid={}", stream.0.id())]);
        stream
    };
    let stream = open("four");
    let pid = format!("pid={}", stream.0.id());
    let (status, stdout, stderr) = stream.end();
    assert_eq!((status.code(), stdout.ends_with("heard 4")), (Some(0), true), "{stderr}");
    assert_eq!(heard.recv_timeout(SOON), Ok(4));
    logged(&host, &[&pid, "ends", "sent=4", "received=26", "network=shop"]);
    until_nothing_is_left(&host, &before);

    let mut stream = open("killed");
    stream.0.kill().expect("killed");
    stream.0.wait().expect("it ends");
    assert_eq!(heard.recv_timeout(SOON), Ok(6), "the container sees the end of the connection");
    logged(&host, &["ends", "sent=6", "its caller hung up"]);
    until_nothing_is_left(&host, &before);

    let stream = open("detached");
    let detach = ["detach", "--network", "shop", "--app", "privnet", "--type", "connect"];
    assert_eq!(cli.text(&detach).trim_end(), "detached");
    let error = stream.fails();
    assert!(error.code == ErrorCode::MemberNotFound && error.message.contains("ended by another request"), "{error:?}");
    until_nothing_is_left(&host, &before);

    let stream = open("the agent");
    host.kill();
    let error = stream.fails();
    assert!(error.code == ErrorCode::AgentUnavailable && error.message.contains("agent"), "{error:?}");
    host.start();
    host.wait_until_settled();
    until_nothing_is_left(&host, &before);

    let curl = ["curl", "shop", &format!("http://backend.demo:{PORT}/"), "-sS", "--max-time", "20"];
    assert!(cli.text(&curl).starts_with("heard "));
    let unknown = format!("http://frontend.{}/", backend.attached.member.app);
    let refused = cli.output(&["curl", "shop", &unknown, "-sS", "--max-time", "20"]);
    assert_eq!(refused.status.code(), Some(6), "curl's own code: it cannot resolve the host");
    until_nothing_is_left(&host, &before);
    lab.finish();
}
