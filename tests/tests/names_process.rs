//! The life of the DNS process: its start, the agent's absence, replacement under load, the containers' ends, its own.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "what was measured is part of the transcript")]

mod names_lab;

use std::net::UdpSocket;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::time::{Duration, Instant};

use names_lab::{APP, Asking, BANK, Container, Lab, SHOP, SUFFIX, catalogue, client};
use privnet::companion::{BinaryId, Program, Standing};
use privnet::dns::{DEFAULT_ADDRESS, Dns, Error, Sockets, Source};
use privnet::names::{Catalogue, Difference};
use privnet::netns::{DEFAULT_DIR, Netns};
use privnet_tests::lab::{ProcessSpace, has_program, run, runtime, skip, wait_until};
use privnet_tests::soak::Soak;
use rustix::process::{Pid, Signal, kill_process};

/// How long the process may take to notice that a pin is gone: it looks every two seconds.
const NOTICE: Duration = Duration::from_secs(5);

fn name() -> String {
    format!("{APP}.{SHOP}.{SUFFIX}")
}

/// Asks once by UDP in the container; whether an answer with addresses comes back in time.
fn answers(container: &Container, name: &str, patience: Duration) -> bool {
    let mut query = vec![0x12, 0x67, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        query.push(u8::try_from(label.len()).expect("short"));
        query.extend_from_slice(label.as_bytes());
    }
    query.extend_from_slice(&[0, 0, 1, 0, 1]);
    let ask = move || {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("bound");
        socket.set_read_timeout(Some(patience)).expect("set");
        socket.connect((DEFAULT_ADDRESS, 53)).expect("connected");
        let mut reply = [0; 1500];
        socket.send(&query).is_ok() && socket.recv(&mut reply).is_ok() && reply[3] & 0xf == 0 && reply[7] > 0
    };
    container.netns.run_blocking(ask).expect("the namespace's thread")
}

fn pid_of(lab: &Lab) -> u32 {
    runtime().block_on(lab.dns.observe()).expect("it answers").expect("it runs").identity.pid
}

#[test]
fn a_process_serves_what_it_is_told_and_tells_what_it_has() {
    let lab = Lab::serving(3);
    let container = lab.served("a", &[SHOP]);
    assert!(answers(&container, &name(), Duration::from_secs(2)));
    runtime().block_on(async {
        let state = lab.dns.observe().await.expect("it answers").expect("it runs");
        assert_eq!((state.networks, state.members, state.is_stale), (2, 4, false));
        assert_eq!(state.containers.len(), 1);
        assert_eq!(state.containers[0].client, client(&[SHOP]));
        assert!(state.age_seconds.is_some_and(|age| age < 5.0));
        let noerror = state.counted.replies.iter().find(|row| row.transport == "udp" && row.rcode == "noerror");
        assert_eq!(noerror.map(|row| row.count), Some(1));

        let id = container.netns.id();
        let told = lab.dns.resolve(id, &format!("1.web.{}", name()), 1).await.expect("resolved");
        assert_eq!(told.records, [format!("1.web.{}. 5 A 10.240.0.2", name())]);
        let told = lab.dns.resolve(id, "example.org", 1).await.expect("resolved");
        assert!(matches!(told.source, Source::Forwarded(_)));

        lab.dns.change(id, &client(&[BANK]), &[]).await.expect("changed");
        let told = lab.dns.resolve(id, &name(), 1).await.expect("resolved");
        assert_eq!(told.rcode.as_deref(), Some("nxdomain"));
        lab.dns.forget(id).await.expect("forgotten");
        lab.dns.forget(id).await.expect("forgotten before");
        let gone = lab.dns.resolve(id, &name(), 1).await.expect_err("it is not served");
        assert!(matches!(gone, Error::NotServed { .. }), "{gone}");
    });
    assert!(!answers(&container, &name(), Duration::from_millis(200)));
}

#[test]
fn a_difference_is_told_alone_and_everything_replaces_it() {
    let lab = Lab::serving(1);
    let container = lab.served("a", &[SHOP]);
    let id = container.netns.id();
    let addresses = async |lab: &Lab| lab.dns.resolve(id, &name(), 1).await.expect("resolved").records.len();
    runtime().block_on(async {
        assert_eq!(addresses(&lab).await, 1);
        lab.dns.tell(false, Difference::between(&catalogue(1), &catalogue(5))).await.expect("told");
        assert_eq!(addresses(&lab).await, 5);
        lab.dns.tell(true, Difference::between(&Catalogue::new(), &catalogue(2))).await.expect("told");
        assert_eq!(addresses(&lab).await, 2);
        lab.dns.confirm().await.expect("confirmed");
    });
}

/// What the kernel keeps for a socket by default is about 160 questions.
#[test]
fn a_burst_that_comes_while_the_process_is_not_scheduled_is_answered_whole() {
    const BURST: usize = 300;
    let lab = Lab::serving(1);
    let container = lab.served("a", &[SHOP]);
    let pid = Pid::from_raw(i32::try_from(pid_of(&lab)).expect("a pid")).expect("not 0");
    let ask = move || {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("bound");
        socket.connect((DEFAULT_ADDRESS, 53)).expect("connected");
        socket.set_read_timeout(Some(Duration::from_secs(2))).expect("set");
        // The replies come as a burst too, and it is not this side that is tested.
        rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, 1 << 20).expect("root may");
        kill_process(pid, Signal::STOP).expect("it runs");
        for id in 0..u16::try_from(BURST).expect("few") {
            let mut query = id.to_be_bytes().to_vec();
            query.extend_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
            // Of about the length that a name has.
            query.extend_from_slice(&[63; 64]);
            query.extend_from_slice(&[0, 0, 1, 0, 1]);
            socket.send(&query).expect("sent");
        }
        kill_process(pid, Signal::CONT).expect("it is stopped");
        let mut reply = [0; 1500];
        (0..BURST).take_while(|_| socket.recv(&mut reply).is_ok()).count()
    };
    assert_eq!(container.netns.run_blocking(ask).expect("the namespace's thread"), BURST);
}

#[test]
fn where_no_process_is_nothing_is_observed_and_a_second_one_does_not_start() {
    let lab = Lab::new();
    runtime().block_on(async {
        assert_eq!(lab.dns.observe().await.expect("absent is no error"), None);
        let absent = lab.dns.confirm().await.expect_err("nobody is there");
        assert!(matches!(&absent, Error::Companion(error) if error.is_absent()), "{absent}");
        lab.dns.stop().await.expect("done already");
        lab.dns.start(&lab.spec()).await.expect("it starts");
        let second = lab.dns.start(&lab.spec()).await.expect_err("the first has the directory").to_string();
        assert!(second.contains("runs already"), "{second}");
        assert!(lab.dns.observe().await.expect("it answers").is_some(), "the first goes on");
        lab.dns.stop().await.expect("it ends");
        assert_eq!(lab.dns.observe().await.expect("absent is no error"), None);
        assert!(!lab.ground.directory().join("dns").exists(), "nothing is left");
    });
}

#[test]
fn a_container_whose_port_is_taken_is_told_so_and_another_is_served() {
    let lab = Lab::serving(3);
    let (taken, free) = (lab.container("a"), lab.container("b"));
    let socket = taken.netns.run_blocking(|| UdpSocket::bind((DEFAULT_ADDRESS, 53))).expect("ran").expect("bound");
    runtime().block_on(async {
        let refused = lab.serve(&taken, &[SHOP]).await.expect_err("taken");
        assert!(matches!(refused, Error::AddressTaken { .. }), "{refused}");
        lab.serve(&free, &[SHOP]).await.expect("served");
        drop(socket);
        lab.serve(&taken, &[SHOP]).await.expect("served, as soon as it is free");
    });
    assert!(answers(&taken, &name(), Duration::from_secs(2)));
}

#[test]
fn a_socket_may_be_older_than_its_loopback() {
    let lab = Lab::serving(3);
    let container = lab.container("down");
    run(&format!("ip -n {} link set lo down", container.name));
    runtime().block_on(lab.serve(&container, &[SHOP])).expect("served");
    run(&format!("ip -n {} link set lo up", container.name));
    assert!(answers(&container, &name(), Duration::from_secs(2)));
}

#[test]
fn a_container_that_ends_is_forgotten_and_its_namespace_goes() {
    let lab = Lab::serving(3);
    // One known by its pin, one by its process; a third stays.
    let stays = lab.served("stays", &[SHOP]);
    let sockets_of_one = sockets_of(pid_of(&lab));
    let pinned = lab.served("pinned", &[SHOP]);
    let process = ProcessSpace::start();
    let running = Container { name: "running".to_owned(), netns: process.netns(), path: process.path() };
    runtime().block_on(lab.serve(&running, &[SHOP])).expect("served");
    let served = || runtime().block_on(lab.dns.observe()).expect("it answers").expect("it runs").containers.len();
    assert_eq!(served(), 3);

    process.end();
    let start = Instant::now();
    wait_until("the container without a process is forgotten", || served() == 2);
    println!("a container whose process ended was forgotten after {:?}", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(1));

    let pin = pinned.path.file_name().and_then(|name| name.to_str()).expect("text").to_owned();
    Netns::remove(Path::new(DEFAULT_DIR), &pin).expect("removed");
    let start = Instant::now();
    wait_until("the container without a pin is forgotten", || served() == 1);
    assert!(start.elapsed() < NOTICE);
    assert!(answers(&stays, &name(), Duration::from_secs(2)), "the third is served");
    // What keeps a namespace is a process in it, a mount of it, or a socket: of these three, none is left.
    assert_eq!(sockets_of(pid_of(&lab)), sockets_of_one, "its sockets are of the third container alone");
}

/// How many sockets a process has open that are not unix sockets.
fn sockets_of(pid: u32) -> usize {
    let unix = std::fs::read_to_string(format!("/proc/{pid}/net/unix")).expect("readable");
    let is_internet = |link: &str| {
        let inode = link.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']'));
        inode.is_some_and(|inode| !unix.lines().any(|line| line.split_whitespace().nth(6) == Some(inode)))
    };
    let files = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("readable").flatten();
    files.filter_map(|file| std::fs::read_link(file.path()).ok()).filter(|l| is_internet(&l.to_string_lossy())).count()
}

#[test]
fn a_killed_process_is_started_again_and_serves_the_same_containers() {
    let lab = Lab::serving(3);
    let container = lab.served("a", &[SHOP]);
    let pid = Pid::from_raw(i32::try_from(pid_of(&lab)).expect("a pid")).expect("not 0");
    kill_process(pid, Signal::KILL).expect("it runs");
    runtime().block_on(async {
        wait_until("it is gone", || rustix::process::test_kill_process(pid).is_err());
        assert_eq!(lab.dns.observe().await.expect("absent is no error"), None);
        lab.dns.start(&lab.spec()).await.expect("the next one starts over its files");
        lab.dns.tell(true, Difference::between(&Catalogue::new(), &catalogue(3))).await.expect("told");
        lab.serve(&container, &[SHOP]).await.expect("the port is free again");
    });
    assert!(answers(&container, &name(), Duration::from_secs(2)));
}

#[test]
fn the_process_has_no_privilege_and_nobody_else_may_ask_it() {
    use std::os::unix::fs::PermissionsExt as _;
    let lab = Lab::serving(3);
    let pid = pid_of(&lab);
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("readable");
    for line in ["CapEff:\t0000000000000000", "CapPrm:\t0000000000000000", "NoNewPrivs:\t1"] {
        assert!(status.contains(line), "{line}");
    }
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).expect("readable").flatten() {
        let status = std::fs::read_to_string(task.path().join("status")).expect("readable");
        assert!(status.contains("CapEff:\t0000000000000000"), "a thread kept its privileges");
    }
    let mode = |path: &str| {
        let found = std::fs::metadata(lab.ground.directory().join(path)).expect("there");
        found.permissions().mode() & 0o777
    };
    assert_eq!(mode("dns"), 0o700);
    assert_eq!(mode("dns/control.sock") & 0o077, 0);
}

/// Two processes take turns with the same sockets while `dnsperf` asks.
#[test]
fn a_process_that_is_replaced_under_load_loses_no_query() {
    if !has_program("dnsperf") {
        return skip("dnsperf");
    }
    let lab = Lab::serving(3);
    let container = lab.served("a", &[SHOP]);
    let questions = format!("{0} A\n1.web.{0} A\nx.{0} A\n_http._tcp.{0} SRV\n", name());
    let asking = Asking::start(&container, &lab.ground, &questions);
    let (soak, mut turns) = (Soak::of_rounds(500).or_after(Duration::from_secs(5), 20), 0);
    runtime().block_on(async {
        let (first, second) = (lab.dns.clone(), lab.another("dns-successor"));
        let everything = || Difference::between(&Catalogue::new(), &catalogue(3));
        while soak.goes_on(turns) {
            let (old, new) = if turns % 2 == 0 { (&first, &second) } else { (&second, &first) };
            new.start(&lab.spec()).await.expect("it starts");
            new.tell(true, everything()).await.expect("told");
            old.hand_over(new, |_| Some(container.path.clone())).await.expect("handed over");
            old.stop().await.expect("it ends");
            turns += 1;
        }
    });
    asking.all_are_answered();
    soak.tell(turns, "replacements");
}

/// The process of the build before, as it spoke: a message ended where the writing side was shut, the handshake was unknown,
/// and sockets came as descriptors with the answer's first octet. Ends when it has given them.
fn serve_as_before(
    socket: &Path,
    sockets: (UdpSocket, std::net::TcpListener),
    netns: privnet::netns::NetnsId,
) -> std::thread::JoinHandle<()> {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
    use std::io::{IoSlice, Read as _};
    use std::os::fd::AsFd as _;
    let listener = std::os::unix::net::UnixListener::bind(socket).expect("bound");
    let id = format!(r#"{{"dev":{},"ino":{}}}"#, netns.dev, netns.ino);
    let client = format!(r#"{{"networks":["{SHOP}"],"server":"{DEFAULT_ADDRESS}"}}"#);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut request = String::new();
            stream.read_to_string(&mut request).expect("a request");
            let request = request.trim_end();
            let is_for_sockets = request == format!(r#"{{"version":1,"request":{{"sockets":{{"container":{id}}}}}}}"#);
            let answer = if is_for_sockets {
                r#""sockets""#.to_owned()
            } else if request == r#"{"version":1,"request":"observe"}"# {
                format!(
                    r#"{{"state":{{"pid":7,"binary_version":"0.1.0","binary":null,"started_unix_seconds":1,"containers":[{{"container":{id},"asker":{client}}}],"networks":1,"members":3,"age_seconds":0.5,"is_stale":false,"counted":{{"replies":[],"silence":0,"truncated":0,"stale":0,"forwarded":0,"unanswered":0,"over_budget":0,"send_failures":0,"connections_refused":0}}}}}}"#
                )
            } else {
                r#"{"refused":{"problem":"the request is invalid: unknown variant"}}"#.to_owned()
            };
            let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            let files = [sockets.0.as_fd(), sockets.1.as_fd()];
            assert!(!is_for_sockets || control.push(SendAncillaryMessage::ScmRights(&files)));
            let slices = [IoSlice::new(answer.as_bytes())];
            rustix::net::sendmsg(&stream, &slices, &mut control, SendFlags::NOSIGNAL).expect("answered");
            if is_for_sockets {
                return;
            }
        }
    })
}

#[test]
fn a_process_of_the_build_before_hands_its_containers_over() {
    let lab = Lab::new();
    let container = lab.container("a");
    let before = lab.another("dns-before");
    let dir = lab.ground.directory().join("dns-before");
    std::fs::create_dir(&dir).expect("made");
    runtime().block_on(async {
        let sockets = Sockets::open(&container.netns, DEFAULT_ADDRESS).await.expect("opened");
        let old = serve_as_before(&dir.join("control.sock"), sockets.into(), container.netns.id());
        assert!(!answers(&container, &name(), Duration::from_millis(200)), "the process of the test answers no query");
        let program = Program { path: lab.spec().binary, id: BinaryId::of(&lab.spec().binary) };
        let found = Standing::<Dns>::of([&dir, &lab.ground.directory().join("dns")], &program).await.expect("answered");
        assert!(matches!(found, Standing::Replace { hands_over: true, .. }), "{found:?}");
        lab.dns.start(&lab.spec()).await.expect("it starts");
        lab.dns.tell(true, Difference::between(&Catalogue::new(), &catalogue(3))).await.expect("told");
        before.hand_over(&lab.dns, |_| Some(container.path.clone())).await.expect("handed over");
        old.join().expect("it gave its sockets");
    });
    assert!(answers(&container, &name(), Duration::from_secs(60)));
    let dirs = [lab.ground.directory().join("dns"), lab.ground.directory().join("none")];
    let program = Program { path: lab.spec().binary, id: BinaryId::of(&lab.spec().binary) };
    let found = runtime().block_on(Standing::<Dns>::of([&dirs[0], &dirs[1]], &program)).expect("answered");
    assert!(matches!(found, Standing::Current(_)), "the twin: {found:?}");
}

/// The sockets stay usable in this process as well, so that the lab can tell them apart.
#[test]
fn sockets_are_bound_in_the_containers_namespace_and_nowhere_else() {
    let lab = Lab::new();
    let container = lab.container("a");
    let sockets = runtime().block_on(Sockets::open(&container.netns, DEFAULT_ADDRESS)).expect("opened");
    let (udp, tcp): (UdpSocket, std::net::TcpListener) = sockets.into();
    assert_eq!(udp.local_addr().expect("bound").to_string(), format!("{DEFAULT_ADDRESS}:53"));
    assert_eq!(tcp.local_addr().expect("bound").to_string(), format!("{DEFAULT_ADDRESS}:53"));
    assert!(udp.as_raw_fd() != tcp.as_raw_fd());
    assert!(UdpSocket::bind((DEFAULT_ADDRESS, 53)).is_ok(), "here it is free");
}
