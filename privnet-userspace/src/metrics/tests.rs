//! What one scrape looks like, and what promtool says to it.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};

use proptest::prelude::*;

use super::*;
use crate::agent::views::{
    MemberProblems, NamesCounted, NamesView, RepliesCounted, ResponseCode, ScrapeErrorKind, Transport,
};
use crate::datapath::{Direction, DropReason};
use crate::store::StoreKind;
use crate::topology::Datapath;
use crate::wireguard::Backend;

const NETWORK: &str = "pn-ad0fd6a1-d05e-40ea-bf63-c4f8a75a9d8c";

#[test]
fn a_scrape_is_this_text() {
    let text = render(&scrape("1.web.ap-x"));
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
    let text = render(&scrape(hostile));
    promtool.stdin.take().expect("piped").write_all(text.as_bytes()).expect("written");
    let output = promtool.wait_with_output().expect("finished");
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.is_empty(), "promtool: {said}\n{text}");
}

#[test]
fn a_hostile_label_stays_within_its_quotes() {
    let text = render(&scrape("a\"b\\c\nd"));
    assert!(text.contains(r#"member="a\"b\\c\nd""#), "{text}");
}

#[test]
fn rows_with_the_same_labels_are_one_sample() {
    let text = render(&Scrape { counters: vec![counters("m"), counters("m")], ..scrape("m") });
    let samples: Vec<&str> = text.lines().filter(|line| line.starts_with("privnet_forwarded_packets_total{")).collect();
    assert_eq!(samples.len(), 1, "{text}");
    assert!(samples[0].ends_with("} 14"), "{text}");
}

#[test]
fn every_outcome_and_direction_is_a_sample_and_described() {
    let (described, drops) = (include_str!("../../../docs/metrics.md"), include_str!("../../../docs/drops.md"));
    for outcome in Outcome::all() {
        let text = render(&Scrape { counters: vec![rows("m", [(outcome, 1, 60)])], ..scrape("m") });
        let kind = if matches!(outcome, Outcome::Dropped(_)) { "dropped" } else { "forwarded" };
        let sample = format!(
            "privnet_{kind}_packets_total{{network=\"{NETWORK}\",network_name=\"shop\",member=\"m\",direction=\"out\",reason=\"{}\"}} 1\n",
            outcome.name()
        );
        assert!(text.contains(&sample), "{sample}{text}");
        let is_described = match outcome {
            Outcome::Dropped(reason) => drops.contains(&format!("\n## `{}`\n", reason.name())),
            Outcome::ForwardedLocal | Outcome::ForwardedRemote | Outcome::ArpAnswered => {
                described.contains(&format!("| `{}` |", outcome.name()))
            }
        };
        assert!(is_described, "{} is not described", outcome.name());
    }
    for direction in Direction::ALL {
        assert!(described.contains(&format!("`{}`", direction.name())), "{} is not described", direction.name());
    }
}

#[test]
fn every_family_of_the_scrape_is_described_with_its_kind_and_no_other_is() {
    let described: BTreeMap<&str, &str> = include_str!("../../../docs/metrics.md")
        .lines()
        .filter_map(|line| line.strip_prefix("- `privnet_")?.split_once("):")?.0.split_once("` ("))
        .collect();
    let text = render(&scrape("m"));
    let rendered = text.lines().filter_map(|line| line.strip_prefix("# TYPE privnet_")?.split_once(' ')).collect();
    assert_eq!(described, rendered);
}

proptest! {
    #[test]
    fn what_is_written_reads_back_whatever_a_label_holds(member in any::<String>(), value in any::<u64>()) {
        let scrape = Scrape {
            counters: vec![rows(&member, [(Outcome::ForwardedLocal, value, 0)])],
            tunnels: Vec::new(),
            ..scrape("m")
        };
        let samples = exposition::parse(&render(&scrape)).expect("readable");
        let found: Vec<_> = samples.iter().filter(|sample| sample.name == "privnet_forwarded_packets_total").collect();
        prop_assert_eq!(found.len(), 1);
        prop_assert_eq!(&found[0].labels["member"], &member);
        #[expect(clippy::cast_precision_loss, reason = "Prometheus reads every value as a float")]
        let expected = value as f64;
        prop_assert!((found[0].value - expected).abs() < f64::EPSILON * expected.max(1.0));
    }
}

#[test]
fn an_agent_with_nothing_to_do_has_no_empty_families() {
    let status = StatusView { last_pass_unix_seconds: None, ..status() };
    let text = render(&Scrape { status, counters: Vec::new(), tunnels: Vec::new(), ..scrape("m") });
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
        datapath: Datapath::Ebpf,
        wireguard: Backend::Kernel,
        store: StoreKind::Embedded,
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
            counted: NamesCounted {
                replies: vec![RepliesCounted { transport: Transport::Udp, rcode: ResponseCode::NoError, count: 9 }],
                forwarded: 1,
                ..NamesCounted::default()
            },
        }),
        clock_steps: 2,
        hosts: 3,
        hosts_unreachable: vec!["two".parse().expect("host")],
        members_unreachable: 2,
        store_age_seconds: None,
    }
}

fn scrape(member: &str) -> Scrape {
    let mut errors: BTreeMap<_, _> = ScrapeErrorKind::ALL.iter().map(|kind| (*kind, 0)).collect();
    errors.insert(ScrapeErrorKind::Wireguard, 1);
    let problems = vec![MemberProblems {
        network_name: "shop".parse().expect("a name"),
        network: NETWORK.parse().expect("an id"),
        member: member.to_owned(),
        count: 1,
    }];
    Scrape { status: status(), counters: vec![counters(member)], tunnels: vec![tunnel(member)], problems, errors }
}

fn counters(member: &str) -> NetworkCounters {
    let spoofed = Outcome::Dropped(DropReason::SpoofedAddress);
    rows(member, [(Outcome::ForwardedLocal, 7, 700), (spoofed, 1, 60)])
}

fn rows(member: &str, outcomes: impl IntoIterator<Item = (Outcome, u64, u64)>) -> NetworkCounters {
    let row = |(outcome, packets, bytes)| CounterRow {
        member: member.to_owned(),
        direction: Direction::Out,
        outcome,
        packets,
        bytes,
    };
    NetworkCounters {
        network: NETWORK.parse().expect("network"),
        network_name: "shop".parse().expect("name"),
        rows: outcomes.into_iter().map(row).collect(),
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
