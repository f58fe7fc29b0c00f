//! What runs in the containers of the virtual machines: `vm_talk echo PORT`, `vm_talk ask udp|tcp HOST PORT`,
//! `vm_talk flow HOST PORT FILE`. And what listens beside them: `vm_talk watch FILE`.
//!
//! `echo` answers every datagram and every connection with what it was sent, for ever. `ask` sends the canary once and fails
//! unless it comes back. `flow` sends it every 20 ms for ever, and keeps in a file how many it sent, how many of them got
//! no answer within the time that one may take, and the longest time in milliseconds without one. `watch` looks into every
//! frame of its namespace, and keeps in a file its process and how many frames held the canary.

#![expect(clippy::print_stdout, reason = "its output is for whoever runs it")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs as _, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::socket::{MsgFlags, recv};
use privnet_tests::lab::packet;
use privnet_tests::machines::CANARY;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// Between two datagrams of a flow.
const EVERY: Duration = Duration::from_millis(20);

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["echo", port] => echo(port.parse().context("no port")?),
        ["ask", protocol, host, port] => ask(protocol, find(host, port)?),
        ["flow", host, port, file] => flow(find(host, port)?, file),
        ["watch", file] => watch(file),
        _ => bail!("usage: vm_talk echo PORT | ask udp|tcp HOST PORT | flow HOST PORT FILE | watch FILE"),
    }
}

fn find(host: &str, port: &str) -> Result<SocketAddr> {
    let port: u16 = port.parse().context("no port")?;
    let mut found = (host, port).to_socket_addrs().with_context(|| format!("no such name: {host}"))?;
    found.next().with_context(|| format!("{host} has no address"))
}

fn echo(port: u16) -> Result<()> {
    let udp = UdpSocket::bind(("0.0.0.0", port)).context("cannot bind UDP")?;
    let tcp = TcpListener::bind(("0.0.0.0", port)).context("cannot bind TCP")?;
    thread::spawn(move || {
        for stream in tcp.incoming().flatten() {
            thread::spawn(move || io::copy(&mut &stream, &mut &stream));
        }
    });
    let mut buffer = vec![0; 1 << 16];
    loop {
        // An error is that of an earlier answer, which nobody waits for any more.
        if let Ok((length, from)) = udp.recv_from(&mut buffer) {
            let _ = udp.send_to(&buffer[..length], from);
        }
    }
}

fn ask(protocol: &str, to: SocketAddr) -> Result<()> {
    let mut answer = vec![0; CANARY.len()];
    match protocol {
        "udp" => {
            let socket = connected(to)?;
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.send(CANARY.as_bytes()).with_context(|| format!("cannot send to {to}"))?;
            socket.recv(&mut answer).with_context(|| format!("no answer from {to}"))?;
        }
        _ => {
            let mut stream =
                TcpStream::connect_timeout(&to, PATIENCE).with_context(|| format!("cannot connect to {to}"))?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.write_all(CANARY.as_bytes()).with_context(|| format!("cannot send to {to}"))?;
            stream.read_exact(&mut answer).with_context(|| format!("no answer from {to}"))?;
        }
    }
    ensure!(answer == CANARY.as_bytes(), "another answer from {to}");
    println!("{protocol} {to} answers");
    Ok(())
}

fn flow(to: SocketAddr, file: &str) -> Result<()> {
    let socket = connected(to)?;
    socket.set_read_timeout(Some(EVERY))?;
    let (mut sent, mut lost, mut longest, mut last) = (0_u64, 0, Duration::ZERO, Instant::now());
    let mut waiting = BTreeMap::new();
    let mut buffer = vec![0; 1 << 11];
    loop {
        // Nobody there for a moment is what is measured.
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
        let before = waiting.len();
        waiting.retain(|_, since| since.elapsed() < PATIENCE);
        lost += before - waiting.len();
        let gap = longest.max(last.elapsed()).as_millis();
        keep(file, &format!("{sent} {lost} {gap}\n"))?;
    }
}

fn watch(file: &str) -> Result<()> {
    let socket = packet::open().context("no packet socket")?;
    let (mut found, mut buffer) = (0_u64, vec![0; 1 << 16]);
    let process = std::process::id();
    keep(file, &format!("{process} {found}\n"))?;
    loop {
        // A time without frames is no error.
        let Ok(length) = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) else { continue };
        if buffer[..length].windows(CANARY.len()).any(|window| window == CANARY.as_bytes()) {
            found += 1;
            keep(file, &format!("{process} {found}\n"))?;
        }
    }
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

fn connected(to: SocketAddr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind(("0.0.0.0", 0)).context("no socket")?;
    socket.connect(to).with_context(|| format!("no way to {to}"))?;
    Ok(socket)
}
