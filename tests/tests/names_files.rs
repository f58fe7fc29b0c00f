//! The containers' files where it matters what is below them: a file system that does not answer, and a command's own mounts.
//!
//! ```text
//! one host:  containers a, whose file is held, and b;  a command of `privnet run` with the agent's file over its own
//! ```
#![forbid(unsafe_code)]

mod names_lab;

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use names_lab::host::{Host, file};
use privnet::agent::views::{Attached, ProblemView};
use privnet_tests::lab::cli::Cli;
use privnet_tests::lab::container::APP;
use privnet_tests::lab::{Lab, Options, runtime, skip, wait_until};

/// What stands in a file before.
const BEFORE: &str = "nameserver 192.0.2.53\n";

/// Has a lease on a file: a program that opens it waits until the lease is given back.
const HOLD: &str = "\
import fcntl, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGIO])
file = open(sys.argv[1])
fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
print('held', flush=True)
signal.sigwait([signal.SIGIO])
print('waited for', flush=True)
sys.stdin.read(1)
";

/// A file that does not open, as if its file system did not answer.
struct Held {
    process: Child,
    said: BufReader<ChildStdout>,
    told: ChildStdin,
    /// When the kernel lets others open it all the same.
    end: Option<Instant>,
}

impl Held {
    fn hold(path: &Path) -> Self {
        let mut python = Command::new("/usr/bin/python3");
        python.args(["-c", HOLD]).arg(path).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = python.spawn().expect("python3 starts");
        let (said, told) = (process.stdout.take().expect("piped"), process.stdin.take().expect("piped"));
        let mut held = Self { process, said: BufReader::new(said), told, end: None };
        held.says("held");
        held
    }

    fn says(&mut self, word: &str) {
        let mut line = String::new();
        self.said.read_line(&mut line).expect("read");
        assert_eq!(line.trim_end(), word);
    }

    /// Waits until another program waits for the file.
    async fn waited_for(mut self) -> Self {
        let wait = move || {
            self.says("waited for");
            let seconds = fs::read_to_string("/proc/sys/fs/lease-break-time").expect("read");
            self.end = Some(Instant::now() + Duration::from_secs(seconds.trim().parse().expect("seconds")));
            self
        };
        tokio::task::spawn_blocking(wait).await.expect("it is waited for")
    }

    /// Lets the programs open it that have waited until now.
    fn release(mut self) {
        self.told.write_all(b"x").expect("written");
        self.process.wait().expect("it ends");
        assert!(self.end.is_some_and(|end| Instant::now() < end), "the file was held until now");
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).expect("read")
}

fn is_ours(path: &Path) -> bool {
    read(path).starts_with("# Written by privnet.")
}

fn assert_no_answer(problems: &[ProblemView], path: &Path) {
    let [problem] = problems else { panic!("{problems:?}") };
    assert_eq!(problem.what, path.display().to_string());
    assert!(problem.why.contains("has not answered"), "{problem:?}");
}

#[test]
fn a_file_that_does_not_answer_holds_up_no_other_container_and_is_seen_to_when_it_does() {
    if !Path::new("/usr/bin/python3").exists() {
        return skip("python3");
    }
    runtime().block_on(async {
        let host = Host::start().await;
        host.network("shop").await;
        let (a, b) = (host.lab.container("a"), host.lab.container("b"));
        let (path, other) = (file(&host, "a", Some(BEFORE)), file(&host, "b", Some(BEFORE)));
        let beside = async |held: Held| {
            let held = held.waited_for().await;
            let attached = host.attach_with(&b, "shop", "job", &other).await;
            assert!(attached.ready && attached.problems.is_empty() && is_ours(&other), "{attached:?}");
            host.detach("shop", "job").await;
            assert_eq!(read(&other), BEFORE);
            held
        };
        let attach = host.attach_with(&a, "shop", "web", &path);
        let (attached, held) = tokio::join!(attach, beside(Held::hold(&path)));
        assert!(attached.ready, "it is a member all the same");
        assert_no_answer(&attached.problems, &path);
        held.release();
        wait_until("the file is written", || is_ours(&path));
        let detach = host.detach_with_problems("shop", "web");
        let (problems, held) = tokio::join!(detach, beside(Held::hold(&path)));
        assert_no_answer(&problems, &path);
        held.release();
        wait_until("what stood there is back", || read(&path) == BEFORE);
        // The twin: a file that answers.
        let attached = host.attach_with(&a, "shop", "web", &path).await;
        assert!(attached.problems.is_empty() && is_ours(&path), "{attached:?}");
        host.detach("shop", "web").await;
        assert_eq!(read(&path), BEFORE);
    });
}

/// A command of `privnet run` that prints its `resolv.conf` whenever it reads a line.
struct Run {
    process: Child,
    said: BufReader<ChildStdout>,
    told: ChildStdin,
    pid: String,
}

impl Run {
    fn start(cli: &Cli) -> Self {
        let script = "echo $$; while read line; do cat /etc/resolv.conf; echo end; done";
        let mut command =
            cli.command(&["run", "--network", "shop", "--app", APP, "--type", "job", "--", "sh", "-c", script]);
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
        let (said, told) = (process.stdout.take().expect("piped"), process.stdin.take().expect("piped"));
        let mut run = Self { process, said: BufReader::new(said), told, pid: String::new() };
        run.pid = run.line();
        run
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        assert_ne!(self.said.read_line(&mut line).expect("read"), 0, "it has ended");
        line.trim_end().to_owned()
    }

    /// The search list that the command sees.
    fn searches(&mut self) -> String {
        self.told.write_all(b"\n").expect("written");
        let mut search = String::new();
        loop {
            match self.line().as_str() {
                "end" => return search,
                line if line.starts_with("search ") => search = line.to_owned(),
                _ => {}
            }
        }
    }
}

fn search(memberships: &[&Attached]) -> String {
    let domains = memberships.iter().map(|member| format!(" {}.private-network.internal", member.network));
    format!("search{}", domains.collect::<String>())
}

#[test]
fn a_command_of_run_sees_each_network_that_it_is_attached_to_and_its_file_goes_with_it() {
    let lab = Lab::new("a_command_of_run_sees_each_network_that_it_is_attached_to_and_its_file_goes_with_it");
    let host = lab.host(&Options::bridge());
    let cli = host.cli();
    let (_, _) = (host.network("shop", "10.90.0.0/24"), host.network("bank", "10.91.0.0/24"));
    let attach = |run: &Run, network: &str| {
        let member = ["attach", "--network", network, "--app", APP, "--type", "job", "--pid", &run.pid];
        cli.json::<Attached>(&member).expect("attached")
    };
    let files = || {
        let entries = fs::read_dir(host.paths().socket.parent().expect("a directory")).expect("listed");
        let names = entries.map(|entry| entry.expect("an entry").path());
        names.filter(|path| path.extension().is_some_and(|extension| extension == "conf")).collect::<Vec<PathBuf>>()
    };
    let mut run = Run::start(&cli);
    let shop = attach(&run, "shop");
    assert_eq!(run.searches(), search(&[&shop]));
    let bank = attach(&run, "bank");
    assert_eq!(run.searches(), search(&[&shop, &bank]));
    assert_eq!(files().len(), 1);
    assert_eq!(cli.text(&["detach", "--network", "bank", "--app", APP, "--type", "job"]).trim_end(), "detached");
    assert_eq!(run.searches(), search(&[&shop]));
    drop(run.told);
    assert!(run.process.wait().expect("it ends").success());
    assert_eq!(files(), [] as [PathBuf; 0]);
    // A parent that is killed has nobody to detach its command.
    let mut run = Run::start(&cli);
    assert_eq!(run.searches(), search(&[&shop]));
    run.process.kill().expect("killed");
    run.process.wait().expect("it ends");
    wait_until("the file has gone", || files().is_empty());
    drop(run);
    lab.finish();
}
