//! What runs in the containers of the virtual machines: `vm_talk echo PORT`, `vm_talk ask udp|tcp HOST PORT`,
//! `vm_talk ask-in-clear HOST PORT`, `vm_talk find NAME`, `vm_talk flow HOST PORT FILE`. What listens beside them:
//! `vm_talk watch NAME`. And what makes of `privnet` another build: `vm_talk rebuild FROM TO PIN`.
//!
//! `echo` answers every datagram and every connection with what it was sent, for ever. `ask` sends the canary once and fails
//! unless it comes back; `ask-in-clear` does so with the word that may be heard, by UDP, and is sooner discouraged. `find`
//! resolves a name. `flow` sends the canary every 20 ms for ever, and keeps in a file how many it sent, how many of them are
//! without an answer for longer than one may take, and the longest time in milliseconds without any.

#![expect(clippy::print_stdout, reason = "its output is for whoever runs it")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufRead as _, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs as _, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use aya::maps::{Array, Map, MapData};
use privnet_ebpf::abi::Config;
use privnet_tests::machines::{CANARY, IN_CLEAR, watch};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long it may where none is expected.
const SHORTER_PATIENCE: Duration = Duration::from_secs(1);
/// Between two datagrams of a flow.
const EVERY: Duration = Duration::from_millis(20);
/// Room for some thousand small datagrams.
const RECEIVE_BUFFER_BYTES: usize = 8 << 20;

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["echo", port] => echo(port.parse().context("no port")?),
        ["ask", "udp", host, port] => ask_udp(find(host, port)?, CANARY, PATIENCE),
        ["ask", "tcp", host, port] => ask_tcp(find(host, port)?),
        ["ask-in-clear", host, port] => ask_udp(find(host, port)?, IN_CLEAR, SHORTER_PATIENCE),
        ["find", name] => find(name, "0").map(|found| println!("{}", found.ip())),
        ["flow", host, port, file] => flow(find(host, port)?, file),
        ["watch", name] => watch(name),
        ["rebuild", from, to, pin] => rebuild(from, to, pin),
        _ => bail!("usage: vm_talk echo|ask|ask-in-clear|find|flow|watch|rebuild ARGUMENT..."),
    }
}

fn find(host: &str, port: &str) -> Result<SocketAddr> {
    let port: u16 = port.parse().context("no port")?;
    let mut found = (host, port).to_socket_addrs().with_context(|| format!("no such name: {host}"))?;
    found.next().with_context(|| format!("{host} has no address"))
}

fn echo(port: u16) -> Result<()> {
    let udp = UdpSocket::bind(("0.0.0.0", port)).context("cannot bind UDP")?;
    hold_much(&udp)?;
    let tcp = TcpListener::bind(("0.0.0.0", port)).context("cannot bind TCP")?;
    thread::spawn(move || {
        for stream in tcp.incoming().flatten() {
            thread::spawn(move || io::copy(&mut &stream, &mut &stream));
        }
    });
    let mut buffer = vec![0; 1 << 16];
    loop {
        // The error belongs to an earlier answer, for which no test waits any more.
        if let Ok((length, from)) = udp.recv_from(&mut buffer) {
            let _ = udp.send_to(&buffer[..length], from);
        }
    }
}

fn ask_udp(to: SocketAddr, word: &str, patience: Duration) -> Result<()> {
    let mut answer = vec![0; word.len()];
    let socket = connected(to)?;
    socket.set_read_timeout(Some(patience))?;
    socket.send(word.as_bytes()).with_context(|| format!("cannot send to {to}"))?;
    socket.recv(&mut answer).with_context(|| format!("no answer from {to}"))?;
    is_answer(to, &answer, word)
}

fn ask_tcp(to: SocketAddr) -> Result<()> {
    let mut answer = vec![0; CANARY.len()];
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE).with_context(|| format!("cannot connect to {to}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(CANARY.as_bytes()).with_context(|| format!("cannot send to {to}"))?;
    stream.read_exact(&mut answer).with_context(|| format!("no answer from {to}"))?;
    is_answer(to, &answer, CANARY)
}

fn is_answer(to: SocketAddr, answer: &[u8], word: &str) -> Result<()> {
    ensure!(answer == word.as_bytes(), "another answer from {to}");
    println!("{to} answers");
    Ok(())
}

fn flow(to: SocketAddr, file: &str) -> Result<()> {
    let socket = connected(to)?;
    socket.set_read_timeout(Some(EVERY))?;
    hold_much(&socket)?;
    let (mut sent, mut longest, mut last) = (0_u64, Duration::ZERO, Instant::now());
    let mut waiting = BTreeMap::new();
    let mut buffer = vec![0; 1 << 11];
    loop {
        // A moment without a listener is what is measured.
        let _ = socket.send(format!("{CANARY} {sent}").as_bytes());
        waiting.insert(sent, Instant::now());
        sent += 1;
        let next = Instant::now() + EVERY;
        while Instant::now() < next {
            let Ok(length) = socket.recv(&mut buffer) else { continue };
            longest = longest.max(last.elapsed());
            last = Instant::now();
            waiting.remove(&number(&buffer[..length])?);
        }
        let lost = waiting.values().filter(|since: &&Instant| since.elapsed() >= PATIENCE).count();
        let gap = longest.max(last.elapsed()).as_millis();
        keep(file, &format!("{sent} {lost} {gap}\n"))?;
    }
}

/// Writes a `privnet` whose programs are those of another build, as far as anybody can tell: they have another mark. It is that
/// of the running one, as the pinned map of a network says, wherever the compiler put it.
fn rebuild(from: &str, to: &str, pin: &str) -> Result<()> {
    let data = MapData::from_pin(pin).with_context(|| format!("cannot open {pin}"))?;
    let config: Array<_, [u8; size_of::<Config>()]> = Map::Array(data).try_into().context("no array")?;
    let config: Config = bytemuck::pod_read_unaligned(&config.get(&0, 0).context("no config")?);
    let (old, new) = (config.build().to_le_bytes(), (config.build() ^ 1).to_le_bytes());
    let mut bytes = fs::read(from).with_context(|| format!("cannot read {from}"))?;
    let places = places(&bytes, &old)?;
    ensure!(!places.is_empty(), "{from} does not hold the mark {}", config.build());
    places.iter().for_each(|at| bytes[*at..at + old.len()].copy_from_slice(&new));
    fs::write(to, bytes).with_context(|| format!("cannot write {to}"))?;
    fs::set_permissions(to, fs::Permissions::from_mode(0o755)).with_context(|| format!("cannot open {to} to all"))?;
    println!("the mark {} became {}", config.build(), config.build() ^ 1);
    Ok(())
}

/// Where a mark stands. The library's own search for its last byte is compiled for speed, which ours is not.
fn places(bytes: &[u8], mark: &[u8; 8]) -> Result<Vec<usize>> {
    let (mut rest, mut places) = (bytes, Vec::new());
    while rest.skip_until(mark[7])? > 0 {
        let passed = bytes.len() - rest.len();
        if bytes[..passed].ends_with(mark) {
            places.push(passed - mark.len());
        }
    }
    Ok(places)
}

/// Writes a file that is whole whenever somebody reads it.
fn keep(file: &str, text: &str) -> Result<()> {
    let part = format!("{file}.part");
    fs::write(&part, text).with_context(|| format!("cannot write {part}"))?;
    fs::rename(&part, file).with_context(|| format!("cannot rename {part}"))
}

/// The number behind the canary.
fn number(answer: &[u8]) -> Result<u64> {
    let text = std::str::from_utf8(answer).context("no text")?;
    let number = text.strip_prefix(CANARY).with_context(|| format!("another answer: {text}"))?;
    number.trim().parse().with_context(|| format!("no number: {text}"))
}

/// Makes room for what arrives while an emulated machine does not run this process: the default holds 90 datagrams.
fn hold_much(socket: &UdpSocket) -> Result<()> {
    rustix::net::sockopt::set_socket_recv_buffer_size_force(socket, RECEIVE_BUFFER_BYTES).context("cannot make room")
}

fn connected(to: SocketAddr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind(("0.0.0.0", 0)).context("no socket")?;
    socket.connect(to).with_context(|| format!("no way to {to}"))?;
    Ok(socket)
}
