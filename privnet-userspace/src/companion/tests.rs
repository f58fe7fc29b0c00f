//! A companion of a kind that the tests make up, and processes of the builds before this one, as they spoke.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Instant, SystemTime};

use serde::{Deserialize, Serialize};

use super::last_agent::LastAgent;
use super::protocol::{BinaryId, Given, Identity, Program, Protocol, Upgrade};
use super::{Cause, Found, Handle, RunDir, Service, Standing, serve};

#[derive(Debug)]
enum Kept {}
#[derive(Debug)]
enum Replaced {}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Request {
    Say(String),
    Fail,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Response {
    Said(String),
}

macro_rules! protocol {
    ($kind:ty, $upgrade:expr) => {
        impl Protocol for $kind {
            const NAME: &'static str = "the parrot";
            const COMMAND: &'static str = "parrot";
            const COMM: &'static std::ffi::CStr = c"parrot";
            const VERSION: u32 = 1;
            const MAX_MESSAGE_OCTETS: usize = 1000;
            const UPGRADE: Upgrade = $upgrade;
            type Start = ();
            type Request = Request;
            type Response = Response;
        }
    };
}
protocol!(Kept, Upgrade::KeepRunning);
protocol!(Replaced, Upgrade::HandOver);

/// Says again what it is told, and gives back the descriptors.
struct Parrot;

impl<P: Protocol<Start = (), Request = Request, Response = Response>> Service<P> for Parrot {
    async fn start(_: Identity, _: Given<P>) -> anyhow::Result<Self> {
        Ok(Self)
    }

    async fn respond(&mut self, request: Request, files: Vec<OwnedFd>) -> anyhow::Result<(Response, Vec<OwnedFd>)> {
        match request {
            Request::Say(text) => Ok((Response::Said(text), files)),
            Request::Fail => anyhow::bail!("no"),
        }
    }

    async fn reason_to_end(&mut self) -> &'static str {
        std::future::pending().await
    }

    async fn end(self) {}
}

/// No agent lives: this process is none to itself.
fn without_agent() -> LastAgent {
    LastAgent::of(&tokio::net::UnixStream::pair().expect("a pair").0)
}

/// A run dir, and the door of a process in it, in a directory that goes when it is dropped.
fn opened() -> (tempfile::TempDir, RunDir, serve::Door) {
    let parent = tempfile::tempdir().expect("a directory");
    let run_dir = RunDir::new(&parent.path().join("member"));
    run_dir.create().expect("made");
    let control = super::privileges::listen(&run_dir).expect("a socket");
    let door = serve::Door::new(run_dir.clone(), control, None);
    (parent, run_dir, door)
}

fn identity() -> Identity {
    Identity::own(SystemTime::now())
}

/// The test's own binary, as an agent would know it.
fn program() -> Program {
    Program { path: "/proc/self/exe".into(), id: BinaryId::of(Path::new("/proc/self/exe")) }
}

fn another_program() -> Program {
    Program { path: "/bin/sh".into(), id: BinaryId::of(Path::new("/bin/sh")) }
}

/// A run dir in which a parrot of this build serves.
fn serving() -> (tempfile::TempDir, Handle<Replaced>) {
    let directory = tempfile::tempdir().expect("a directory");
    let control = super::privileges::listen(&RunDir::new(directory.path())).expect("a socket");
    let door = serve::Door::new(RunDir::new(directory.path()), control, None);
    tokio::spawn(async move {
        serve::run::<Replaced, _>(Parrot, door, without_agent(), &identity()).await.map(|ended| ended.reason)
    });
    let handle = Handle::new(directory.path());
    (directory, handle)
}

/// How a process of a build before this one found the end of a request.
#[derive(Clone, Copy)]
enum Ends {
    /// The DNS process: where the agent shuts its side.
    Shut,
    /// The WireGuard process: with the line.
    Line,
}

/// A run dir in which a process of the build before answers two requests: it refuses what it does not know.
fn serving_as_before(ends: Ends) -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    let listener = UnixListener::bind(directory.path().join("control.sock")).expect("a socket");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut request = String::new();
            match ends {
                Ends::Shut => (&stream).read_to_string(&mut request).expect("a request"),
                Ends::Line => BufReader::new(&stream).read_line(&mut request).expect("a request"),
            };
            let answer = match request.trim_end() {
                r#"{"version":1,"request":{"say":"hi"}}"# => r#"{"said":"hi"}"#,
                _ => r#"{"refused":{"problem":"the request is invalid: unknown variant `hello`"}}"#,
            };
            (&stream).write_all(answer.as_bytes()).expect("answered");
            if matches!(ends, Ends::Line) {
                (&stream).write_all(b"\n").expect("answered");
            }
        }
    });
    directory
}

#[tokio::test]
async fn a_request_is_answered_with_its_descriptors_and_a_refusal_names_the_process() {
    let (directory, parrot) = serving();
    let file = std::fs::File::open("/dev/null").expect("opened");
    let (said, files) = parrot.ask(Request::Say("hi".to_owned()), &[file.as_fd()]).await.expect("answered");
    assert_eq!((said, files.len()), (Response::Said("hi".to_owned()), 1));
    let refused = parrot.ask(Request::Fail, &[]).await.expect_err("refused");
    assert_eq!(refused.to_string(), format!("the parrot in {} refused: no", directory.path().display()));
    assert_eq!(parrot.hello().await.expect("answered").map(|found| found.pid), Some(std::process::id()));
}

#[tokio::test]
async fn a_request_of_another_version_is_told_the_version() {
    let (directory, _parrot) = serving();
    let ask = move |request: &'static str| {
        let mut stream = UnixStream::connect(directory.path().join("control.sock")).expect("it listens");
        writeln!(stream, "{request}").expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answered");
        answer
    };
    let answers = tokio::task::spawn_blocking(move || {
        [r#"{"version":2,"request":"dance"}"#, r#"{"version":1,"request":"dance"}"#, ""].map(ask)
    });
    let [other, unknown, empty] = answers.await.expect("asked");
    assert_eq!(other, "{\"other_version\":{\"version\":1}}\n");
    assert!(unknown.starts_with(r#"{"refused":{"problem":"the request is invalid"#), "{unknown}");
    assert!(empty.starts_with(r#"{"refused""#), "{empty}");
}

#[tokio::test]
async fn a_connection_that_says_nothing_holds_up_no_other() {
    let (directory, parrot) = serving();
    let silent = UnixStream::connect(directory.path().join("control.sock")).expect("it listens");
    parrot.ask(Request::Say("hi".to_owned()), &[]).await.expect("the other is answered");
    let answer = tokio::task::spawn_blocking(move || {
        writeln!(&silent, r#"{{"version":1,"request":{{"say":"late"}}}}"#).expect("it was not given up for the other");
        let mut answer = String::new();
        (&silent).read_to_string(&mut answer).expect("answered");
        answer
    });
    assert_eq!(answer.await.expect("asked"), "{\"said\":\"late\"}\n");
}

#[tokio::test]
async fn a_process_of_the_build_before_is_recognized_and_understood() {
    for ends in [Ends::Shut, Ends::Line] {
        let before = serving_as_before(ends);
        let (kept, replaced) = (Handle::<Kept>::new(before.path()), Handle::<Replaced>::new(before.path()));
        assert_eq!(kept.find(&program()).await.expect("answered"), Found::Current);
        assert_eq!(replaced.find(&program()).await.expect("answered"), Found::OtherBuild);
        let (said, _) = kept.ask(Request::Say("hi".to_owned()), &[]).await.expect("answered");
        assert_eq!(said, Response::Said("hi".to_owned()));
    }
}

#[tokio::test]
async fn what_is_replaced_is_a_process_of_another_build_and_no_other() {
    let (directory, parrot) = serving();
    assert_eq!(parrot.find(&program()).await.expect("answered"), Found::Current);
    assert_eq!(parrot.find(&another_program()).await.expect("answered"), Found::OtherBuild);
    let kept = Handle::<Kept>::new(directory.path());
    assert_eq!(kept.find(&another_program()).await.expect("answered"), Found::Current);
    // The agent's file was replaced since it started: a new process would be of a build that is not the agent's either.
    let stale = Program { id: BinaryId::of(Path::new("/bin/sh")), ..program() };
    assert_eq!(parrot.find(&stale).await.expect("answered"), Found::Current);
    let empty = tempfile::tempdir().expect("a directory");
    assert_eq!(Handle::<Replaced>::new(empty.path()).find(&program()).await.expect("absent"), Found::Absent);
    let dirs = [directory.path(), empty.path()];
    assert!(matches!(Standing::<Replaced>::of(dirs, &program()).await, Ok(Standing::Current(_))));
    match Standing::<Replaced>::of([empty.path(), directory.path()], &another_program()).await.expect("answered") {
        Standing::Replace { running, successor, hands_over } => {
            assert_eq!((running.run_dir(), successor.run_dir(), hands_over), (directory.path(), empty.path(), true));
        }
        other @ (Standing::Absent(_) | Standing::Current(_)) => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_process_that_ends_while_it_is_asked_is_absent() {
    // It closes the connection with the request unread, which resets it; or with the request read and unanswered.
    for reads in [false, true] {
        let directory = tempfile::tempdir().expect("a directory");
        let listener = UnixListener::bind(directory.path().join("control.sock")).expect("a socket");
        let ending = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("asked");
            let mut first = [0];
            stream.read_exact(&mut first).expect("the request is there");
            if reads {
                stream.read_to_string(&mut String::new()).expect("a request");
            }
        });
        let parrot = Handle::<Replaced>::new(directory.path());
        let error = parrot.ask(Request::Say("hi".to_owned()), &[]).await.expect_err("it ends");
        assert!(error.is_absent(), "{error}: {:?}", error.cause);
        ending.join().expect("it ended");
        assert_eq!(parrot.find(&program()).await.expect("absent"), Found::Absent);
    }
}

#[tokio::test]
async fn companions_that_hang_cost_one_timeout_together_and_others_nothing() {
    let hung: Vec<_> = (0..2).map(|_| tempfile::tempdir().expect("a directory")).collect();
    // They listen and never accept.
    let listen = |dir: &tempfile::TempDir| UnixListener::bind(dir.path().join("control.sock")).expect("a socket");
    let _listeners: Vec<_> = hung.iter().map(listen).collect();
    let (_directory, parrot) = serving();
    let (start, program) = (Instant::now(), program());
    let (standing, said) = tokio::join!(Standing::<Replaced>::of([hung[0].path(), hung[1].path()], &program), async {
        parrot.ask(Request::Say("hi".to_owned()), &[]).await.expect("answered");
        start.elapsed()
    });
    let error = standing.expect_err("they hang");
    let Cause::Silent { patience } = error.cause else { panic!("{error}") };
    assert!(start.elapsed() >= patience && start.elapsed() < 2 * patience, "{:?}", start.elapsed());
    assert!(said < patience, "{said:?}");
    assert!(error.needs_restart() && error.to_string().contains("did not answer within"), "{error}");
}

#[tokio::test]
async fn a_process_whose_run_dir_was_removed_is_found_again() {
    let (_parent, run_dir, door) = opened();
    tokio::spawn(async move {
        serve::run::<Kept, _>(Parrot, door, without_agent(), &identity()).await.map(|ended| ended.reason)
    });
    let handle = Handle::<Kept>::new(run_dir.path());
    let is_found = async || handle.hello().await.is_ok_and(|hello| hello.is_some());
    assert!(is_found().await);
    std::fs::remove_dir_all(run_dir.path()).expect("removed");
    assert!(!is_found().await, "the twin");
    let found = async {
        while !is_found().await {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), found).await.expect("it is found again");
}

/// Has a reason to end at its second look.
struct Looking(u32);

impl Service<Kept> for Looking {
    async fn start(_: Identity, _: Given<Kept>) -> anyhow::Result<Self> {
        Ok(Self(0))
    }

    async fn respond(&mut self, _: Request, _: Vec<OwnedFd>) -> anyhow::Result<(Response, Vec<OwnedFd>)> {
        anyhow::bail!("no")
    }

    fn look(&mut self) -> Option<&'static str> {
        self.0 += 1;
        (self.0 == 2).then_some("it looked again")
    }

    async fn reason_to_end(&mut self) -> &'static str {
        std::future::pending().await
    }

    async fn end(self) {}
}

#[tokio::test]
async fn a_disk_that_lets_a_look_wait_does_not_hold_up_the_looks_at_a_container() {
    use rustix::fs::{CWD, FileType, Mode, OFlags};
    let (_parent, run_dir, door) = opened();
    std::fs::remove_file(run_dir.path().join("control.sock")).expect("removed");
    // Taking the lock waits for a reader.
    let pid = run_dir.path().join("pid");
    rustix::fs::mknodat(CWD, &pid, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("made");
    let identity = identity();
    let run = serve::run::<Kept, _>(Looking(0), door, without_agent(), &identity);
    let ended = tokio::time::timeout(std::time::Duration::from_secs(60), run).await;
    assert!(run_dir.socket_id().is_none(), "the twin: the other look waits");
    // The runtime waits for it in turn.
    let _reader = rustix::fs::open(&pid, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty());
    assert_eq!(ended.expect("it looks").map(|ended| ended.reason).ok(), Some("it looked again"));
}

/// Whether a process has a lock on a file, by proc_locks(5): the process that has it is not told by fcntl.
fn is_locked(path: &Path) -> bool {
    let inode = std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(path).expect("the file"));
    let locks = std::fs::read_to_string("/proc/locks").expect("the locks");
    locks.lines().any(|line| line.contains("POSIX") && line.contains(&format!(":{inode} ")))
}

#[tokio::test]
async fn a_process_whose_socket_alone_was_removed_keeps_its_lock() {
    let parent = tempfile::tempdir().expect("a directory");
    let run_dir = RunDir::new(&parent.path().join("member"));
    run_dir.create().expect("made");
    let lock = run_dir.lock().expect("free");
    let control = super::privileges::listen(&run_dir).expect("a socket");
    let before = run_dir.socket_id();
    let door = serve::Door::new(run_dir.clone(), control, Some(lock));
    tokio::spawn(async move {
        serve::run::<Kept, _>(Parrot, door, without_agent(), &identity()).await.map(|ended| ended.reason)
    });
    assert!(is_locked(&run_dir.path().join("pid")));
    std::fs::remove_file(run_dir.path().join("control.sock")).expect("removed");
    let made = async {
        while run_dir.socket_id().is_none_or(|found| Some(found) == before) {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), made).await.expect("it is made again");
    assert!(Handle::<Kept>::new(run_dir.path()).hello().await.is_ok_and(|hello| hello.is_some()));
    assert!(is_locked(&run_dir.path().join("pid")));
    assert!(!is_locked(&parent.path().join("member/control.sock")), "the twin");
}
