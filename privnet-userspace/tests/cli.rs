//! What the built binary prints, where, and how it ends.

mod support;

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};

use privnet_ebpf::abi::ABI_VERSION;
use serde_json::{Value, json};
use support::{APP, FakeAgent, Memory, NETWORK, RESOLV_CONF, outcome, privnet};

const NOWHERE: &str = "/nonexistent/privnet.sock";

#[test]
fn wrong_usage_ends_with_2_and_says_so_on_stderr_only() {
    for arguments in [
        vec![],
        vec!["nonsense"],
        vec!["network"],
        vec!["network", "create"],
        vec!["network", "show", ""],
        vec!["attach", "--network", "shop", "--app", APP],
        vec!["attach", "--network", "shop", "--app", APP, "--pid", "1", "--netns", "/x"],
        vec!["attach", "--network", "shop", "--app", APP, "--pid", "1", "--address", "10.0.0.256"],
        vec!["run", "--network", "shop", "--app", APP],
        vec!["agent", "--datapath", "magic"],
        vec!["status", "-o", "xml"],
        vec!["--version"],
        vec!["observe"],
        vec!["monitor", "--direction", "up"],
        vec!["domain-names"],
        vec!["resolve", "a.b"],
        vec!["connect", "shop"],
        vec!["connect", "shop", "backend.demo"],
        vec!["connect", "shop", "backend.demo:http"],
        vec!["connect", "shop", "backend.demo:80", "--timeout", "soon"],
        vec!["connect", "shop", "backend.demo:80", "--listen", "8080"],
        vec!["curl", "shop"],
        vec!["network", "create", "shop", "--forward", "nowhere"],
        vec!["attach", "--network", "shop", "--app", APP, "--pid", "1", "--port", "http"],
    ] {
        let (code, stdout, stderr) = outcome(privnet(&arguments));
        assert_eq!((code, stdout.as_str()), (2, ""), "{arguments:?}");
        assert!(!stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn wrong_usage_is_json_when_json_was_asked_for() {
    for arguments in [vec!["-o", "json", "network", "create"], vec!["network", "create", "--output=json"]] {
        let (code, stdout, stderr) = outcome(privnet(&arguments));
        assert_eq!((code, stdout.as_str()), (2, ""));
        let error: Value = serde_json::from_str(&stderr).expect("one JSON object");
        assert_eq!(error["error"]["code"], "invalid_argument");
        assert!(error["error"]["message"].as_str().is_some_and(|message| message.contains("<NAME>")), "{stderr}");
    }
}

#[test]
fn help_is_data_and_shows_every_verb_that_is_for_people() {
    let (code, stdout, stderr) = outcome(privnet(&["--help"]));
    assert_eq!((code, stderr.as_str()), (0, ""));
    for verb in
        "agent network attach detach run connect curl members domain-names resolve status doctor mtu monitor metrics demo version".split(' ')
    {
        assert!(stdout.contains(&format!("\n  {verb} ")), "{verb} is missing:\n{stdout}");
    }
    assert!(!stdout.contains("run-child") && !stdout.contains("wireguard-process"), "{stdout}");
}

#[test]
fn version_says_what_the_binary_is() {
    let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
    let (code, stdout, stderr) = outcome(privnet(&["version"]));
    let release = env!("CARGO_PKG_VERSION");
    let expected = format!("version        {release}\nabi_version    {ABI_VERSION}\nbuild_profile  {profile}\n");
    assert_eq!((code, stdout, stderr.as_str()), (0, expected, ""));
    let (_, stdout, _) = outcome(privnet(&["version", "-o", "json"]));
    let version: Value = serde_json::from_str(&stdout).expect("JSON");
    assert_eq!(version, json!({"version": release, "abi_version": ABI_VERSION, "build_profile": profile}));
}

#[test]
fn mtu_needs_no_agent() {
    let (code, stdout, stderr) = outcome(privnet(&["mtu", "--underlay-mtu", "1500"]));
    let expected = "STAGE      MTU   WHY\n\
                    underlay   1500  as given\n\
                    carrier    1450  less VXLAN over IPv4, 50 bytes\n\
                    wireguard  1390  less WireGuard over IPv4, 60 bytes\n";
    assert_eq!((code, stdout.as_str(), stderr.as_str()), (0, expected, ""));
    let (code, stdout, _) = outcome(privnet(&["mtu", "--underlay-mtu", "9000", "-o", "json"]));
    let table: Value = serde_json::from_str(&stdout).expect("JSON");
    let expected = json!({"underlay": 9000, "carrier": 8950, "wireguard": 8890, "source": "given"});
    assert_eq!((code, table), (0, expected));
    // This machine may have any underlay: the answer says whose it is, or that it is assumed.
    let (code, stdout, _) = outcome(privnet(&["mtu", "--socket", NOWHERE, "-o", "json"]));
    let table: Value = serde_json::from_str(&stdout).expect("JSON");
    assert_eq!(code, 0);
    match table["source"].as_str() {
        Some("default_route") => assert!(table["interface"].is_string(), "{table}"),
        Some("assumed") => assert_eq!(table["underlay"], 1500, "{table}"),
        _ => panic!("{table}"),
    }
}

#[test]
fn an_underlay_without_room_is_refused() {
    let (code, stdout, stderr) = outcome(privnet(&["mtu", "--underlay-mtu", "685"]));
    assert_eq!((code, stdout.as_str()), (1, ""));
    assert!(stderr.starts_with("error: underlay MTU 685 is too small"), "{stderr}");
    assert!(stderr.contains("\n  remedy: raise the MTU"), "{stderr}");
    assert_eq!(outcome(privnet(&["mtu", "--underlay-mtu", "686"])).0, 0);
}

#[test]
fn without_an_agent_every_verb_says_how_to_start_one() {
    for arguments in [
        vec!["network", "list"],
        vec!["network", "create", "shop"],
        vec!["members"],
        vec!["status"],
        vec!["metrics"],
        vec!["attach", "--network", "shop", "--app", APP, "--pid", "1"],
        vec!["detach", "--network", "shop", "--app", APP],
    ] {
        let (code, stdout, stderr) = outcome(privnet(&[&arguments[..], &["--socket", NOWHERE]].concat()));
        assert_eq!((code, stdout.as_str()), (1, ""), "{arguments:?}");
        let expected = "error: the agent is not running: cannot connect to /nonexistent/privnet.sock: \
                        No such file or directory (os error 2)\n  \
                        remedy: start it as root with `privnet agent` (from a checkout: `cargo xtask run`), \
                        or give its --socket\n";
        assert_eq!(stderr, expected, "{arguments:?}");
        let (code, stdout, stderr) = outcome(privnet(&[&arguments[..], &["--socket", NOWHERE, "-o", "json"]].concat()));
        let error: Value = serde_json::from_str(&stderr).expect("JSON");
        assert_eq!((code, stdout.as_str(), &error["error"]["code"]), (1, "", &json!("agent_unavailable")));
    }
}

/// An agent that systemd hands a socket at `path` over to, by the name `control`, and that does not start.
fn handed_over(path: &Path, told: &Path) -> (i32, String, String) {
    let listener = UnixListener::bind(path).expect("bound");
    let mut command = Command::new("sh");
    let as_systemd = "exec 3<&0 </dev/null; export LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=control; exec \"$@\"";
    command.args(["-c", as_systemd, "sh", env!("CARGO_BIN_EXE_privnet"), "agent", "--host", "h1"]);
    command.args(["--state-dir", "/proc/nowhere", "--socket"]).arg(told).stdin(OwnedFd::from(listener));
    outcome(command)
}

#[test]
fn an_agent_serves_the_socket_of_systemd_where_it_is_told_to_and_leaves_its_file() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let (path, other) = (directory.path().join("privnet.sock"), directory.path().join("other.sock"));
    let (code, stdout, stderr) = handed_over(&path, &other);
    assert_eq!((code, stdout.as_str()), (1, ""));
    assert!(stderr.contains("systemd opened the control socket at") && stderr.contains("privnet.socket"), "{stderr}");

    std::fs::remove_file(&path).expect("removed");
    let (code, _, stderr) = handed_over(&path, &path);
    assert_eq!(code, 1);
    assert!(!stderr.contains("socket"), "it fails later, for another reason: {stderr}");
    assert!(path.exists() && !other.exists());
}

#[test]
fn doctor_speaks_without_an_agent_and_fails() {
    let (code, stdout, stderr) = outcome(privnet(&["doctor", "--socket", NOWHERE, "-o", "json"]));
    assert_eq!((code, stderr.as_str()), (1, ""));
    let checks: Value = serde_json::from_str(&stdout).expect("JSON");
    let agent = checks.as_array().and_then(|checks| checks.iter().find(|check| check["check"] == "agent"));
    assert_eq!(agent.expect("a check of the agent")["status"], "fail", "{stdout}");
}

#[test]
fn a_config_file_with_an_unknown_key_is_refused_with_its_line() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path().join("privnet.toml");
    std::fs::write(&path, "host = \"a\"\ncolour = \"red\"\n").expect("written");
    let (code, stdout, stderr) = outcome(privnet(&["agent", "--config", &path.to_string_lossy()]));
    assert_eq!((code, stdout.as_str()), (1, ""));
    assert!(stderr.contains("privnet.toml line 2: unknown field `colour`"), "{stderr}");
}

#[test]
fn a_running_agents_answers_are_printed_as_tables() {
    let agent = FakeAgent::start(Memory::default());
    let network = format!(
        "id         {NETWORK}\nname       shop\nvni        7\nsubnet     10.240.0.0/22\nmtu        1390\n\
         addresses  1 of 1021\nttl        5 s, negative ttl 5 s\nforward    on\n\
         created    2023-11-14 22:13:20 UTC\n"
    );
    for (arguments, expected) in [
        (vec!["network", "create", "shop"], network.clone()),
        (vec!["network", "show", "shop"], network),
        (
            vec!["network", "list"],
            format!(
                "NAME  ID{:39}VNI  SUBNET         MTU   ADDRESSES\nshop  {NETWORK}  7    10.240.0.0/22  1390  1/1021\n",
                ""
            ),
        ),
        (vec!["network", "delete", "shop"], "deleted\n".to_owned()),
        (vec!["detach", "--network", "shop", "--app", APP], "was not attached\n".to_owned()),
        (
            vec!["members", "--network", "shop"],
            format!(
                "NETWORK  APP{:38}TYPE  NUMBER  ADDRESS     HOST  STATE  INTERFACE\n\
                 shop     {APP}  web   3       10.240.0.2  one   ready  -\n",
                ""
            ),
        ),
        (
            vec!["status"],
            "version    0.1.0\nhost       one\nvtep       192.0.2.1\ndatapath   ebpf\nwireguard  kernel\n\
             store      embedded\nnetworks   1\nmembers    2 (1 ready)\nlast pass  none yet\n\
             names      not answered\nproblem    something is amiss\n"
                .to_owned(),
        ),
        (
            vec!["domain-names", "--app", APP],
            format!(
                "NETWORK  NAME{}ADDRESSES\nshop     web.{APP}.{NETWORK}.private-network.internal  10.240.0.2 10.240.0.3\n",
                " ".repeat(106)
            ),
        ),
        (
            vec!["resolve", "a.b", "--as", "1.web.ap-x", "--type", "SRV"],
            "name    a.b\ntype    SRV\nas      1.web.ap-x\nsource  snapshot\nrcode   nxdomain\nage     2 s\n\
             reason  no network has the id or name x\n"
                .to_owned(),
        ),
        (
            vec!["doctor"],
            "STATUS  CHECK   DETAIL  REMEDY\nok      kernel  seen\nwarn    tcx     seen    none needed\n".to_owned(),
        ),
    ] {
        assert_eq!(outcome(agent.privnet(&arguments)), (0, expected, String::new()), "{arguments:?}");
    }
}

#[test]
fn a_running_agents_answers_are_printed_as_json() {
    let agent = FakeAgent::start(Memory::default());
    let attach = ["attach", "--network", "shop", "--app", APP, "--pid", "1"];
    for (arguments, fields) in [
        (&["network", "create", "shop"][..], &["id", "name", "vni", "subnet", "mtu"][..]),
        (&["network", "show", "shop"], &["id", "name", "vni", "subnet", "mtu"]),
        (&attach, &["network", "app", "type", "number", "address", "hostname", "interface", "ready", "env"]),
        (&["detach", "--network", "shop", "--app", APP], &["detached"]),
        (&["network", "delete", "shop"], &["deleted"]),
        (&["status"], &["version", "host", "vtep", "problems", "names"]),
        (&["resolve", "a.b", "--as", "1.web.ap-x"], &["name", "type", "source", "rcode", "records", "reason"]),
    ] {
        let (code, stdout, stderr) = outcome(agent.privnet(&[arguments, &["-o", "json"]].concat()));
        assert_eq!((code, stderr.as_str()), (0, ""), "{arguments:?}");
        let value: Value = serde_json::from_str(&stdout).expect("JSON");
        for field in fields {
            assert!(value.get(field).is_some(), "{arguments:?} lacks {field}: {stdout}");
        }
    }
    let names = ["domain-names", "--app", APP];
    for arguments in [&["network", "list"][..], &["members"], &["doctor"], &["metrics"], &names] {
        let (code, stdout, _) = outcome(agent.privnet(&[arguments, &["-o", "json"]].concat()));
        let value: Value = serde_json::from_str(&stdout).expect("JSON");
        assert!(code == 0 && value.as_array().is_some_and(|array| !array.is_empty()), "{arguments:?}: {stdout}");
    }
}

#[test]
fn root_has_the_agent_write_the_resolv_conf_and_another_user_writes_it() {
    let agent = FakeAgent::start(Memory::default());
    let directory = tempfile::tempdir().expect("temporary directory");
    let (path, nowhere) = (directory.path().join("resolv.conf"), directory.path().join("nowhere/resolv.conf"));
    std::fs::write(&path, "before\n").expect("written");
    let attach = |path: &Path| {
        let path = path.to_str().expect("UTF-8");
        outcome(agent.privnet(&["attach", "--network", "shop", "--app", APP, "--pid", "1", "--resolv-conf", path]))
    };
    let is_root = rustix::process::geteuid().is_root();
    let (code, stdout, stderr) = attach(&path);
    assert_eq!((code, stderr.as_str()), (0, ""));
    // What the agent says does not work is told to a person too.
    assert!(stdout.contains("problem    a: b (c)\n"), "{stdout}");
    let asked = agent.asked().pop().expect("asked");
    assert!(
        asked.contains(&format!("{path:?}, by_caller: {}, before: {:?}", !is_root, (!is_root).then_some("before\n"))),
        "{asked}"
    );
    let expected = if is_root { "before\n" } else { RESOLV_CONF };
    assert_eq!(std::fs::read_to_string(&path).expect("read"), expected);
    // Where it cannot be written the container is attached all the same.
    let (code, stdout, _) = attach(&nowhere);
    assert_eq!((code, stdout.contains("cannot write it")), (0, !is_root), "{stdout}");
}

#[test]
fn metrics_are_the_agents_text() {
    let agent = FakeAgent::start(Memory::default());
    let (code, stdout, stderr) = outcome(agent.privnet(&["metrics"]));
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert!(stdout.contains("\nprivnet_networks 1\n"), "{stdout}");
}

#[test]
fn an_agents_refusal_is_shown_with_its_code() {
    let agent = FakeAgent::start(Memory::default());
    let (code, stdout, stderr) = outcome(agent.privnet(&["network", "show", "../v1/status"]));
    let expected = "error: no network has the id or name \"../v1/status\"\n  remedy: see `privnet network list`\n";
    assert_eq!((code, stdout.as_str(), stderr.as_str()), (1, "", expected));
    let (_, _, stderr) = outcome(agent.privnet(&["network", "show", "x", "-o", "json"]));
    let error: Value = serde_json::from_str(&stderr).expect("JSON");
    assert_eq!(error["error"]["code"], "network_not_found");
    assert_eq!(outcome(agent.privnet(&["network", "show", "shop"])).0, 0);
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let agent = FakeAgent::start(Memory::default());
    let mut command = agent.privnet(&["metrics"]);
    let (reader, writer) = std::io::pipe().expect("pipe");
    drop(reader);
    let status = command.stdout(writer).stderr(Stdio::null()).status().expect("started");
    assert_eq!(status.code(), Some(0));
}
