//! Names as the agent keeps them: there when an attach returns, gone when a detach does, answered while agents come and go.
//!
//! ```text
//! one host:  containers a, b (in shop) and c (in bank), each with 127.0.0.82:53
//!            agent ──tells──▶ DNS process ◀──asks── a, b, c
//! ```
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "what was measured is part of the transcript")]

mod names_lab;

use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use names_lab::host::Host;
use names_lab::{APP, Asking, Container, SUFFIX};
use privnet::agent::AgentApi as _;
use privnet::agent::views::{
    AnswerSource, Attached, CreateNetwork, Detach, DomainNamesQuery, MembersQuery, ResolveQuery, ResponseCode,
};
use privnet::dns::DEFAULT_ADDRESS;
use privnet::model::{Forwarding, NameOptions};
use privnet_tests::lab::{ProcessSpace, SOON, has_program, runtime, skip, wait_until};
use privnet_tests::soak::Soak;
use rustix::process::{Pid, Signal, kill_process};

/// The addresses of a name, in order.
fn addresses(container: &Container, name: &str) -> Vec<String> {
    let output = container.run(&format!("dig @{DEFAULT_ADDRESS} +time=1 +tries=1 +short {name}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut found: Vec<String> = text.lines().filter(|line| line.starts_with("10.")).map(str::to_owned).collect();
    found.sort();
    found
}

#[test]
fn a_name_is_there_when_its_member_is_and_gone_with_it() {
    if !has_program("dig") {
        return skip("dig");
    }
    runtime().block_on(async {
        let host = Host::start().await;
        let (a, b, c) = (host.lab.container("a"), host.lab.container("b"), host.lab.container("c"));
        host.network("shop").await;
        host.network("bank").await;
        let backend = host.attach(&a, "shop", "backend").await;
        let name = |kind: &str, network: &str| format!("{kind}.{APP}.{network}.{SUFFIX}");
        let nothing: [String; 0] = [];
        // No waiting: the attach has returned.
        assert_eq!(addresses(&a, &name("backend", "shop")), [backend.member.address.to_string()]);
        assert!(backend.resolv_conf.as_ref().is_some_and(|text| text.contains("nameserver 127.0.0.82\n")));
        let web = host.attach(&b, "shop", "web").await;
        let teller = host.attach(&c, "bank", "teller").await;
        for container in [&a, &b] {
            assert_eq!(addresses(container, &name("web", "shop")), [web.member.address.to_string()]);
            assert_eq!(addresses(container, &name("teller", "bank")), nothing);
        }
        assert_eq!(addresses(&c, &name("teller", "bank")), [teller.member.address.to_string()]);
        assert_eq!(addresses(&c, &name("web", "shop")), nothing);
        // In both, a container sees both.
        host.attach(&c, "shop", "teller").await;
        assert_eq!(addresses(&c, &name("web", "shop")), [web.member.address.to_string()]);
        assert_eq!(addresses(&c, &name("teller", "bank")), [teller.member.address.to_string()]);
        host.detach("shop", "teller").await;
        assert_eq!(addresses(&c, &name("web", "shop")), nothing);
        assert_eq!(addresses(&b, &name("teller", "shop")), nothing);
        let service = b.prints(&format!("dig @{DEFAULT_ADDRESS} +short SRV _http._tcp.{}", name("backend", "shop")));
        assert!(service.starts_with("0 1 8080 1.backend."), "{service}");

        host.detach("shop", "backend").await;
        assert_eq!(addresses(&b, &name("backend", "shop")), nothing);
        host.detach("shop", "web").await;
        host.detach("bank", "teller").await;
        // The last has left: no process is left behind.
        assert!(!host.state().join("dns-0").exists() && !host.state().join("dns-1").exists());
    });
}

#[test]
fn the_verbs_say_which_names_there_are_and_why_not() {
    runtime().block_on(async {
        let host = Host::start().await;
        let (a, b) = (host.lab.container("a"), host.lab.container("b"));
        host.network("shop").await;
        host.network("bank").await;
        let (backend, teller) = (host.attach(&a, "shop", "backend").await, host.attach(&b, "bank", "teller").await);
        let control = host.control();
        let listed =
            control.domain_names(DomainNamesQuery { app: APP.to_owned(), network: None }).await.expect("listed");
        let names: Vec<String> = listed.iter().map(|view| format!("{} {:?}", view.name, view.addresses)).collect();
        let line = |prefix: &str, attached: &Attached| {
            format!("{prefix}.{APP}.{}.{SUFFIX} [{}]", attached.network, attached.member.address)
        };
        let mut expected = vec![
            line("backend", &backend),
            line("1.backend", &backend),
            line("teller", &teller),
            line("1.teller", &teller),
        ];
        // By network, whose ids are drawn by lot.
        if backend.network > teller.network {
            expected.rotate_left(2);
        }
        assert_eq!(names, expected);
        let in_shop = DomainNamesQuery { app: APP.to_owned(), network: Some("shop".to_owned()) };
        assert_eq!(control.domain_names(in_shop).await.expect("listed").len(), 2);

        let own = format!("1.backend.{APP}.shop.{SUFFIX}");
        for asker in [format!("1.backend.{APP}"), backend.member.hostname.clone(), backend.member.address.to_string()] {
            let told = control.resolve(asking(&own, "A", &asker)).await.expect("resolved");
            assert_eq!((told.rcode, told.records.len()), (Some(ResponseCode::NoError), 1), "{asker}: {told:?}");
            assert_eq!(told.source, AnswerSource::Snapshot);
        }
        let told = control.resolve(asking(&own, "A", &format!("1.teller.{APP}"))).await.expect("resolved");
        assert_eq!(told.rcode, Some(ResponseCode::NameError));
        assert!(told.reason.contains("not in network shop"), "{}", told.reason);
        let told = control.resolve(asking("example.org", "MX", &format!("1.teller.{APP}"))).await.expect_err("no type");
        assert!(told.message.contains("MX"), "{told}");
        let told = control.resolve(asking("example.org", "AAAA", &format!("1.teller.{APP}"))).await.expect("resolved");
        assert_eq!(told.source, AnswerSource::Forwarded);
        let nobody = control.resolve(asking(&own, "A", &format!("7.web.{APP}"))).await.expect_err("nobody");
        assert!(nobody.message.contains("no container of this host"), "{nobody}");
        let status = control.status().await.expect("a status");
        let names = status.names.expect("names are answered");
        assert_eq!((names.containers, names.networks, names.members, names.is_stale), (2, 2, 2, false));
        assert_eq!(status.problems, Vec::<String>::new());
        host.detach("shop", "backend").await;
        host.detach("bank", "teller").await;
    });
}

#[test]
fn resolve_says_what_a_container_gets_with_its_search_list() {
    runtime().block_on(async {
        let host = Host::start().await;
        let (a, b) = (host.lab.container("a"), host.lab.container("b"));
        host.network("shop").await;
        host.network("bank").await;
        let backend = host.attach(&a, "shop", "backend").await;
        host.attach(&a, "bank", "web").await;
        let teller = host.attach(&b, "bank", "teller").await;
        let control = host.control();
        let asker = format!("1.backend.{APP}");
        let (in_shop, in_bank) = (format!("{}.{SUFFIX}.", backend.network), format!("{}.{SUFFIX}.", teller.network));
        for (name, asked_as, records) in [
            (format!("backend.{APP}"), format!("backend.{APP}.{in_shop}"), 1),
            (format!("teller.{APP}"), format!("teller.{APP}.{in_bank}"), 1),
            // With a final dot no domain is appended, and a program that has no search list asks so.
            (format!("teller.{APP}."), format!("teller.{APP}."), 1),
            (format!("nosuch.{APP}"), format!("nosuch.{APP}."), 0),
            (format!("1.teller.{APP}.bank.{SUFFIX}"), format!("1.teller.{APP}.bank.{SUFFIX}."), 1),
        ] {
            let told = control.resolve(asking(&name, "A", &asker)).await.expect("resolved");
            assert_eq!(told.name.trim_end_matches('.'), name.trim_end_matches('.'));
            assert_eq!((told.asked_as.as_str(), told.records.len()), (asked_as.as_str(), records), "{told:?}");
            let code = if records > 0 { ResponseCode::NoError } else { ResponseCode::NameError };
            assert_eq!((told.source, told.rcode), (AnswerSource::Snapshot, Some(code)), "{told:?}");
        }
        let told = control.resolve(asking(&format!("nosuch.{APP}"), "A", &asker)).await.expect("resolved");
        assert!(told.reason.contains("has other containers in network shop"), "{}", told.reason);
        // Of another network, the id is known and the name is not; a readable name that is nowhere is asked elsewhere.
        let told =
            control.resolve(asking(&format!("backend.{APP}.{}", backend.network), "A", &format!("1.teller.{APP}")));
        assert_eq!(told.await.expect("resolved").rcode, Some(ResponseCode::NameError));
        let told = control.resolve(asking("nosuch.shop", "A", &asker)).await.expect("resolved");
        assert_eq!((told.source, told.asked_as.as_str()), (AnswerSource::Forwarded, "nosuch.shop."));
    });
}

#[test]
fn what_a_network_says_about_its_names_is_heeded() {
    if !has_program("dig") {
        return skip("dig");
    }
    runtime().block_on(async {
        let host = Host::start().await;
        let a = host.lab.container("a");
        let options = NameOptions { ttl_seconds: 2, negative_ttl_seconds: 3, forwarding: Forwarding::Off };
        let mut request = CreateNetwork { name: "shop".to_owned(), subnet: None, mtu: None, names: Some(options) };
        let created = host.control().create_network(request.clone()).await.expect("created");
        assert_eq!(Some(&created.names), request.names.as_ref());
        request.name = "slow".to_owned();
        request.names = Some(NameOptions { ttl_seconds: 61, ..NameOptions::default() });
        host.control().create_network(request).await.expect_err("too long");
        host.attach(&a, "shop", "web").await;
        let dig = |name: &str| {
            let text = a.prints(&format!("dig @{DEFAULT_ADDRESS} {name}"));
            text.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        let own = dig(&format!("{APP}.shop.{SUFFIX}"));
        assert!(own.contains(" 2 IN A 10."), "{own}");
        let nothing = dig(&format!("x.shop.{SUFFIX}"));
        assert!(nothing.contains(" 3 IN SOA "), "{nothing}");
        assert!(dig("example.org").contains("status: REFUSED"));

        // A drained member is unknown while it can still be reached.
        let b = host.lab.container("b");
        let job = host.attach(&b, "shop", "job").await;
        let name = format!("job.{APP}.shop.{SUFFIX}");
        assert_eq!(addresses(&a, &name), [job.member.address.to_string()]);
        let request = Detach {
            network: "shop".to_owned(),
            app: APP.to_owned(),
            kind: Some("job".to_owned()),
            number: None,
            drain: true,
            force: false,
        };
        let (control, start) = (host.control(), Instant::now());
        let draining = tokio::spawn(async move { control.detach(request).await });
        let mut withdrawn = None;
        while withdrawn.is_none() && start.elapsed() < Duration::from_secs(5) {
            if addresses(&a, &name).is_empty() {
                withdrawn = Some(start.elapsed());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let members = host.control().members(MembersQuery { network: Some("shop".to_owned()) }).await.expect("listed");
        assert_eq!(members.len(), 2, "it is a member still");
        assert!(draining.await.expect("ended").expect("detached").detached);
        println!("drained: withdrawn after {withdrawn:?}, gone after {:?}", start.elapsed());
        assert!(start.elapsed() >= Duration::from_secs(2), "nobody may have the name any more");
        host.detach("shop", "web").await;
    });
}

#[test]
fn a_container_that_dies_takes_its_name_along() {
    if !has_program("dig") {
        return skip("dig");
    }
    runtime().block_on(async {
        let host = Host::start().await;
        let a = host.lab.container("a");
        host.network("shop").await;
        host.attach(&a, "shop", "web").await;
        let process = ProcessSpace::start();
        let b = Container { name: "b".to_owned(), netns: process.netns(), path: process.path() };
        let job = host.attach(&b, "shop", "job").await;
        let name = format!("job.{APP}.shop.{SUFFIX}");
        assert_eq!(addresses(&a, &name), [job.member.address.to_string()]);
        drop(b);
        process.end();
        let death = Instant::now();
        wait_until("its name is gone", || addresses(&a, &name).is_empty());
        println!("a name was gone {:?} after its container's death", death.elapsed());
        assert!(death.elapsed() < Duration::from_secs(3));
        host.detach("shop", "web").await;
    });
}

fn ask_constantly(container: &Container, name: &str, host: &Host) -> Asking {
    let questions = format!("{name} A\n{name} AAAA\n1.{name} A\nx.{name} A\n");
    Asking::start(container, &host.lab.ground, &questions)
}

#[test]
fn twenty_agents_one_after_the_other_and_not_a_query_lost() {
    if !has_program("dnsperf") {
        return skip("dnsperf");
    }
    runtime().block_on(async {
        let mut host = Host::start().await;
        let a = host.lab.container("a");
        host.network("shop").await;
        host.attach(&a, "shop", "web").await;
        let asking = ask_constantly(&a, &format!("web.{APP}.shop.{SUFFIX}"), &host);
        let (soak, mut agents) = (Soak::of_rounds(20), 0);
        for _ in soak.rounds() {
            host.restart().await;
            // Long enough for the agent to find the process and to tell it all.
            tokio::time::sleep(Duration::from_millis(100)).await;
            agents += 1;
        }
        asking.all_are_answered();
        soak.tell(agents, "agents");
        host.detach("shop", "web").await;
    });
}

#[test]
fn a_new_build_takes_over_and_not_a_query_is_lost() {
    if !has_program("dnsperf") {
        return skip("dnsperf");
    }
    runtime().block_on(async {
        let mut host = Host::start().await;
        let build = host.lab.ground.directory().join("privnet");
        std::fs::copy(&host.dns_binary, &build).expect("copied");
        host.dns_binary = build.clone();
        host.restart().await;
        let a = host.lab.container("a");
        host.network("shop").await;
        let web = host.attach(&a, "shop", "web").await;
        let pids = async |host: &Host| {
            let mut pids = Vec::new();
            for dir in ["dns-0", "dns-1"] {
                let seen = privnet::dns::DnsProcess::new(&host.state().join(dir)).observe().await.expect("it answers");
                pids.extend(seen.map(|state| state.identity.pid));
            }
            pids
        };
        let before = pids(&host).await;
        host.restart().await;
        let name = format!("web.{APP}.shop.{SUFFIX}");
        wait_until("the next agent knows", || addresses(&a, &name) == [web.member.address.to_string()]);
        assert_eq!(pids(&host).await, before, "the twin: the same build stays");

        let asking = ask_constantly(&a, &name, &host);
        // As packages are upgraded: another file takes the name.
        let next = build.with_file_name("next");
        std::fs::copy(&build, &next).expect("copied");
        std::fs::rename(&next, &build).expect("renamed");
        host.restart().await;
        let start = Instant::now();
        let mut after = before.clone();
        while after == before || after.len() > 1 {
            assert!(start.elapsed() < SOON, "{before:?} is {after:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
            after = pids(&host).await;
        }
        println!("another build had taken over after {:?}", start.elapsed());
        asking.all_are_answered();
        host.detach("shop", "web").await;
    });
}

#[test]
fn what_a_killed_process_had_not_read_the_next_one_answers_soon() {
    runtime().block_on(async {
        let host = Host::start().await;
        let a = host.lab.container("a");
        host.network("shop").await;
        let web = host.attach(&a, "shop", "web").await;
        let pid = host.process().observe().await.expect("it answers").expect("it runs").identity.pid;
        let pid = Pid::from_raw(i32::try_from(pid).expect("a pid")).expect("not 0");
        let bound = a.netns.run(|| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))).await.expect("entered");
        let asking = bound.expect("a socket");
        asking.connect((DEFAULT_ADDRESS, 53)).expect("connected");
        asking.set_read_timeout(Some(SOON)).expect("a timeout");
        let name = format!("web.{APP}.shop.{SUFFIX}");
        let label = |label: &str| [&[u8::try_from(label.len()).expect("short")], label.as_bytes()].concat();
        let labels: Vec<u8> = name.split('.').flat_map(label).collect();
        // Stopped, it reads nothing more.
        kill_process(pid, Signal::STOP).expect("it runs");
        asking.send(&[b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0", &labels[..], b"\0\0\x01\0\x01"].concat()).expect("asked");
        kill_process(pid, Signal::KILL).expect("it is there still");
        let death = Instant::now();
        let mut answer = [0; 512];
        let length = asking.recv(&mut answer).expect("an answer of the next process");
        assert!(answer[..length].ends_with(&web.member.address.octets()), "{:02x?}", &answer[..length]);
        println!("a killed DNS process was back after {:?}", death.elapsed());
        assert!(death.elapsed() < Duration::from_secs(3));
        host.detach("shop", "web").await;
    });
}

#[test]
fn a_name_is_visible_within_a_tenth_of_a_second_of_its_attach() {
    runtime().block_on(async {
        let host = Host::start().await;
        host.network("shop").await;
        let a = host.lab.container("a");
        host.attach(&a, "shop", "web").await;
        let others: Vec<Container> = (0..20).map(|number| host.lab.container(&format!("b{number}"))).collect();
        let mut waits = Vec::new();
        for (number, b) in (1..).zip(&others) {
            let start = Instant::now();
            host.attach(b, "shop", "job").await;
            let attached = start.elapsed();
            let name = format!("{number}.job.{APP}.shop.{SUFFIX}");
            while host.process().resolve(a.netns.id(), &name, 1).await.expect("resolved").records.is_empty() {}
            waits.push((start.elapsed() - attached, attached));
        }
        waits.sort();
        let attaches = waits.iter().map(|(_, attached)| *attached).min();
        println!("names were visible at most {:?} after their attach, which took {attaches:?} or more", waits[19].0);
        // The bench says how late the latest is; here a busy machine may delay one or two.
        assert!(waits[17].0 < Duration::from_millis(100), "{waits:?}");
    });
}

/// Asks what a container is told.
fn asking(name: &str, kind: &str, asker: &str) -> ResolveQuery {
    ResolveQuery { name: name.to_owned(), kind: Some(kind.to_owned()), asker: asker.to_owned() }
}
