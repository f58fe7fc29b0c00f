//! Names as the agent keeps them: there when an attach returns, gone when a detach does, answered while agents come and go.
//!
//! ```text
//! one host:  containers a, b (in shop) and c (in bank), each with 127.0.0.82:53
//!            agent ──tells──▶ DNS process ◀──asks── a, b, c
//! ```
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "what was measured is part of the transcript")]

mod names_lab;

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use names_lab::{APP, Container, Lab, SUFFIX, has, runtime, wait_until};
use privnet::agent::views::{Attach, Attached, CreateNetwork, Detach, Target};
use privnet::agent::{Agent, Config, Control, DatapathChoice, NamesConfig};
use privnet::dns::{DEFAULT_ADDRESS, DnsProcess};
use privnet::netns::{DEFAULT_DIR, Netns};
use privnet::topology::Datapath;
use privnet::wireguard::Choice;
use rustix::process::{Pid, Signal, kill_process};

/// An agent on a kernel of its own, as far as it can tell.
struct Host {
    lab: Lab,
    agent: Option<Agent>,
    prefix: String,
    netns: Netns,
}

impl Host {
    async fn start() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let prefix = format!("na{}-{}-", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let mut lab = Lab::new();
        let netns = lab.container("host").netns;
        let mut host = Self { lab, agent: None, prefix, netns };
        host.restart().await;
        host
    }

    fn state(&self) -> PathBuf {
        self.lab.directory.path().join("state")
    }

    fn process(&self) -> DnsProcess {
        DnsProcess::new(&self.state().join("dns-0"))
    }

    /// Ends the agent, as abruptly as a drop can, and starts the next one.
    async fn restart(&mut self) {
        drop(self.agent.take());
        let config = Config {
            host: "one".parse().expect("a name"),
            vtep: Some([127, 0, 0, 1].into()),
            host_netns: self.netns.clone(),
            netns_dir: DEFAULT_DIR.into(),
            netns_prefix: self.prefix.clone(),
            bpffs_dir: PathBuf::from("/sys/fs/bpf").join(&self.prefix),
            state_dir: self.state(),
            // The carrier is not what is tested here.
            datapath: DatapathChoice::Only(Datapath::Bridge),
            wireguard: Choice::Userspace,
            wireguard_binary: env!("CARGO_BIN_EXE_wireguard_process").into(),
            names: Some(NamesConfig::new(env!("CARGO_BIN_EXE_dns_process").into())),
        };
        // The store and the lock of the one before go with its last task.
        let mut last = None;
        for _ in 0..500 {
            match Agent::start_embedded(config.clone()).await {
                Ok(agent) => {
                    self.agent = Some(agent);
                    return;
                }
                Err(error) => last = Some(error),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the agent does not start: {last:?}");
    }

    fn control(&self) -> Control {
        self.agent.as_ref().expect("it runs").control()
    }

    async fn network(&self, name: &str) {
        let request = CreateNetwork { name: name.to_owned(), subnet: None };
        self.control().create_network(request).await.expect("created");
    }

    async fn attach(&self, container: &Container, network: &str, kind: &str) -> Attached {
        let request = Attach {
            network: network.to_owned(),
            app: APP.to_owned(),
            kind: Some(kind.to_owned()),
            number: None,
            address: None,
            target: Target::Netns(container.path.clone()),
            ports: vec!["http=8080".to_owned()],
        };
        self.control().attach(request).await.expect("attached")
    }

    async fn detach(&self, network: &str, kind: &str) {
        let request =
            Detach { network: network.to_owned(), app: APP.to_owned(), kind: Some(kind.to_owned()), number: None };
        assert!(self.control().detach(request).await.expect("detached").detached);
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        drop(self.agent.take());
        let dirs = ["dns-0", "dns-1"].map(|name| self.state().join(name));
        let stop = || dirs.iter().for_each(|dir| drop(runtime().block_on(DnsProcess::new(dir).stop())));
        std::thread::scope(|scope| scope.spawn(stop).join().is_ok());
        for pin in Netns::list(DEFAULT_DIR.as_ref()).unwrap_or_default() {
            if pin.name.starts_with(&self.prefix) {
                let _ = Netns::remove(DEFAULT_DIR.as_ref(), &pin.name);
            }
        }
        let _ = std::fs::remove_dir_all(PathBuf::from("/sys/fs/bpf").join(&self.prefix));
    }
}

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
    if !has("dig") {
        return;
    }
    runtime().block_on(async {
        let mut host = Host::start().await;
        let (a, b, c) = (host.lab.container("a"), host.lab.container("b"), host.lab.container("c"));
        host.network("shop").await;
        host.network("bank").await;
        let backend = host.attach(&a, "shop", "backend").await;
        let name = |kind: &str, network: &str| format!("{kind}.{APP}.{network}.{SUFFIX}");
        let nothing: [String; 0] = [];
        // No waiting: the attach has returned.
        assert_eq!(addresses(&a, &name("backend", "shop")), [backend.address.to_string()]);
        assert!(backend.resolv_conf.as_ref().is_some_and(|text| text.contains("nameserver 127.0.0.82\n")));
        let web = host.attach(&b, "shop", "web").await;
        let teller = host.attach(&c, "bank", "teller").await;
        for container in [&a, &b] {
            assert_eq!(addresses(container, &name("web", "shop")), [web.address.to_string()]);
            assert_eq!(addresses(container, &name("teller", "bank")), nothing);
        }
        assert_eq!(addresses(&c, &name("teller", "bank")), [teller.address.to_string()]);
        assert_eq!(addresses(&c, &name("web", "shop")), nothing);
        // In both, a container sees both.
        host.attach(&c, "shop", "teller").await;
        assert_eq!(addresses(&c, &name("web", "shop")), [web.address.to_string()]);
        assert_eq!(addresses(&c, &name("teller", "bank")), [teller.address.to_string()]);
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
fn a_container_that_dies_takes_its_name_along() {
    if !has("dig") {
        return;
    }
    runtime().block_on(async {
        let mut host = Host::start().await;
        let a = host.lab.container("a");
        host.network("shop").await;
        host.attach(&a, "shop", "web").await;
        let mut process = Command::new("unshare").args(["--net", "sleep", "1000"]).spawn().expect("unshare starts");
        let path = PathBuf::from(format!("/proc/{}/ns/net", process.id()));
        let own = Netns::current().expect("there").id();
        wait_until("it has its namespace", || Netns::identify(&path).is_ok_and(|id| id != own));
        let b = Container { name: "b".to_owned(), netns: Netns::open(&path).expect("there"), path };
        let job = host.attach(&b, "shop", "job").await;
        let name = format!("job.{APP}.shop.{SUFFIX}");
        assert_eq!(addresses(&a, &name), [job.address.to_string()]);
        drop(b);
        process.kill().expect("killed");
        process.wait().expect("dead");
        let death = Instant::now();
        wait_until("its name is gone", || addresses(&a, &name).is_empty());
        println!("a name was gone {:?} after its container's death", death.elapsed());
        assert!(death.elapsed() < Duration::from_secs(3));
        host.detach("shop", "web").await;
    });
}

fn ask_constantly(container: &Container, name: &str, lab: &Lab, seconds: u32) -> Child {
    let queries = lab.directory.path().join("queries");
    std::fs::write(&queries, format!("{name} A\n{name} AAAA\n1.{name} A\nx.{name} A\n")).expect("written");
    Command::new("nsenter")
        .arg(format!("--net={}", container.path.display()))
        .args(["dnsperf", "-s", &DEFAULT_ADDRESS.to_string(), "-d"])
        .arg(&queries)
        .args(["-l", &seconds.to_string(), "-Q", "1000", "-t", "5"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("dnsperf starts")
}

#[test]
fn twenty_agents_one_after_the_other_and_not_a_query_lost() {
    const SECONDS: u32 = 15;
    if !has("dnsperf") {
        return;
    }
    runtime().block_on(async {
        let mut host = Host::start().await;
        let a = host.lab.container("a");
        host.network("shop").await;
        host.attach(&a, "shop", "web").await;
        let dnsperf = ask_constantly(&a, &format!("web.{APP}.shop.{SUFFIX}"), &host.lab, SECONDS);
        let start = Instant::now();
        for _ in 0..20 {
            host.restart().await;
            // Long enough for the agent to find the process and to tell it all.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let lived = start.elapsed();
        let output = dnsperf.wait_with_output().expect("dnsperf ends");
        let report = String::from_utf8_lossy(&output.stdout);
        let line = |what: &str| report.lines().find(|line| line.contains(what)).unwrap_or_default().trim().to_owned();
        println!("20 agents in {lived:?}: {}, {}", line("Queries sent"), line("Queries lost"));
        println!("{}", line("Response codes"));
        assert!(lived < Duration::from_secs(SECONDS.into()), "the queries ended before the agents did");
        assert!(line("Queries lost").contains(" 0 ("), "{report}");
        assert!(!line("Response codes").contains("SERVFAIL"), "{report}");
        host.detach("shop", "web").await;
    });
}

#[test]
fn a_process_that_is_killed_is_back_soon() {
    if !has("dig") {
        return;
    }
    runtime().block_on(async {
        let mut host = Host::start().await;
        let a = host.lab.container("a");
        host.network("shop").await;
        let web = host.attach(&a, "shop", "web").await;
        let pid = host.process().observe().await.expect("it answers").expect("it runs").pid;
        let pid = Pid::from_raw(i32::try_from(pid).expect("a pid")).expect("not 0");
        kill_process(pid, Signal::KILL).expect("it runs");
        let death = Instant::now();
        wait_until("names are answered again", || {
            addresses(&a, &format!("web.{APP}.shop.{SUFFIX}")) == [web.address.to_string()]
        });
        println!("a killed DNS process was back after {:?}", death.elapsed());
        assert!(death.elapsed() < Duration::from_secs(3));
        host.detach("shop", "web").await;
    });
}

#[test]
fn a_name_is_visible_within_a_tenth_of_a_second_of_its_attach() {
    runtime().block_on(async {
        let mut host = Host::start().await;
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
        assert!(waits[19].0 < Duration::from_millis(100));
    });
}
