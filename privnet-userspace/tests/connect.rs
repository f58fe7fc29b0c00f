//! `privnet connect`: bytes between stdin, stdout and a server, by a control socket whose agent connects to this host.

mod support;

use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{FakeAgent, Memory, outcome};

/// How long anything here may take; the machine may be busy.
const BOUND: Duration = Duration::from_secs(60);
/// More than all buffers on the way hold.
const MUCH: usize = 32 * 1024 * 1024;

/// A server for one connection, and its address.
fn server<T: Send + 'static>(serve: impl FnOnce(TcpStream) -> T + Send + 'static) -> (String, JoinHandle<T>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = listener.local_addr().expect("bound").to_string();
    (address, thread::spawn(move || serve(listener.accept().expect("a connection").0)))
}

fn read_all(mut from: impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    from.read_to_end(&mut bytes).expect("read");
    bytes
}

fn start(agent: &FakeAgent, to: &str) -> Child {
    let mut command = agent.privnet(&["connect", "shop", to]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("started")
}

/// Waits until the agent was told what is expected, and returns it.
#[track_caller]
fn told(agent: &FakeAgent, expected: &str) -> String {
    let start = Instant::now();
    loop {
        if let Some(line) = agent.asked().into_iter().find(|line| line.contains(expected)) {
            return line;
        }
        assert!(start.elapsed() < BOUND, "{expected}: {:?}", agent.asked());
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn the_input_may_end_before_the_answer_comes() {
    let agent = FakeAgent::start(Memory::default());
    let (to, server) = server(|mut stream| {
        let asked = read_all(&stream);
        stream.write_all(b"heard ").and_then(|()| stream.write_all(&asked)).expect("written");
    });
    let mut client = start(&agent, &to);
    client.stdin.take().expect("piped").write_all(b"a question").expect("written");
    let output = client.wait_with_output().expect("ended");
    server.join().expect("served");
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(0), b"heard a question".as_slice()));
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    let uid = rustix::process::geteuid().as_raw();
    assert_eq!(agent.asked()[0], format!("open_stream shop {to} None None uid {uid}"));
    assert_eq!(told(&agent, "received"), "10 sent, 16 received: both sides have sent all");
}

#[test]
fn the_output_may_end_before_the_input_and_its_reader_sees_that() {
    let agent = FakeAgent::start(Memory::default());
    let (to, server) = server(|mut stream| {
        stream.write_all(b"all that I have").expect("written");
        stream.shutdown(Shutdown::Write).expect("shut down");
        read_all(&stream)
    });
    let mut client = start(&agent, &to);
    assert_eq!(read_all(client.stdout.take().expect("piped")), b"all that I have");
    assert_eq!(client.try_wait().expect("waited"), None, "its input goes on");
    let mut stdin = client.stdin.take().expect("piped");
    for _ in 0..MUCH / 4096 {
        stdin.write_all(&[7; 4096]).expect("written");
    }
    drop(stdin);
    let output = client.wait_with_output().expect("ended");
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(server.join().expect("served").len(), MUCH);
    assert_eq!(told(&agent, "received"), format!("{MUCH} sent, 15 received: both sides have sent all"));
}

#[test]
fn much_goes_both_ways_at_once() {
    let agent = FakeAgent::start(Memory::default());
    let (to, server) = server(|stream| {
        let mut back = stream.try_clone().expect("cloned");
        std::io::copy(&mut &stream, &mut back).expect("echoed");
        stream.shutdown(Shutdown::Write).expect("shut down");
    });
    let mut client = start(&agent, &to);
    let sent: Vec<u8> = (0..MUCH).map(|index| u8::try_from(index % 251).expect("small")).collect();
    let (mut stdin, expected) = (client.stdin.take().expect("piped"), sent.clone());
    let writing = thread::spawn(move || stdin.write_all(&sent));
    assert!(read_all(client.stdout.take().expect("piped")) == expected, "what comes back is what was sent");
    writing.join().expect("ended").expect("written");
    server.join().expect("served");
    assert!(client.wait().expect("ended").success());
}

#[test]
fn a_port_that_refuses_and_a_connection_that_breaks_are_errors_and_one_that_ends_is_none() {
    let agent = FakeAgent::start(Memory::default());
    let nobody = TcpListener::bind("127.0.0.1:0").expect("bound").local_addr().expect("bound").to_string();
    let (code, stdout, stderr) = outcome(agent.privnet(&["-o", "json", "connect", "shop", &nobody]));
    assert_eq!((code, stdout.as_str()), (1, ""), "{stderr}");
    let error: Value = serde_json::from_str(&stderr).expect("one JSON object");
    assert_eq!(error["error"]["code"], "connection_failed");

    for is_reset in [true, false] {
        let (to, server) = server(move |mut stream| {
            stream.read_exact(&mut [0; 5]).expect("read");
            stream.write_all(b"half").expect("written");
            if is_reset {
                rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).expect("set");
            } else {
                assert_eq!(read_all(&stream), b"");
            }
        });
        let mut client = start(&agent, &to);
        let mut stdin = client.stdin.take().expect("piped");
        stdin.write_all(b"hello").expect("written");
        let input = is_reset.then_some(stdin);
        let output = client.wait_with_output().expect("ended");
        server.join().expect("served");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(i32::from(is_reset)), "{stderr}");
        assert_eq!(stderr.contains("broke: Connection reset by peer"), is_reset, "{stderr}");
        assert_eq!(stderr.is_empty(), !is_reset, "{stderr}");
        drop(input);
    }
    told(&agent, "broke: Connection reset by peer");
}

#[test]
fn an_answer_that_came_before_the_container_refused_more_arrives_whole() {
    let agent = FakeAgent::start(Memory::default());
    let answer = [7; 16 << 10];
    let (to, server) = server(move |mut stream| {
        stream.read_exact(&mut [0]).expect("read");
        stream.write_all(&answer).expect("written");
        // Closed with input that nobody has read, it is reset.
    });
    let mut client = start(&agent, &to);
    let mut stdin = client.stdin.take().expect("piped");
    // It may be told to stop.
    let sender = thread::spawn(move || drop(stdin.write_all(&vec![1; MUCH])));
    let output = client.wait_with_output().expect("ended");
    sender.join().expect("sent");
    server.join().expect("served");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.stdout == answer, "{} octets: {stderr} {:?}", output.stdout.len(), agent.asked());
    assert_eq!((output.status.code(), stderr.contains("broke: ")), (Some(1), true), "{stderr} {:?}", agent.asked());
}

#[test]
fn a_caller_that_is_killed_ends_its_stream_whether_or_not_the_container_takes_bytes() {
    for takes_bytes in [true, false] {
        let agent = FakeAgent::start(Memory::default());
        let (to, server) = server(move |stream| {
            let read = if takes_bytes { read_all(&stream) } else { Vec::new() };
            (stream, read)
        });
        let mut client = start(&agent, &to);
        let mut stdin = client.stdin.take().expect("piped");
        if takes_bytes {
            stdin.write_all(b"hello").expect("written");
            told(&agent, "open_stream");
        } else {
            // Ends when all buffers on the way are full, and the client is killed.
            let writing = thread::spawn(move || while stdin.write_all(&[7; 4096]).is_ok() {});
            told(&agent, "open_stream");
            until_asleep(client.id());
            client.kill().expect("killed");
            writing.join().expect("ended");
        }
        client.kill().expect("killed");
        client.wait().expect("ended");
        told(&agent, "its caller hung up");
        drop(server.join().expect("served"));
    }
}

/// Waits until a process reads no more, since what it reads goes nowhere: twice the same count.
fn until_asleep(pid: u32) {
    let read = || {
        let text = std::fs::read_to_string(format!("/proc/{pid}/io")).expect("its counts");
        text.lines().find_map(|line| line.strip_prefix("rchar: ")?.parse::<u64>().ok()).expect("a count")
    };
    let start = Instant::now();
    let mut last = read();
    loop {
        thread::sleep(Duration::from_millis(300));
        let now = read();
        if now == last && now > 100_000 {
            return;
        }
        assert!(start.elapsed() < BOUND, "it goes on reading");
        last = now;
    }
}

#[test]
fn an_agent_that_ends_ends_the_stream_with_an_error() {
    let agent = FakeAgent::start(Memory::default());
    let (to, server) = server(|stream| read_all(&stream));
    let mut client = start(&agent, &to);
    let stdin = client.stdin.take().expect("piped");
    told(&agent, "open_stream");
    drop(agent);
    let output = client.wait_with_output().expect("ended");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("agent"), "{stderr}");
    drop(stdin);
    server.join().expect("served");
}

#[test]
fn each_connection_to_the_port_that_is_listened_at_is_a_stream() {
    let agent = FakeAgent::start(Memory::default());
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let to = listener.local_addr().expect("bound").to_string();
    let mut command = agent.privnet(&["connect", "shop", &to, "--listen", "127.0.0.1:0", "-o", "json"]);
    let mut client = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("started");
    let mut said = String::new();
    let mut stdout = BufReader::new(client.stdout.take().expect("piped"));
    while !said.contains('}') {
        assert_ne!(stdout.read_line(&mut said).expect("read"), 0, "it has ended: {said}");
    }
    let listening: Value = serde_json::from_str(&said).expect("JSON");
    let at = listening["listen"].as_str().expect("an address");
    let [mut one, mut two] = [(); 2].map(|()| TcpStream::connect(at).expect("connected"));
    one.write_all(b"one").and_then(|()| two.write_all(b"two")).expect("written");
    one.shutdown(Shutdown::Write).and_then(|()| two.shutdown(Shutdown::Write)).expect("shut down");
    for _ in 0..2 {
        let (mut stream, _) = listener.accept().expect("a stream");
        let asked = read_all(&stream);
        stream.write_all(&asked).expect("written");
    }
    assert_eq!((read_all(one), read_all(two)), (b"one".to_vec(), b"two".to_vec()));
    // The twin: the port is taken.
    let (code, stdout, stderr) = outcome(agent.privnet(&["connect", "shop", &to, "--listen", at]));
    assert_eq!((code, stdout.as_str()), (1, ""), "{stderr}");
    assert!(stderr.contains(at) && stderr.contains("Address already in use"), "{stderr}");
    client.kill().expect("killed");
    client.wait().expect("ended");
}

#[test]
fn a_host_without_curl_says_so() {
    let agent = FakeAgent::start(Memory::default());
    let mut command = agent.privnet(&["curl", "shop", "http://backend.demo:8000/", "-v"]);
    command.env("PATH", "/nonexistent");
    let (code, stdout, stderr) = outcome(command);
    assert_eq!((code, stdout.as_str()), (1, ""));
    assert!(stderr.contains("cannot run curl") && stderr.contains("/nonexistent"), "{stderr}");
    assert!(stderr.contains("install curl"), "{stderr}");
    assert_eq!(agent.asked(), [] as [String; 0]);
}
