//! `privnet demo` from outside: it holds in both datapaths, and leaves nothing behind however it ends.

use std::fmt;
use std::fs;
use std::ops::Deref;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::Value;

/// What the demo may take, once built, on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);
/// How often to look whether something has come true.
const GLANCE: Duration = Duration::from_millis(2);

fn privnet() -> PathBuf {
    std::env::var_os("PRIVNET_BIN").map_or_else(
        || {
            std::env::current_exe()
                .expect("this test")
                .ancestors()
                .nth(2)
                .expect("the profile's folder")
                .join("privnet")
        },
        PathBuf::from,
    )
}

/// The program that `privnet demo` becomes.
fn privnet_demo() -> PathBuf {
    privnet().with_file_name("privnet-demo")
}

/// A demo that runs, in a process group of its own, as a shell would start it.
struct Demo {
    process: Child,
    name: Name,
}

/// The name of a demo. What the demo has made goes with it where a test fails.
struct Name(String);

impl Deref for Name {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        if std::thread::panicking() && !remains(self).is_empty() {
            let group = self.rsplit('-').next().and_then(|pid| Pid::from_raw(pid.parse().ok()?));
            // One that runs has to end first; most have ended.
            let _ = group.map(|group| kill_process_group(group, Signal::KILL));
            let _ = Command::new(privnet()).args(["demo", "--remove", self]).output();
        }
    }
}

impl Demo {
    fn start(arguments: &[&str]) -> Self {
        let mut command = Command::new(privnet());
        command.arg("demo").args(arguments).process_group(0);
        let process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("started");
        let name = Name(format!("privnet-demo-{}", process.id()));
        Self { process, name }
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.process)
    }

    /// Waits until the demo has made something, or has ended.
    fn wait_for(&mut self, made: impl Fn(&str) -> bool) {
        let start = Instant::now();
        while !made(&self.name) && self.process.try_wait().expect("a child").is_none() {
            assert!(start.elapsed() < LIMIT, "{} made nothing", self.name);
            std::thread::sleep(GLANCE);
        }
    }

    /// Its exit code, `None` when a signal ended it; and what it said.
    fn end(self) -> (Name, Option<i32>, String, String) {
        let Output { status, stdout, stderr } = self.process.wait_with_output().expect("a child");
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        (self.name, status.code(), text(stdout), text(stderr))
    }
}

/// Whether the demo of a name has made something.
type Made = Box<dyn Fn(&str) -> bool>;

/// Everything on this machine that belongs to a demo.
fn remains(name: &str) -> Vec<String> {
    let is_of =
        |found: &str| found.strip_prefix(name).is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()));
    let mut found = Vec::new();
    for dir in ["/run", "/run/netns", "/sys/fs/bpf"] {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        found.extend(names.filter(|entry| is_of(entry)).map(|entry| format!("{dir}/{entry}")));
    }
    let mounts = fs::read_to_string("/proc/self/mounts").expect("mounts");
    found.extend(mounts.lines().filter(|line| line.contains(&format!("/{name}/"))).map(str::to_owned));
    for process in fs::read_dir("/proc").expect("processes").flatten() {
        let command = fs::read(process.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        if command.contains(&format!("/{name}-")) || command.contains(&format!("/{name}/")) {
            found.push(command);
        }
    }
    found
}

fn assert_nothing_remains(name: &str, after: &str) {
    assert_eq!(remains(name), Vec::<String>::new(), "left by {name} after {after}");
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn holds_and_leaves_nothing(datapath: &str) {
    let start = Instant::now();
    let (name, code, stdout, stderr) = Demo::start(&["--datapath", datapath, "-o", "json"]).end();
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    assert!(start.elapsed() < LIMIT, "it took {:?}", start.elapsed());
    let shown = json(&stdout);
    assert_eq!((&shown["ok"], &shown["datapath"]), (&Value::from(true), &Value::from(datapath)));
    assert!(["kernel", "userspace"].contains(&shown["wireguard"].as_str().expect("text")));
    assert!(shown["duration_ms"].as_u64().expect("a number") > 0);
    assert_eq!(shown.get("kept"), None);
    let steps = shown["steps"].as_array().expect("an array");
    let numbers: Vec<u64> = steps.iter().filter_map(|step| step["step"].as_u64()).collect();
    assert_eq!(numbers, (1..=10).collect::<Vec<_>>());
    for step in steps {
        assert_eq!(step["ok"], true, "{step}");
        assert!(!step["title"].as_str().expect("text").is_empty());
        assert!(step["evidence"].as_object().is_some_and(|evidence| evidence.len() >= 3), "{step}");
    }
    let names = &steps[0]["evidence"];
    let told = |fact: &str| names[fact].as_str().expect("text").to_owned();
    assert!(told("question").starts_with("backend.ap-"), "{names}");
    assert!(told("question").ends_with(".private-network.internal A"), "{names}");
    assert_eq!(told("answer"), "NOERROR 10.240.0.2 for 5 s");
    assert!(told("answered_at").starts_with("127.0.0.82:53 "), "{names}");
    assert_eq!(told("stranger"), "the same question at 127.0.0.82:53: NXDOMAIN");
    assert_eq!(steps[7]["evidence"]["underlay_frames"], 0);
    assert!(steps[4]["evidence"]["vni"].as_u64().is_some_and(|vni| (1..1 << 24).contains(&vni)));
    assert_nothing_remains(&name, "its end");
}

#[test]
fn over_ebpf_the_demo_holds_and_leaves_nothing() {
    holds_and_leaves_nothing("ebpf");
}

#[test]
fn over_a_bridge_the_demo_holds_and_leaves_nothing() {
    holds_and_leaves_nothing("bridge");
}

#[test]
fn for_people_there_is_a_line_per_step_and_no_whole_key() {
    let (name, code, stdout, stderr) = Demo::start(&[]).end();
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    assert!(stdout.is_ascii(), "{stdout}");
    for step in 1..=10 {
        assert_eq!(
            stdout.lines().filter(|line| line.starts_with(&format!("{step:>2}  ok    "))).count(),
            1,
            "{stdout}"
        );
    }
    assert!(stdout.contains("10 of 10 steps held in "), "{stdout}");
    // A WireGuard key is 44 characters of base64, the last of them `=`.
    let is_key = |word: &str| word.len() == 44 && word.ends_with('=');
    assert!(![&stdout, &stderr].iter().any(|text| text.split_whitespace().any(is_key)), "{stdout}{stderr}");
    assert_nothing_remains(&name, "its end");
}

#[test]
fn ended_while_it_builds_the_demo_leaves_nothing() {
    let pinned = |what: &str| {
        let what = what.to_owned();
        move |name: &str| {
            let entries = fs::read_dir("/run/netns").into_iter().flatten().flatten();
            let mut names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
            names.any(|entry| entry.strip_prefix(name).is_some_and(|rest| rest.starts_with(&what)))
        }
    };
    let moments: [(&str, Made); 8] = [
        ("the first file", Box::new(|name| Path::new("/run").join(name).exists())),
        ("the second host", Box::new(pinned("-host-two"))),
        ("the first container", Box::new(pinned("-web-1"))),
        ("the first binding netns", Box::new(pinned("-one-bind-"))),
        ("the first network netns", Box::new(pinned("-one-pn-"))),
        ("the programs of host two", Box::new(|name| Path::new("/sys/fs/bpf").join(format!("{name}-two")).exists())),
        ("a DNS process", Box::new(|name| Path::new("/run").join(name).join("one/dns-0").exists())),
        ("a WireGuard process", Box::new(has_wireguard)),
    ];
    for (what, made) in moments {
        let mut demo = Demo::start(&["--datapath", "ebpf", "--wireguard", "userspace"]);
        demo.wait_for(made);
        kill_process(demo.pid(), Signal::TERM).expect("signalled");
        let (name, code, stdout, stderr) = demo.end();
        assert_eq!(code, Some(1), "{what}: {stdout}{stderr}");
        assert!(stderr.contains("ended by SIGTERM"), "{what}: {stderr}");
        assert_nothing_remains(&name, what);
    }
}

/// Whether the first host of a demo has a WireGuard process, or had one.
fn has_wireguard(name: &str) -> bool {
    fs::read_dir(Path::new("/run").join(name).join("one/wireguard")).is_ok_and(|mut found| found.next().is_some())
}

/// A terminal sends Ctrl-C to the whole group, and people press it more than once.
#[test]
fn ctrl_c_at_any_moment_leaves_nothing() {
    // A sweep over the whole run, not a wait: whatever is under way at these moments is the point.
    for delay in [5, 40, 80, 130, 180, 250, 350, 500, 700, 900] {
        let demo = Demo::start(&["-o", "json"]);
        let group = demo.pid();
        std::thread::sleep(Duration::from_millis(delay));
        for _ in 0..2 {
            // An early one may find a process that does not listen yet, a late one none at all.
            let _ = kill_process_group(group, Signal::INT);
        }
        let (name, code, stdout, stderr) = demo.end();
        assert!(code != Some(0) || json(&stdout)["ok"] == true, "{delay} ms: {stdout}{stderr}");
        assert!(
            code.is_none() || code == Some(0) || stderr.contains("ended by SIGINT"),
            "{delay} ms: {code:?} {stdout}{stderr}"
        );
        assert_nothing_remains(&name, &format!("{delay} ms"));
    }
}

#[test]
fn what_is_kept_works_until_it_is_removed() {
    let (name, code, stdout, stderr) = Demo::start(&["--keep", "-o", "json"]).end();
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    let shown = json(&stdout);
    let kept = &shown["kept"];
    assert_eq!(kept["name"], *name);
    let remove = kept["remove"].as_str().expect("text");
    assert!(remove.ends_with(&format!("privnet demo --remove {name}")), "{remove}");
    // No agent runs any more, and the traffic goes on: the backend is the first address of the seed's network.
    let backend = shown["steps"][0]["evidence"]["question"].as_str().expect("text").trim_end_matches(" A").to_owned();
    let ask = |container: &str, server: &str| {
        let netns = format!("--net=/run/netns/{name}-{container}");
        let mut command = Command::new("nsenter");
        command.arg(netns).arg(privnet_demo()).args(["fetch", "--from", &format!("{server}:8080"), "--path", "/kept"]);
        let output = command.args(["--patience-ms", "2000"]).output().expect("started");
        json(&String::from_utf8(output.stdout).expect("UTF-8"))
    };
    for server in ["10.240.0.2", &backend] {
        assert_eq!(ask("web-1", server)["answer"]["status"], 200, "{server}");
        assert_eq!(ask("web-2", server)["answer"]["status"], 200, "{server}");
        assert!(ask("stranger", server)["failed"]["reason"].is_string(), "{server}");
    }
    assert_eq!(ask("stranger", &backend)["failed"]["heard"]["rcode"], "NXDOMAIN");
    let remove = || {
        let output = Command::new(privnet()).args(["demo", "--remove", &name, "-o", "json"]).output().expect("started");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        json(&String::from_utf8(output.stdout).expect("UTF-8"))["removed"].clone()
    };
    assert_eq!(remove(), true);
    assert_nothing_remains(&name, "its removal");
    assert_eq!(remove(), false, "removing it again is done already");
}

#[test]
fn a_demo_that_was_killed_is_removed_by_its_name_and_a_running_one_is_not() {
    let mut demo = Demo::start(&["--wireguard", "userspace"]);
    demo.wait_for(has_wireguard);
    let remove = |name: &str| Command::new(privnet()).args(["demo", "--remove", name]).output().expect("started");
    let refused = remove(&demo.name);
    // It may have ended by itself meanwhile, on a slow machine.
    if demo.process.try_wait().expect("a child").is_none() {
        assert_eq!(refused.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&refused.stderr).contains("if the demo is running, end it first"));
    }
    kill_process(demo.pid(), Signal::KILL).expect("signalled");
    let (name, _, _, _) = demo.end();
    let removed = remove(&name);
    assert!(removed.status.success(), "{}", String::from_utf8_lossy(&removed.stderr));
    assert_nothing_remains(&name, "its removal");
}

#[test]
fn a_demo_that_cannot_be_built_says_why_and_leaves_nothing() {
    let (name, code, stdout, stderr) = Demo::start(&["--wireguard", "kernel", "-o", "json"]).end();
    match privnet::wireguard::kernel_support() {
        privnet::wireguard::Support::Present => assert_eq!(code, Some(0), "{stdout}{stderr}"),
        privnet::wireguard::Support::Missing { .. } => {
            assert_eq!((code, stdout.as_str()), (Some(1), ""));
            let error = &json(stderr.lines().last().expect("an error"))["error"];
            assert_eq!(error["code"], "unsupported", "{stderr}");
        }
    }
    assert_nothing_remains(&name, "its failure");
}

#[test]
fn an_ordinary_user_is_told_to_be_root() {
    /// `nobody`, by Debian's base-passwd.
    const NOBODY: u32 = 65534;
    let directory = tempfile::tempdir().expect("a directory");
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).expect("permitted");
    // The build's folder may be closed to others.
    let binary = directory.path().join("privnet");
    fs::copy(privnet(), &binary).expect("copied");
    fs::copy(privnet_demo(), directory.path().join("privnet-demo")).expect("copied");
    let mut command = Command::new(&binary);
    let output = command.args(["demo", "-o", "json"]).uid(NOBODY).gid(NOBODY).output().expect("started");
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(1), &b""[..]));
    let error = json(&String::from_utf8(output.stderr).expect("UTF-8"));
    assert_eq!(error["error"]["code"], "permission_denied");
    assert!(error["error"]["remedy"].as_str().is_some_and(|remedy| remedy.contains("root")), "{error}");
}

#[test]
fn without_its_program_the_demo_says_what_to_install_and_with_it_beside_passes_all_on() {
    let directory = tempfile::tempdir().expect("a directory");
    let binary = directory.path().join("privnet");
    fs::copy(privnet(), &binary).expect("copied");
    let demo = |arguments: &[&str], path: &Path| {
        let output = Command::new(&binary).arg("demo").args(arguments).env("PATH", path).output().expect("started");
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let empty = directory.path().join("empty");
    let (code, stdout, stderr) = demo(&["-o", "json", "--keep"], &empty);
    assert_eq!((code, stdout.as_str()), (Some(1), ""), "{stderr}");
    let error = json(&stderr);
    let told = |key: &str| error["error"][key].as_str().expect("text").to_owned();
    let place = directory.path().display().to_string();
    assert!(
        told("message").contains(&format!("`privnet-demo`, which is neither in {place} nor on the PATH")),
        "{error}"
    );
    assert!(told("remedy").starts_with(&format!("install privnet-demo in {place}")), "{error}");

    let install = |directory: &Path, says: &str| {
        fs::create_dir_all(directory).expect("made");
        let program = directory.join("privnet-demo");
        fs::write(&program, format!("#!/bin/sh\necho {says} \"$@\"\nexit 7\n")).expect("written");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("permitted");
    };
    install(&empty, "on the PATH:");
    let arguments = ["--datapath", "bridge", "-o", "json"];
    let (code, stdout, _) = demo(&arguments, &empty);
    assert_eq!((code, stdout.as_str()), (Some(7), "on the PATH: --datapath bridge -o json\n"));
    install(directory.path(), "beside:");
    let (code, stdout, _) = demo(&arguments, &empty);
    assert_eq!((code, stdout.as_str()), (Some(7), "beside: --datapath bridge -o json\n"));
}
