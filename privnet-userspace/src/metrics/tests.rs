//! What one scrape looks like, and what promtool says to it.

use std::io::Write;
use std::process::{Command, Stdio};

use super::*;
use crate::agent::views::NamesView;
use crate::dns::engine::{Counted, Replies};

const NETWORK: &str = "pn-ad0fd6a1-d05e-40ea-bf63-c4f8a75a9d8c";

#[test]
fn a_scrape_is_this_text() {
    let text = render(&status(), &[counters("1.web.ap-x")], &[tunnel("1.web.ap-x")]).expect("rendered");
    let expected = include_str!("scrape.txt");
    assert_eq!(text, expected, "\n{text}");
}

#[test]
fn promtool_finds_nothing_to_say() {
    let spawned = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut promtool) = spawned else {
        return say_skipped("promtool_finds_nothing_to_say", "promtool");
    };
    let hostile = "a\"b\\c\nd{e=\"f\"} 1";
    let text = render(&status(), &[counters(hostile)], &[tunnel(hostile)]).expect("rendered");
    promtool.stdin.take().expect("piped").write_all(text.as_bytes()).expect("written");
    let output = promtool.wait_with_output().expect("finished");
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.is_empty(), "promtool: {said}\n{text}");
}

#[test]
fn a_hostile_label_stays_within_its_quotes() {
    let text = render(&status(), &[counters("a\"b\\c\nd")], &[]).expect("rendered");
    assert!(text.contains(r#"member="a\"b\\c\nd""#), "{text}");
}

#[test]
fn rows_with_the_same_labels_are_one_sample() {
    let text = render(&status(), &[counters("m"), counters("m")], &[]).expect("rendered");
    let samples: Vec<&str> = text.lines().filter(|line| line.starts_with("privnet_forwarded_packets_total{")).collect();
    assert_eq!(samples.len(), 1, "{text}");
    assert!(samples[0].ends_with("} 14"), "{text}");
}

#[test]
fn an_agent_with_nothing_to_do_has_no_empty_families() {
    let mut idle = status();
    idle.last_pass_unix_seconds = None;
    let text = render(&idle, &[], &[]).expect("rendered");
    assert!(!text.contains("packets_total") && !text.contains("last_pass"), "{text}");
    assert!(text.contains("privnet_networks 1\n"), "{text}");
}

#[expect(clippy::print_stdout, reason = "the harness counts these lines, and fails where nothing may be missing")]
fn say_skipped(test: &str, missing: &str) {
    println!("SKIPPED: {test}: {missing}");
}

fn status() -> StatusView {
    StatusView {
        version: "0.1.0".to_owned(),
        host: "one".parse().expect("host name"),
        vtep: [192, 0, 2, 1].into(),
        underlay_mtu: 1500,
        datapath: "ebpf".to_owned(),
        wireguard: "kernel".to_owned(),
        store: "embedded".to_owned(),
        networks: 1,
        members: 3,
        members_ready: 2,
        last_pass_unix_seconds: Some(1_700_000_000),
        problems: vec!["one".to_owned()],
        names: Some(NamesView {
            address: [127, 0, 0, 82].into(),
            containers: 2,
            networks: 1,
            members: 3,
            age_seconds: Some(4),
            is_stale: false,
            counted: Counted {
                replies: vec![Replies { transport: "udp".to_owned(), rcode: "noerror".to_owned(), count: 9 }],
                forwarded: 1,
                ..Counted::default()
            },
        }),
        clock_steps: 2,
    }
}

fn counters(member: &str) -> NetworkCounters {
    let row = |reason: &str, dropped, packets, bytes| CounterRow {
        member: member.to_owned(),
        direction: "egress".to_owned(),
        reason: reason.to_owned(),
        dropped,
        packets,
        bytes,
    };
    NetworkCounters {
        network: NETWORK.parse().expect("network"),
        network_name: "shop".parse().expect("name"),
        rows: vec![row("forwarded", false, 7, 700), row("spoofed_source_ip", true, 1, 60)],
    }
}

fn tunnel(member: &str) -> TunnelView {
    TunnelView {
        network_name: "shop".parse().expect("name"),
        network: NETWORK.parse().expect("network"),
        member: member.to_owned(),
        peers: 2,
        received_bytes: 1000,
        sent_bytes: 2000,
    }
}
