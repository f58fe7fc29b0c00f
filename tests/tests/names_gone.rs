//! A member that is gone: a new connection to it fails at once, on every host; the others are reached as before, and
//! its address rests.
//!
//! ```text
//! host one: a, c ── underlay ── host two: b        (all in shop; b or c leaves, or dies)
//! ```
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "what was measured is part of the transcript")]

mod names_lab;

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use names_lab::host::Host;
use names_lab::{APP, Container};
use privnet::agent::AgentApi as _;
use privnet::agent::views::{Detach, MembersQuery};
use privnet_tests::lab::{ProcessSpace, run, runtime, wait_until};

/// Long before the kernel itself would say so, after 3 s without an answer by ARP.
const AT_ONCE: Duration = Duration::from_secs(1);
/// How soon other hosts know, on a busy machine; what it takes is printed.
const EVERYWHERE: Duration = Duration::from_secs(20);
/// What a death may take to be noticed.
const NOTICED: Duration = Duration::from_secs(20);
/// No program listens there: a member that is reached refuses.
const PORT: u16 = 9;

/// What a new connection comes to, and after how long.
fn connect(from: &Container, to: Ipv4Addr, patience: Duration) -> (ErrorKind, Duration) {
    let ask = move || {
        let start = Instant::now();
        let tried = TcpStream::connect_timeout(&SocketAddr::new(to.into(), PORT), patience);
        (tried.expect_err("nobody listens").kind(), start.elapsed())
    };
    let (kind, took) = from.netns.run_blocking(ask).expect("the namespace's thread");
    println!("{} -> {to}:{PORT}: {kind} after {took:?}", from.name);
    (kind, took)
}

/// A live member answers, if only that the port is closed.
fn assert_reached(from: &Container, to: Ipv4Addr) {
    assert_eq!(connect(from, to, Duration::from_secs(5)).0, ErrorKind::ConnectionRefused, "{} -> {to}", from.name);
}

/// The kernel says so, to TCP and to UDP.
fn assert_gone(from: &Container, to: Ipv4Addr) {
    let (kind, took) = connect(from, to, Duration::from_secs(5));
    assert_eq!(kind, ErrorKind::HostUnreachable, "{} -> {to}", from.name);
    assert!(took < AT_ONCE, "{} -> {to} took {took:?}", from.name);
    let send = move || UdpSocket::bind("0.0.0.0:0").expect("bound").send_to(b"x", (to, PORT));
    let sent = from.netns.run_blocking(send).expect("the namespace's thread");
    assert_eq!(sent.expect_err("nobody is there").kind(), ErrorKind::HostUnreachable);
}

fn wait_until_gone(from: &Container, to: Ipv4Addr, limit: Duration) -> Duration {
    let start = Instant::now();
    wait_until("it is known to be gone", || {
        connect(from, to, Duration::from_millis(20)).0 == ErrorKind::HostUnreachable
    });
    assert!(start.elapsed() < limit, "{} -> {to} took {:?}", from.name, start.elapsed());
    start.elapsed()
}

/// The routes by which a container hears of the gone.
fn routes(container: &Container) -> Vec<String> {
    let output = Command::new("ip").args(["-n", &container.name, "route", "show"]).output().expect("ip starts");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let gone = text.lines().filter(|line| line.starts_with("unreachable 10.") && !line.contains('/'));
    gone.map(|line| line.split_whitespace().nth(1).expect("an address").to_owned()).collect()
}

#[test]
fn a_connection_to_a_member_that_left_fails_at_once_and_to_one_that_lives_does_not() {
    runtime().block_on(async {
        let mut host = Host::start().await;
        let (a, b, c) = (host.lab.container("a"), host.lab.container("b"), host.lab.container("c"));
        host.network("shop").await;
        host.attach(&a, "shop", "web").await;
        let (job, live) = (host.attach(&b, "shop", "job").await, host.attach(&c, "shop", "live").await);
        assert_reached(&a, job.member.address);
        assert_eq!(routes(&a), [""; 0]);
        host.detach("shop", "job").await;
        // The detach has returned: no waiting.
        assert_gone(&a, job.member.address);
        assert_gone(&c, job.member.address);
        assert_reached(&a, live.member.address);
        assert_eq!(routes(&a), [job.member.address.to_string()]);
        assert_eq!(routes(&b), [""; 0], "who left has none");

        // A newcomer gets another address, and hears of the gone as well.
        let other = host.attach(&b, "shop", "next").await;
        assert_ne!(other.member.address, job.member.address, "it rests");
        assert_gone(&b, job.member.address);
        assert_reached(&a, other.member.address);
        // A stranger's hand is repaired like any other.
        run(&format!("ip -n {} route del unreachable {} metric 4294967294", a.name, job.member.address));
        host.restart().await;
        wait_until("the route is back", || routes(&a) == [job.member.address.to_string()]);
        // A member that asks for the address by number gets it, and is reached.
        host.detach("shop", "next").await;
        let again = host.attach_at(&b, "shop", "job", Some(job.member.address)).await;
        assert_eq!(again.member.address, job.member.address);
        assert_reached(&a, job.member.address);
        assert_reached(&b, live.member.address);
        assert_eq!(routes(&a), [other.member.address.to_string()]);
        for kind in ["job", "live", "web"] {
            host.detach("shop", kind).await;
        }
        for container in [&a, &b, &c] {
            assert_eq!(routes(container), [""; 0], "nothing is left in {}", container.name);
        }
    });
}

#[test]
fn on_other_hosts_too_and_after_a_death() {
    runtime().block_on(async {
        let [one, two] = Host::start_two().await;
        let (a, c, b) = (one.lab.container("a"), one.lab.container("c"), two.lab.container("b"));
        one.network("shop").await;
        one.attach(&a, "shop", "web").await;
        let live = one.attach(&c, "shop", "live").await;
        let job = two.attach(&b, "shop", "job").await;
        wait_until("it is reached over the underlay", || {
            connect(&a, job.member.address, Duration::from_secs(1)).0 == ErrorKind::ConnectionRefused
        });
        two.detach("shop", "job").await;
        let known = wait_until_gone(&a, job.member.address, EVERYWHERE);
        println!("gone on the other host after {known:?}");
        assert_gone(&a, job.member.address);
        assert_reached(&a, live.member.address);

        // One that dies without a word.
        let process = ProcessSpace::start();
        let d = Container { name: "d".to_owned(), netns: process.netns(), path: process.path() };
        let mortal = two.attach(&d, "shop", "mortal").await;
        wait_until("it is reached over the underlay", || {
            connect(&a, mortal.member.address, Duration::from_secs(1)).0 == ErrorKind::ConnectionRefused
        });
        drop(d);
        process.end();
        println!("gone on the other host {:?} after its death", wait_until_gone(&a, mortal.member.address, NOTICED));
        assert_gone(&a, mortal.member.address);
        assert_reached(&a, live.member.address);
        for kind in ["live", "web"] {
            one.detach("shop", kind).await;
        }
    });
}

#[test]
fn a_drain_that_an_agent_began_is_finished_by_the_next_one() {
    runtime().block_on(async {
        let mut host = Host::start().await;
        let (a, b) = (host.lab.container("a"), host.lab.container("b"));
        host.network_with_ttl("shop", 2).await;
        host.attach(&a, "shop", "web").await;
        let job = host.attach(&b, "shop", "job").await;
        let request = Detach {
            network: "shop".to_owned(),
            app: APP.to_owned(),
            kind: Some("job".to_owned()),
            number: None,
            drain: true,
            force: false,
        };
        let control = host.control();
        let draining = tokio::spawn(async move { control.detach(request).await });
        let mut state = String::new();
        while state != "draining" {
            let members =
                host.control().members(MembersQuery { network: Some("shop".to_owned()) }).await.expect("listed");
            let view = members.iter().find(|view| view.member.address == job.member.address);
            let view = view.expect("it is a member still");
            state = serde_json::to_value(view.state).expect("a value").as_str().expect("text").to_owned();
        }
        // As when the agent is killed: the request gets no answer.
        draining.abort();
        assert!(draining.await.is_err());
        host.restart().await;
        assert_reached(&a, job.member.address);
        let start = Instant::now();
        while host.control().members(MembersQuery { network: Some("shop".to_owned()) }).await.expect("listed").len() > 1
        {
            assert!(start.elapsed() < Duration::from_secs(10), "nobody finishes the drain");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        println!("the next agent finished the drain after {:?}", start.elapsed());
        assert!(start.elapsed() > Duration::from_secs(2), "it waits for the names to be forgotten all the same");
        wait_until_gone(&a, job.member.address, EVERYWHERE);
        host.detach("shop", "web").await;
    });
}
