//! The servers that a container's `resolv.conf` named before: asked for the names of others, from its namespace.
//!
//! ```text
//! container a: 127.0.0.11:53, the server that its file named before ◀── other names, from a's namespace ── DNS process
//! the tests' own namespace: 127.0.0.99:53, the host's resolver      ◀── other names of b ──────────────── DNS process
//! ```
#![forbid(unsafe_code)]

mod names_lab;

use std::fs;
use std::net::{SocketAddrV4, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use names_lab::host::{Host, file};
use names_lab::upstream::{ANSWER, Upstream};
use names_lab::{APP, Container};
use privnet::agent::AgentApi as _;
use privnet::agent::views::ResolveQuery;
use privnet::dns::DEFAULT_ADDRESS;
use privnet::netns::Netns;
use privnet_tests::lab::{has_program, runtime, skip, wait_until};
use rustix::process::{Pid, Signal, kill_process};

/// What `dig` in the container prints for a name.
fn dig(container: &Container, question: &str) -> String {
    container.prints(&format!("dig @{DEFAULT_ADDRESS} +time=10 +tries=1 {question}"))
}

#[test]
fn names_of_others_are_asked_of_the_servers_of_before_in_the_containers_namespace() {
    if !has_program("dig") {
        return skip("dig");
    }
    runtime().block_on(async {
        let mut host = Host::start().await;
        host.network("shop").await;
        let (a, b) = (host.lab.container("a"), host.lab.container("b"));
        // As Docker's server: on the loopback of the container, where no other namespace reaches it.
        let bound = |netns: &Netns, address: &'static str| {
            netns.run_blocking(move || UdpSocket::bind((address, 53))).expect("ran").expect("bound")
        };
        let docker = Upstream::serving(bound(&a.netns, "127.0.0.11"), true);
        let of_host = Upstream::serving(bound(&Netns::current().expect("ours"), "127.0.0.99"), true);
        fs::write(&host.resolv_conf, "nameserver 127.0.0.99\n").expect("written");
        let path = file(&host, "a", Some("nameserver 127.0.0.11\nnameserver 127.0.0.82\nsearch x\n"));
        host.attach_with(&a, "shop", "web", &path).await;
        host.attach(&b, "shop", "job").await;
        let asked = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let check = |name: &str| {
            docker.forget();
            assert!(dig(&a, name).contains(ANSWER), "{name}");
            assert!(dig(&a, &format!("+tcp {name}")).contains(ANSWER), "{name}");
            // Names of ours stay at home, also from here.
            assert!(dig(&a, &format!("nosuch.{APP}")).contains("NXDOMAIN"));
            assert!(dig(&a, &format!("job.{APP}")).contains("NOERROR"));
            assert_eq!(docker.asked(), asked(&[name, name]));
            assert_eq!(of_host.asked(), asked(&[]), "the host's resolvers do not hear of it");
        };
        check("example.com");
        let pid = host.process().observe().await.expect("it answers").expect("it runs").identity.pid;
        host.restart().await;
        check("after.example");
        check("nosuch.shop");
        kill_process(Pid::from_raw(i32::try_from(pid).expect("a pid")).expect("not 0"), Signal::KILL).expect("it runs");
        wait_until("the next process serves", || {
            a.run(&format!("dig @{DEFAULT_ADDRESS} +time=1 {APP}")).status.success()
        });
        check("again.example");
        let asker = format!("1.web.{APP}");
        let query = ResolveQuery { name: "example.com".to_owned(), kind: None, asker };
        let told = host.control().resolve(query).await.expect("resolved");
        assert!(told.reason.contains("127.0.0.11:53 are asked from its namespace"), "{}", told.reason);
        // They end: nobody else hears of what they were to be asked, and names of ours go on.
        drop(docker);
        assert!(dig(&a, "gone.example").contains("SERVFAIL"));
        assert!(dig(&a, &format!("+tcp job.{APP}")).contains("NOERROR"));
        assert_eq!(of_host.asked(), asked(&[]));
        // The twins: a container whose file said nothing, and this one without its file.
        assert!(dig(&b, "example.com").contains(ANSWER));
        assert_eq!(of_host.asked(), asked(&["example.com"]));
        host.detach("shop", "web").await;
        host.attach(&a, "shop", "web").await;
        of_host.forget();
        assert!(dig(&a, "example.com").contains(ANSWER));
        assert_eq!(of_host.asked(), asked(&["example.com"]));
    });
}

#[test]
fn a_server_of_before_that_asks_us_gets_no_question_twice() {
    if !has_program("dig") {
        return skip("dig");
    }
    runtime().block_on(async {
        let host = Host::start().await;
        host.network("shop").await;
        let container = host.lab.container("a");
        // It passes on what it is asked, as Docker's does with `--dns 127.0.0.82`.
        let (end, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (told, counted) = (Arc::clone(&end), Arc::clone(&count));
        let open = || {
            let server = UdpSocket::bind(("127.0.0.11", 53)).expect("bound");
            (server, UdpSocket::bind(("127.0.0.1", 0)).expect("bound"))
        };
        let (server, client) = container.netns.run_blocking(open).expect("ran");
        server.set_read_timeout(Some(Duration::from_millis(50))).expect("set");
        let passing = std::thread::spawn(move || {
            let mut query = [0; 512];
            while !told.load(Ordering::Acquire) {
                if let Ok((length, _)) = server.recv_from(&mut query) {
                    counted.fetch_add(1, Ordering::AcqRel);
                    client.send_to(&query[..length], SocketAddrV4::new(DEFAULT_ADDRESS, 53)).expect("sent");
                }
            }
        });
        let path = file(&host, "a", Some("nameserver 127.0.0.11\n"));
        host.attach_with(&container, "shop", "web", &path).await;
        assert!(dig(&container, "example.com").contains("SERVFAIL"));
        let questions = count.load(Ordering::Acquire);
        assert!((1..=2).contains(&questions), "once a round: {questions}");
        assert!(dig(&container, APP).contains("NOERROR"), "names of ours go on");
        end.store(true, Ordering::Release);
        passing.join().expect("ended");
        host.detach("shop", "web").await;
        // Where Docker says so in the file, it is left alone: Docker asks us, and all names are found.
        let told = "nameserver 127.0.0.11\n# ExtServers: [127.0.0.82]\n";
        fs::write(&path, told).expect("written");
        host.attach_with(&container, "shop", "web", &path).await;
        assert_eq!(fs::read_to_string(&path).expect("read"), told);
        host.detach("shop", "web").await;
        assert_eq!(fs::read_to_string(&path).expect("read"), told);
    });
}
