//! The containers' `resolv.conf`: written from all networks, and put back with the last one.
//!
//! ```text
//! one host:  containers a, b, each with 127.0.0.82:53 and a file that the agent writes for root
//! ```
#![forbid(unsafe_code)]

mod names_lab;

use std::fs;
use std::net::UdpSocket;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;

use names_lab::host::{Host, file};
use names_lab::{APP, Container, SUFFIX};
use privnet::agent::AgentApi as _;
use privnet::agent::views::{Attach, Attached, ProblemView, ResolvConfFile, ResolveQuery, Target};
use privnet::dns::DEFAULT_ADDRESS;
use privnet_tests::lab::{ProcessSpace, runtime, wait_until};
use rustix::fs::{CWD, Mode, mkfifoat};

/// What stands in a file before.
const BEFORE: &str = "# of the runtime\nnameserver 192.0.2.53\nsearch example.com\n";

fn read(path: &Path) -> String {
    fs::read_to_string(path).expect("read")
}

/// What the agent writes for a container in these networks.
fn ours(domains: &[String]) -> String {
    let domains: Vec<String> = domains.iter().map(|domain| format!("{domain}.{SUFFIX}")).collect();
    format!("# Written by privnet.\nnameserver {DEFAULT_ADDRESS}\nsearch {}\noptions ndots:5\n", domains.join(" "))
}

/// The ids of the networks of these members.
fn ids(members: &[&Attached]) -> Vec<String> {
    members.iter().map(|member| member.network.to_string()).collect()
}

/// The one problem, with this file.
fn one_problem<'a>(problems: &'a [ProblemView], file: &Path) -> &'a ProblemView {
    let [problem] = problems else { panic!("{problems:?}") };
    assert_eq!(problem.what, file.display().to_string());
    assert!(!problem.remedy.is_empty(), "{problem:?}");
    problem
}

#[test]
fn the_file_says_all_networks_of_its_container_and_what_stood_there_comes_back_with_the_last() {
    runtime().block_on(async {
        let mut host = Host::start().await;
        for network in ["shop", "bank", "mail"] {
            host.network(network).await;
        }
        // One that existed, as a runtime makes it, and one that did not.
        for (name, before) in [("there", Some(BEFORE)), ("none", None), ("empty", Some(""))] {
            let container = host.lab.container(name);
            let path = file(&host, name, before);
            let inode = || fs::metadata(&path).expect("there").ino();
            let first = before.map(|_| inode());
            let shop = host.attach_with(&container, "shop", "web", &path).await;
            assert_eq!((&shop.problems[..], shop.ready), (&[][..], true));
            assert_eq!(read(&path), ours(&ids(&[&shop])));
            assert_eq!(shop.resolv_conf, Some(read(&path)));
            assert!(first.is_none_or(|first| first == inode()), "a mount follows the inode");
            // The others do not name the file: it is the container's.
            let bank = host.attach(&container, "bank", "web").await;
            assert_eq!(read(&path), ours(&ids(&[&shop, &bank])));
            assert_eq!(bank.resolv_conf, Some(read(&path)));
            host.restart().await;
            assert_eq!(read(&path), ours(&ids(&[&shop, &bank])), "the next agent");
            host.attach(&container, "mail", "web").await;
            assert_eq!(read(&path), ours(&["shop", "bank", "mail"].map(str::to_owned)), "by name, from three on");
            host.detach("shop", "web").await;
            host.restart().await;
            host.detach("mail", "web").await;
            assert_eq!(read(&path), ours(&ids(&[&bank])));
            host.detach("bank", "web").await;
            assert_eq!(fs::read_to_string(&path).ok().as_deref(), before, "{name}");
            // Once more, from the beginning.
            host.attach_with(&container, "bank", "web", &path).await;
            assert_eq!(read(&path), ours(&ids(&[&bank])));
            host.detach("bank", "web").await;
            assert_eq!(fs::read_to_string(&path).ok().as_deref(), before, "{name}");
        }
        let left = fs::read_dir(host.state().join("resolv-conf")).expect("listed").count();
        assert_eq!(left, 0, "of files that were put back nothing is kept");
    });
}

#[test]
fn a_container_that_dies_gets_its_file_back_also_while_no_agent_runs() {
    runtime().block_on(async {
        let mut host = Host::start().await;
        host.network("shop").await;
        let (path, other) = (file(&host, "dies", Some(BEFORE)), file(&host, "dies-unseen", Some(BEFORE)));
        let process = ProcessSpace::start();
        let dying = Container { name: "b".to_owned(), netns: process.netns(), path: process.path() };
        host.attach_with(&dying, "shop", "job", &path).await;
        assert_ne!(read(&path), BEFORE);
        drop(dying);
        process.end();
        wait_until("the file is back", || read(&path) == BEFORE);

        let process = ProcessSpace::start();
        let dying = Container { name: "c".to_owned(), netns: process.netns(), path: process.path() };
        host.attach_with(&dying, "shop", "job", &other).await;
        drop(dying);
        host.stop();
        process.end();
        assert_ne!(read(&other), BEFORE);
        host.restart().await;
        wait_until("the next agent puts it back", || read(&other) == BEFORE);
    });
}

#[test]
fn what_was_cut_short_is_finished_and_what_another_program_wrote_stays() {
    runtime().block_on(async {
        let mut host = Host::start().await;
        host.network("shop").await;
        host.network("bank").await;
        let container = host.lab.container("a");
        let long = format!("{BEFORE}{}", "# a long line of a runtime\n".repeat(20));
        let path = file(&host, "a", Some(&long));
        let shop = host.attach_with(&container, "shop", "web", &path).await;
        let written = read(&path);
        // The agent died between the record and the write, and between the write and the end of the file.
        for torn in [long.clone(), format!("{written}{}", &long[written.len()..])] {
            host.stop();
            fs::write(&path, &torn).expect("written");
            host.restart().await;
            assert_eq!(read(&path), written, "the next agent finishes it");
        }
        // Another program's: the second network's attach does not touch it, and says so.
        let theirs = "nameserver 192.0.2.9\n";
        fs::write(&path, theirs).expect("written");
        let bank = host.attach(&container, "bank", "web").await;
        assert!(bank.ready);
        assert!(one_problem(&bank.problems, &path).why.contains("another program"), "{:?}", bank.problems);
        assert_eq!(read(&path), theirs);
        // Told to, the agent writes it again, and that is what comes back.
        host.detach_with_problems("bank", "web").await;
        assert_eq!(read(&path), theirs);
        host.attach_with(&container, "bank", "web", &path).await;
        assert_eq!(read(&path), ours(&ids(&[&shop, &bank])));
        host.detach("bank", "web").await;
        host.detach("shop", "web").await;
        assert_eq!(read(&path), theirs);
        // Changed, and with our server in it still: detach says that it stays.
        host.attach_with(&container, "shop", "web", &path).await;
        let edited = format!("{}# by hand\n", read(&path));
        fs::write(&path, &edited).expect("written");
        let left = host.detach_with_problems("shop", "web").await;
        assert!(one_problem(&left, &path).why.contains("no longer answers"), "{left:?}");
        assert_eq!(read(&path), edited);
        // What an earlier attach left is no server of before.
        host.attach_with(&container, "shop", "web", &path).await;
        host.detach("shop", "web").await;
        assert_eq!(read(&path), "");
    });
}

#[test]
fn the_file_of_one_container_is_not_written_for_another() {
    runtime().block_on(async {
        let host = Host::start().await;
        host.network("shop").await;
        let (a, b) = (host.lab.container("a"), host.lab.container("b"));
        let path = file(&host, "a", Some(BEFORE));
        let hard = path.with_file_name("hard");
        fs::hard_link(&path, &hard).expect("linked");
        host.attach_with(&a, "shop", "web", &path).await;
        let written = read(&path);
        for shared in [&path, &hard] {
            let other = host.attach_with(&b, "shop", "job", shared).await;
            assert!(other.ready, "it is a member all the same");
            assert!(one_problem(&other.problems, shared).why.contains("another container"), "{:?}", other.problems);
            assert_eq!(read(&path), written);
            host.detach("shop", "job").await;
            assert_eq!(read(&path), written, "and its end is not the end of the file's container");
        }
        // The twin: once the first container has left, the file is free.
        host.detach("shop", "web").await;
        assert_eq!(read(&path), BEFORE);
        let other = host.attach_with(&b, "shop", "job", &hard).await;
        assert_eq!((&other.problems[..], read(&hard)), (&[][..], ours(&ids(&[&other]))));
        host.detach("shop", "job").await;
        assert_eq!(read(&path), BEFORE);
    });
}

#[test]
fn root_writes_a_regular_file_and_neither_through_a_link_nor_the_hosts_own() {
    runtime().block_on(async {
        let host = Host::start().await;
        host.network("shop").await;
        let container = host.lab.container("a");
        let (good, victim) = (file(&host, "good", Some(BEFORE)), file(&host, "victim", Some(BEFORE)));
        let of_host =
            host.resolv_conf.parent().expect("a directory").canonicalize().expect("there").join("host.resolv.conf");
        fs::write(&of_host, BEFORE).expect("written");
        let bad = |name: &str| file(&host, name, None);
        let (link, fifo, hosts, behind) = (bad("link"), bad("fifo"), bad("hosts"), bad("behind"));
        symlink(&victim, &link).expect("linked");
        mkfifoat(CWD, &fifo, Mode::RUSR | Mode::WUSR).expect("made");
        fs::hard_link(&of_host, &hosts).expect("linked");
        // As root of a container does it with a directory in its own file system.
        let directory = behind.parent().expect("a directory").join("etc");
        symlink(victim.parent().expect("a directory"), &directory).expect("linked");
        let missing = behind.with_file_name("nowhere").join("resolv.conf");
        for (path, why) in [
            (link, "symbolic link"),
            (directory.join("resolv.conf"), "symbolic link"),
            (fifo, "not a regular file"),
            (of_host.clone(), "host's own"),
            (hosts, "host's own"),
            (missing, "directory does not exist"),
        ] {
            let member = host.attach_with(&container, "shop", "web", &path).await;
            assert!(member.ready, "the attach succeeds");
            assert!(one_problem(&member.problems, &path).why.contains(why), "{:?}", member.problems);
            host.detach("shop", "web").await;
            assert_eq!((read(&victim), read(&of_host)), (BEFORE.to_owned(), BEFORE.to_owned()), "{}", path.display());
        }
        let member = host.attach_with(&container, "shop", "web", &good).await;
        assert_eq!((&member.problems[..], read(&good)), (&[][..], ours(&ids(&[&member]))), "the twin");
        host.detach("shop", "web").await;
    });
}

#[test]
fn where_names_are_not_answered_the_file_stays_and_the_attach_says_so() {
    runtime().block_on(async {
        let host = Host::start().await;
        host.network("shop").await;
        let container = host.lab.container("a");
        let path = file(&host, "a", Some(BEFORE));
        let taken =
            container.netns.run_blocking(|| UdpSocket::bind((DEFAULT_ADDRESS, 53))).expect("ran").expect("bound");
        let member = host.attach_with(&container, "shop", "web", &path).await;
        assert!(member.ready);
        let [file, names] = &member.problems[..] else { panic!("{:?}", member.problems) };
        assert!(one_problem(std::slice::from_ref(file), &path).why.contains("no name is answered"), "{file:?}");
        assert!(names.what.contains("1.web.") && names.why.contains("is taken"), "{names:?}");
        assert_eq!(read(&path), BEFORE);
        host.detach("shop", "web").await;
        drop(taken);
        let member = host.attach_with(&container, "shop", "web", &path).await;
        assert_eq!((&member.problems[..], read(&path)), (&[][..], ours(&ids(&[&member]))), "the twin");
        host.detach("shop", "web").await;
    });
}

#[test]
fn a_file_that_its_caller_writes_is_not_the_agents_and_detach_says_what_is_left() {
    runtime().block_on(async {
        let host = Host::start().await;
        host.network("shop").await;
        let container = host.lab.container("a");
        let path = file(&host, "a", Some(BEFORE));
        let attach = Attach {
            network: "shop".to_owned(),
            app: APP.to_owned(),
            kind: None,
            number: None,
            address: None,
            target: Target::Netns(container.path.clone()),
            ports: Vec::new(),
            resolv_conf: Some(ResolvConfFile {
                path: path.clone(),
                by_caller: true,
                before: Some("nameserver 127.0.0.11\n".to_owned()),
            }),
            attachment: None,
        };
        let member = host.control().attach(attach).await.expect("attached");
        assert_eq!((member.problems, read(&path)), (vec![], BEFORE.to_owned()));
        // The servers that it named are asked all the same.
        let query = ResolveQuery { name: "example.com".to_owned(), kind: None, asker: format!("1.web.{APP}") };
        let told = host.control().resolve(query).await.expect("resolved");
        assert!(told.reason.contains("127.0.0.11:53 are asked"), "{}", told.reason);
        let left = host.detach_with_problems("shop", "web").await;
        assert!(one_problem(&left, &path).why.contains("not root's"), "{left:?}");
        assert_eq!(read(&path), BEFORE);
        // The twin: root's file is put back, and nothing is left to say.
        host.attach_with(&container, "shop", "web", &path).await;
        host.detach("shop", "web").await;
        assert_eq!(read(&path), BEFORE);
    });
}
