//! `privnet monitor` as a user runs it, with a fake agent behind it.

mod support;

use std::fs;
use std::process::{Output, Stdio};

use privnet::agent::views::{Direction, DropLine, DropReason, DroppedFrame};
use privnet::model::NetworkId;
use support::{FakeAgent, Memory};

const MEMBER: &str = "1.web.ap-a71da13f-7c70-4c00-a644-eee8558d8053";

fn network() -> NetworkId {
    "pn-00000000-0000-0000-0000-000000000001".parse().expect("an id")
}

fn dropped(reason: DropReason) -> DropLine {
    DropLine::Drop(frame(reason))
}

fn frame(reason: DropReason) -> DroppedFrame {
    DroppedFrame {
        unix_microseconds: 1_795_975_392_000_250,
        network: network(),
        network_name: "shop".parse().expect("a name"),
        member: MEMBER.to_owned(),
        address: [10, 90, 0, 2].into(),
        direction: Direction::Out,
        reason,
        protocol: "udp".to_owned(),
        from: "10.90.0.9:51820".to_owned(),
        to: "10.90.0.3:51820".to_owned(),
        bytes: 134,
        is_ethernet: true,
        headers: (0..42).map(|byte| format!("{byte:02x}")).collect(),
    }
}

/// An agent that has these lines to tell, and then ends them.
fn agent() -> FakeAgent {
    let lines = vec![
        DropLine::Watching { networks: vec!["shop".parse().expect("a name")] },
        dropped(DropReason::SpoofedAddress),
        dropped(DropReason::SpoofedAddress),
        DropLine::NotShown { network: network(), network_name: "shop".parse().expect("a name"), packets: 7 },
        DropLine::Missed { lines: 5 },
        dropped(DropReason::Ipv6),
    ];
    FakeAgent::start(Memory { drops: lines.into(), ..Memory::default() })
}

fn monitor(agent: &FakeAgent, arguments: &[&str]) -> (Output, String, String) {
    let output = agent.privnet(&[&["monitor"], arguments].concat()).stdin(Stdio::null()).output().expect("it starts");
    let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
    (output, out, err)
}

#[test]
fn a_drop_is_a_line_and_what_is_not_shown_is_said_beside_it() {
    let agent = agent();
    let (output, out, err) = monitor(&agent, &[]);
    let line = |reason| {
        format!("18:03:12.000250  shop  {MEMBER}  out  {reason}  10.90.0.9:51820 > 10.90.0.3:51820  udp  134 bytes\n")
    };
    assert_eq!(out, [line("spoofed_address"), line("spoofed_address"), line("ipv6")].concat());
    for said in ["watching shop", "7 more packets were dropped in shop", "5 lines were lost", "the agent has ended"] {
        assert!(err.contains(said), "{said}: {err}");
    }
    assert_eq!(output.status.code(), Some(1), "it is told apart from one that has shown what was asked for");
    let (output, out, _) = monitor(&agent, &["--count", "2"]);
    assert_eq!((output.status.code(), out.lines().count()), (Some(0), 2));
}

#[test]
fn a_reason_is_explained_when_it_comes_for_the_first_time() {
    let (_, out, _) = monitor(&agent(), &["-v"]);
    assert_eq!(out.matches("spoofed_address: a member sends with an address that is not its own").count(), 1, "{out}");
    assert_eq!(out.matches("    remedy: ").count(), 2, "one for each reason: {out}");
}

#[test]
fn programs_read_each_line_as_it_came() {
    let (_, out, err) = monitor(&agent(), &["-o", "json"]);
    let lines: Vec<DropLine> = out.lines().map(|line| serde_json::from_str(line).expect("a line")).collect();
    assert_eq!(lines.len(), 6, "{out}");
    assert_eq!(lines[1], dropped(DropReason::SpoofedAddress));
    assert!(
        matches!(lines[3], DropLine::NotShown { packets: 7, .. }) && !err.contains("more packets"),
        "{lines:?} {err}"
    );
}

#[test]
fn what_is_asked_for_reaches_the_agent_and_what_there_is_not_is_refused() {
    let agent = agent();
    let asked = ["--network", "shop", "--member", "1.web", "--direction", "in", "--reason", "ipv6"];
    monitor(&agent, &asked);
    assert_eq!(agent.asked(), [r#"watch_drops Some("shop") Some("1.web") Some(In) Some(Ipv6)"#]);
    for wrong in [["--direction", "up"], ["--reason", "bad_luck"], ["--count", "0"]] {
        let (output, ..) = monitor(&agent, &wrong);
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
    }
    let (output, _, err) = monitor(&agent, &["--pcap", "/nonexistent/drops.pcap"]);
    assert!(output.status.code() == Some(1) && err.contains("cannot write /nonexistent/drops.pcap"), "{err}");
    assert_eq!(agent.asked().len(), 1, "nothing was asked for in vain");
}

/// The format: draft-ietf-opsawg-pcap, in the byte order of this machine.
#[test]
fn a_capture_file_has_what_the_programs_kept_of_each_frame() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("drops.pcap");
    monitor(&agent(), &["--pcap", file.to_str().expect("text")]);
    let bytes = fs::read(&file).expect("the file");
    let field = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four"));
    assert_eq!((field(0), field(16), field(20)), (0xa1b2_3c4d, 56, 1), "nanoseconds, 56 bytes at most, Ethernet");
    assert_eq!(bytes.len(), 24 + 3 * (16 + 42), "a header, and three records");
    assert_eq!((field(24), field(28)), (1_795_975_392, 250_000), "when");
    assert_eq!((field(32), field(36)), (42, 134), "what was kept, and how much there was");
    assert_eq!(bytes[40..82], (0..42).collect::<Vec<u8>>());
}

#[test]
fn a_frame_without_ethernet_is_given_a_header_in_the_file_and_of_a_short_one_nothing_is_kept() {
    let lines = vec![
        DropLine::Drop(DroppedFrame { is_ethernet: false, ..frame(DropReason::GuardDestination) }),
        DropLine::Drop(DroppedFrame { bytes: 20, ..frame(DropReason::Truncated) }),
    ];
    let agent = FakeAgent::start(Memory { drops: lines.into(), ..Memory::default() });
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("drops.pcap");
    fs::write(&file, [7; 4096]).expect("an earlier file");
    monitor(&agent, &["--pcap", file.to_str().expect("text")]);
    let bytes = fs::read(&file).expect("the file");
    let field = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four"));
    assert_eq!(bytes.len(), 24 + (16 + 14 + 42) + 16, "the earlier one is gone");
    assert_eq!((field(32), field(36)), (56, 148));
    assert_eq!((&bytes[40..54], &bytes[54..56]), (&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0][..], &[0, 1][..]));
    assert_eq!((field(104), field(108)), (0, 20), "nothing was kept of it");
}

#[test]
fn a_file_keeps_what_it_has_where_nothing_can_be_watched() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("drops.pcap");
    fs::write(&file, "an earlier capture").expect("a file");
    let mut command = support::privnet(&["monitor", "--pcap", file.to_str().expect("text")]);
    let output = command.env("PRIVNET_SOCKET", directory.path().join("none")).output().expect("it starts");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(fs::read_to_string(&file).expect("the file"), "an earlier capture");
}
