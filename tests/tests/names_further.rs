//! One namespace, one membership per network: attached again it is the one that is there, under another app or type it has
//! one name more, and its names go one by one.
//!
//! ```text
//! host one: pod (main, side, …) ── wg0 ── shop ── wg0 ── peer (main, side) :host two
//! ```
#![forbid(unsafe_code)]

mod names_lab;

use std::process::Command;
use std::sync::Arc;

use names_lab::host::Host;
use names_lab::{APP, Container, Ping, SUFFIX};
use privnet::agent::views::{Attach, Attached, Detach, MemberView, MembersQuery, ResolveQuery, Target};
use privnet::agent::{AgentApi as _, ControlError, ErrorCode};
use privnet::dns::DEFAULT_ADDRESS;
use privnet::model::{ContainerRef, MemberState};
use privnet::store::claims::{self, End, NameClaim, NameWish, NothingSeen, Released};
use privnet::store::{Memory, Store, records};
use privnet_tests::lab::{ProcessSpace, has_program, runtime, say, skip, until, wait_until};

/// The request to end a `main` of a number.
fn of_main(network: &str, number: u32) -> Detach {
    let (network, app, kind) = (network.to_owned(), APP.to_owned(), Some("main".to_owned()));
    Detach { network, app, kind, number: Some(number), drain: false, force: false }
}

/// The addresses of a name in `shop`, in order, or the name of an address.
fn asks(container: &Container, question: &str) -> Vec<String> {
    let output = container.run(&format!("dig @{DEFAULT_ADDRESS} +time=1 +tries=1 +short {question}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut found: Vec<String> = text.lines().filter(|line| !line.starts_with(';')).map(str::to_owned).collect();
    found.sort();
    found
}

fn name(of: &str) -> String {
    format!("{of}.{APP}.shop.{SUFFIX}")
}

fn pointer(container: &Container, attached: &Attached) -> Vec<String> {
    asks(container, &format!("-x {}", attached.member.address))
}

fn request(container: &Container, kind: &str) -> Attach {
    Attach {
        network: "shop".to_owned(),
        app: APP.to_owned(),
        kind: Some(kind.to_owned()),
        number: None,
        address: None,
        target: Target::Netns(container.path.clone()),
        ports: Vec::new(),
        resolv_conf: None,
        attachment: None,
    }
}

async fn attach(host: &Host, container: &Container, kind: &str) -> Attached {
    host.control().attach(request(container, kind)).await.expect("attached")
}

async fn refused(host: &Host, request: Attach) -> ControlError {
    host.control().attach(request).await.expect_err("it is not what stands")
}

async fn member(host: &Host, attached: &Attached) -> Option<MemberView> {
    let members = host.control().members(MembersQuery::default()).await.expect("listed");
    members
        .into_iter()
        .find(|member| member.network == attached.network && member.member.address == attached.member.address)
}

/// The names of a member, the oldest first.
async fn names(host: &Host, attached: &Attached) -> Vec<String> {
    let Some(member) = member(host, attached).await else { return Vec::new() };
    let oldest = &member.names[0];
    assert_eq!(&member.member, &oldest.name);
    member.names.iter().map(|name| format!("{}.{}", name.name.number, name.name.kind)).collect()
}

#[test]
fn a_namespace_has_one_membership_whose_names_come_and_go_one_by_one() {
    if !has_program("dig") {
        return skip("dig");
    }
    runtime().block_on(async {
        let hosts = Host::start_two().await;
        let [one, two] = &hosts;
        one.network("shop").await;
        let (pod, peer) = (one.lab.container("pod"), two.lab.container("peer"));
        let main = attach(one, &pod, "main").await;
        let other = attach(two, &peer, "main").await;
        assert_eq!((main.member.number.get(), other.member.number.get()), (1, 2));
        Ping::start(&peer, main.member.address, 20).loses_nothing();

        // Again, with and without the number: the same answer.
        assert_eq!(attach(one, &pod, "main").await, main);
        let numbered = Attach { number: Some(1), address: Some(main.member.address), ..request(&pod, "main") };
        assert_eq!(one.control().attach(numbered).await.expect("it is what stands"), main);

        // A sidecar of each, at the same time: the names are two, and the memberships those that were there.
        let (side, side_of_other) = tokio::join!(attach(one, &pod, "side"), attach(two, &peer, "side"));
        let place = |attached: &Attached| {
            (attached.member.address, attached.interface.clone(), attached.member.hostname.clone())
        };
        assert_eq!((place(&side), place(&side_of_other)), (place(&main), place(&other)));
        assert_eq!(side.member.number.get() + side_of_other.member.number.get(), 3, "1 and 2");
        assert_eq!(attach(one, &pod, "side").await, side);
        assert!(pod.run("ip link show wg0").status.success() && !pod.run("ip link show wg1").status.success());
        for (from, to) in [(&peer, &main), (&pod, &other)] {
            Ping::start(from, to.member.address, 20).loses_nothing();
        }
        let both = [main.member.address.to_string(), other.member.address.to_string()];
        let own = format!("{}.side", side.member.number);
        for asker in [&pod, &peer] {
            wait_until("all names are known", || {
                asks(asker, &name("side")) == both && asks(asker, &name("main")) == both
            });
            assert_eq!(asks(asker, &name("1.main")), both[..1]);
            assert_eq!(asks(asker, &name(&own)), both[..1]);
            assert_eq!(pointer(asker, &main), [format!("{}.", main.member.hostname)]);
        }
        assert_eq!(names(two, &main).await, ["1.main".to_owned(), own.clone()]);
        let as_side = ResolveQuery { name: name("1.main"), kind: None, asker: format!("{own}.{APP}") };
        let told = one.control().resolve(as_side).await.expect("a container is known by each of its names");
        assert_eq!((told.asker, told.records.len()), (format!("{own}.{APP}"), 1));

        // The first name goes, and not a packet is lost.
        let ping = Ping::start(&peer, main.member.address, 60);
        one.detach("shop", "main").await;
        for asker in [&pod, &peer] {
            let side_alone = || asks(asker, &name("main")) == both[1..] && asks(asker, &name("side")) == both;
            wait_until("the first name is gone, and the other is not", side_alone);
            wait_until("the address stands for the other", || pointer(asker, &main)[0].starts_with(&own));
        }
        assert_eq!(names(one, &main).await, std::slice::from_ref(&own));
        // The name is free, also for another.
        let third = two.lab.container("third");
        assert_eq!(attach(two, &third, "main").await.member.number.get(), 1);
        let again = attach(one, &pod, "main").await;
        assert_eq!((again.member.number.get(), again.member.address), (3, main.member.address));
        assert!(again.member.hostname.starts_with(&own), "{}", again.member.hostname);
        assert_eq!(names(one, &main).await, [own.clone(), "3.main".to_owned()]);
        ping.loses_nothing();

        // Draining belongs to a name.
        let drain = Detach {
            network: "shop".to_owned(),
            app: APP.to_owned(),
            kind: Some("side".to_owned()),
            number: None,
            drain: true,
            force: false,
        };
        let control = one.control();
        let draining = tokio::spawn(async move { control.detach(drain).await });
        wait_until("its name is withdrawn", || asks(&peer, &name(&own)).is_empty());
        assert_eq!(asks(&peer, &name("3.main")), both[..1]);
        let view = member(one, &main).await.expect("it stands");
        let states: Vec<MemberState> = view.names.iter().map(|name| name.state).collect();
        assert_eq!(states, [MemberState::Draining, MemberState::Ready]);
        assert!(draining.await.expect("joined").expect("drained").detached);
        assert_eq!(names(one, &main).await, ["3.main"]);
        Ping::start(&peer, main.member.address, 20).loses_nothing();

        // The last one ends the membership; the other host's goes on.
        one.detach("shop", "main").await;
        assert_eq!(names(one, &main).await, Vec::<String>::new());
        assert!(!pod.run("ip link show wg0").status.success());
        assert_eq!(names(two, &other).await.len(), 2);
    });
}

#[test]
fn what_is_asked_for_otherwise_than_it_stands_is_refused_and_the_difference_is_named() {
    runtime().block_on(async {
        let host = Host::start().await;
        let pod = host.lab.container("pod");
        host.network("shop").await;
        let ports = |ports: &[&str]| ports.iter().map(|port| (*port).to_owned()).collect::<Vec<String>>();
        let with_ports = |kind: &str, of: &[&str]| Attach { ports: ports(of), ..request(&pod, kind) };
        let main = host.control().attach(with_ports("main", &["http=80"])).await.expect("attached");
        let other = Some([10, 240, 0, 99].into());
        for (request, twin, expected) in [
            (
                Attach { number: Some(2), ..request(&pod, "main") },
                Attach { number: Some(1), ..request(&pod, "main") },
                "and not number 2",
            ),
            (
                Attach { address: other, ..request(&pod, "main") },
                Attach { address: Some(main.member.address), ..request(&pod, "main") },
                "and not 10.240.0.99",
            ),
            (
                with_ports("main", &["http=81"]),
                with_ports("main", &["http=80"]),
                "with the ports http=80, and not with the ports http=81",
            ),
            (
                Attach { address: other, ..request(&pod, "side") },
                Attach { address: Some(main.member.address), ..request(&pod, "side") },
                "and not 10.240.0.99",
            ),
            (with_ports("side", &["http=80"]), with_ports("side", &[]), "with no ports, and not"),
        ] {
            let error = refused(&host, request).await;
            assert_eq!(error.code, ErrorCode::MemberExists, "{error}");
            assert!(error.message.contains(expected) && error.message.contains("shop"), "{error}");
            assert!(error.remedy.starts_with("attach it without --"), "{}", error.remedy);
            host.control().attach(twin).await.expect("it is what stands");
        }
        assert_eq!(names(&host, &main).await, ["1.main", "1.side"]);
        host.detach("shop", "main").await;
        host.detach("shop", "side").await;
    });
}

#[test]
fn an_agent_that_dies_between_the_store_and_its_own_record_leaves_a_membership_that_goes_on() {
    runtime().block_on(async {
        let store: Arc<dyn Store> = Arc::new(Memory::new());
        let mut host = Host::start_on(Arc::clone(&store)).await;
        let (pod, peer) = (host.lab.container("pod"), host.lab.container("peer"));
        host.network("shop").await;
        let (main, _) = (attach(&host, &pod, "main").await, attach(&host, &peer, "peer").await);
        let container = |name: &str| format!("{name}.{APP}").parse::<ContainerRef>().expect("a container");
        let stored = || async {
            records::member_at(&*store, main.network, main.member.address)
                .await
                .expect("read")
                .expect("it stands")
                .record
        };
        // Claimed, and the agent died: the next one, and the one that runs, take over what the store says.
        for (kind, dies) in [("side", true), ("log", false)] {
            let of = stored().await;
            let claim = NameClaim {
                network: main.network,
                member: of.id,
                known_as: of.container,
                name: NameWish {
                    app: main.member.app,
                    app_name: None,
                    kind: kind.parse().expect("a type"),
                    number: None,
                    own: [].into(),
                    elsewhere: [].into(),
                    ports: [].into(),
                },
            };
            claims::add_name(&*store, &claim, &NothingSeen).await.expect("named");
            if dies {
                host.restart().await;
            }
            let again = attach(&host, &pod, kind).await;
            assert_eq!(
                (again.member.number.get(), again.member.address, again.member.hostname),
                (1, main.member.address, main.member.hostname.clone())
            );
        }
        assert_eq!(names(&host, &main).await, ["1.main", "1.side", "1.log"]);
        // Released, and the agent died: likewise.
        for (oldest, dies) in [("1.main", true), ("1.side", false)] {
            let of = stored().await.id;
            let end = End::by_its_host(1);
            let released = claims::release_name(&*store, main.network, of, &container(oldest), end, &NothingSeen).await;
            assert!(matches!(released, Ok(Some(Released::Name(_)))), "{released:?}");
            if dies {
                host.restart().await;
            }
        }
        // The agent that runs hears of it from the store.
        until("the membership has its last name alone", async || names(&host, &main).await == ["1.log"]).await;
        // For longer than the agent's own looks, of which one takes half a second.
        Ping::start(&peer, main.member.address, 20).loses_nothing();
        let again = attach(&host, &pod, "log").await;
        assert_eq!(again.member.address, main.member.address);
        assert!(again.member.hostname.starts_with("1.log."), "{}", again.member.hostname);
        host.detach("shop", "log").await;
        assert_eq!(names(&host, &main).await, Vec::<String>::new());
        host.detach("shop", "peer").await;
    });
}

#[test]
fn a_number_is_the_namespaces_own_in_every_network_and_that_of_a_container_that_died_is_free_at_once() {
    runtime().block_on(async {
        let host = Host::start().await;
        let (pod, other) = (host.lab.container("pod"), host.lab.container("other"));
        host.network("shop").await;
        host.network("bank").await;
        let in_bank = |container: &Container| Attach { network: "bank".to_owned(), ..request(container, "main") };
        let first = attach(&host, &pod, "main").await;
        // Nothing is waited for: what was just written counts, seen or not.
        let elsewhere = host.control().attach(in_bank(&other)).await.expect("attached");
        let own = host.control().attach(in_bank(&pod)).await.expect("attached");
        assert_eq!([&first, &elsewhere, &own].map(|attached| attached.member.number.get()), [1, 2, 1]);
        assert_eq!(attach(&host, &other, "main").await.member.number.get(), 2);
        for number in [1, 2] {
            for network in ["shop", "bank"] {
                assert!(host.control().detach(of_main(network, number)).await.expect("detached").detached);
            }
        }
        // The only container of its type, ten times: each ends without a word, and the next one comes at once.
        for round in 1..=10 {
            let process = ProcessSpace::start();
            let job = Container { name: "job".to_owned(), netns: process.netns(), path: process.path() };
            for network in ["shop", "bank"] {
                let request = Attach { network: network.to_owned(), ..request(&job, "job") };
                let attached = host.control().attach(request).await.expect("attached");
                assert_eq!(attached.member.number.get(), 1, "round {round} in {network}");
            }
            drop(job);
            process.end();
        }
        let (one, two) = (host.lab.container("one"), host.lab.container("two"));
        assert_eq!(attach(&host, &one, "job").await.member.number.get(), 1);
        assert_eq!(attach(&host, &two, "job").await.member.number.get(), 2, "the first one lives");
    });
}

/// Whichever comes first: what stands in the end can talk.
#[test]
fn an_attach_that_meets_a_detach_of_the_same_namespace_waits_for_its_end() {
    runtime().block_on(async {
        let host = Host::start().await;
        let (pod, peer) = (host.lab.container("pod"), host.lab.container("peer"));
        host.network("shop").await;
        attach(&host, &peer, "peer").await;
        for round in 0..5 {
            let before = attach(&host, &pod, "main").await;
            let (kind, control) = (["main", "side"][round % 2], host.control());
            let (detached, attached) = tokio::join!(control.detach(of_main("shop", 1)), attach(&host, &pod, kind));
            assert!(detached.expect("detached").detached);
            let stands = names(&host, &attached).await;
            say(&format!(
                "{} at {}, then {kind} at {}: {stands:?}",
                before.member.number, before.member.address, attached.member.address
            ));
            if !stands.is_empty() {
                assert!(pod.run("ip link show wg0").status.success(), "no interface is left from before");
                Ping::start(&peer, attached.member.address, 5).loses_nothing();
                host.detach("shop", kind).await;
            }
        }
        host.detach("shop", "peer").await;
    });
}

/// A pod: two processes share a namespace, and each is attached by its own path.
#[test]
fn a_container_that_dies_takes_its_own_name_along_and_not_its_neighbours_network() {
    if !has_program("dig") {
        return skip("dig");
    }
    runtime().block_on(async {
        let host = Host::start().await;
        let peer = host.lab.container("peer");
        host.network("shop").await;
        attach(&host, &peer, "peer").await;
        let process = ProcessSpace::start();
        let main = Container { name: "main".to_owned(), netns: process.netns(), path: process.path() };
        let attached = attach(&host, &main, "main").await;
        // The sidecar's own path: another process in the same namespace.
        let mut sidecar = Command::new("nsenter")
            .args([&format!("--net={}", main.path.display()), "sleep", "1000000"])
            .spawn()
            .expect("nsenter starts");
        let path = std::path::PathBuf::from(format!("/proc/{}/ns/net", sidecar.id()));
        wait_until("the sidecar is in the namespace", || {
            privnet::netns::Netns::identify(&path).is_ok_and(|id| id == main.netns.id())
        });
        let side = Container { name: "side".to_owned(), netns: process.netns(), path };
        assert_eq!(attach(&host, &side, "side").await.member.address, attached.member.address);
        drop(main);
        process.end();
        wait_until("the name of the one that died is gone", || asks(&peer, &name("main")).is_empty());
        assert_eq!(asks(&peer, &name("side")), [attached.member.address.to_string()]);
        wait_until("the address stands for the other", || pointer(&peer, &attached)[0].starts_with("1.side."));
        Ping::start(&peer, attached.member.address, 20).loses_nothing();
        assert_eq!(names(&host, &attached).await, ["1.side"]);
        drop(side);
        sidecar.kill().expect("it ran");
        sidecar.wait().expect("it has ended");
        wait_until("its name is gone as well", || asks(&peer, &name("side")).is_empty());
        until("its membership has ended", async || names(&host, &attached).await.is_empty()).await;
        host.detach("shop", "peer").await;
    });
}
