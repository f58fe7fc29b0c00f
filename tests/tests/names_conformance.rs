//! What `dig` is told, row by row; the twins of every refusal, by any spelling, type and transport; and one container's flood.
//!
//! ```text
//! container a (in shop)          container b (in bank)
//! 127.0.0.82:53 ──┐              127.0.0.82:53 ──┐
//!                 └── one DNS process ───────────┘
//! ```
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "what was measured is part of the transcript")]

mod names_lab;

use std::fs;
use std::net::UdpSocket;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use names_lab::{APP, BANK, Container, Lab, SHOP, SUFFIX};
use privnet::dns::DEFAULT_ADDRESS;
use privnet_tests::lab::{has_program, skip};

/// More addresses than fit into a reply by UDP.
const LONG: u8 = 200;

/// What one answer of `dig` says: status, flags, how many answers, how many in authority.
fn summary(text: &str) -> String {
    let after = |mark: &str, until: char| {
        let found = text.lines().find_map(|line| line.split_once(mark)).map(|(_, rest)| rest);
        found.and_then(|rest| rest.split(until).next()).unwrap_or("?").trim().to_owned()
    };
    let (status, flags) = (after("status: ", ','), after(";; flags: ", ';'));
    format!("{status} {flags} {}/{}", after("ANSWER: ", ','), after("AUTHORITY: ", ','))
}

#[test]
fn dig_is_told_what_the_table_says() {
    if !has_program("dig") {
        return skip("dig");
    }
    let lab = Lab::serving(3);
    let container = lab.served("a", &[SHOP]);
    let web = format!("{APP}.{SHOP}.{SUFFIX}");
    let mixed = format!("wEb.{}", web.replace("private", "PriVate"));
    let table: [(String, &str, &str); 20] = [
        (format!("{web} A"), "NOERROR qr aa rd ra 3/0", ""),
        (format!("+norecurse {web} A"), "NOERROR qr aa ra 3/0", ""),
        (format!("+tcp {web} A"), "NOERROR qr aa rd ra 3/0", ""),
        (format!("1.web.{web} A"), "NOERROR qr aa rd ra 1/0", " 5 IN A 10.240.0.2"),
        (format!("1.web.{web} AAAA"), "NOERROR qr aa rd ra 0/1", "SOA"),
        (format!("1.web.{web} HTTPS"), "NOERROR qr aa rd ra 0/1", "SOA"),
        (format!("9.web.{web} A"), "NXDOMAIN qr aa rd ra 0/1", "SOA"),
        (format!("9.web.{web} AAAA"), "NXDOMAIN qr aa rd ra 0/1", "SOA"),
        (format!("+notcp 1.web.{web} ANY"), "NOERROR qr aa rd ra 1/0", ""),
        (format!("_http._tcp.{web} SRV"), "NOERROR qr aa rd ra 3/0", " SRV 0 1 80 1.web."),
        (format!("_members.shop.{SUFFIX} TXT"), "NOERROR qr aa rd ra 1/0", " TXT "),
        ("-x 10.240.0.2".to_owned(), "NOERROR qr aa rd ra 1/0", " PTR 1.web."),
        (format!("{SUFFIX} SOA"), "NOERROR qr aa rd ra 1/0", ""),
        (format!("{SHOP}.{SUFFIX} NS"), "NOERROR qr aa rd ra 1/0", ""),
        (format!("{mixed} A"), "NOERROR qr aa rd ra 3/0", &mixed),
        (format!("+edns=1 +noednsnegotiation {web} A"), "BADVERS qr rd 0/0", ""),
        (format!("+ednsopt=65001:0102 {web} A"), "NOERROR qr aa rd ra 3/0", ""),
        (format!("-c CH {web} A"), "REFUSED qr rd 0/0", ""),
        (format!("+noedns +opcode=notify {web} SOA"), "NOTIMP qr rd 0/0", ""),
        (format!("{web} TKEY"), "NOTIMP qr rd 0/0", ""),
    ];
    for (question, expected, contains) in &table {
        let text = container
            .prints(&format!("dig @{DEFAULT_ADDRESS} +noall +comments +question +answer +authority {question}"));
        // Whether other names can be asked for is said or not where the question itself is refused.
        let found = summary(&text);
        let found = if expected.contains(" ra ") { found } else { found.replace(" ra ", " ") };
        assert_eq!(found, *expected, "{question}: {text}");
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words.contains(contains), "{question}: {text}");
        assert!(!text.contains("OPT=65001") && !text.contains("WARNING"), "{question}: {text}");
    }
    let transfer = container.run(&format!("dig @{DEFAULT_ADDRESS} {SHOP}.{SUFFIX} AXFR"));
    assert!(String::from_utf8_lossy(&transfer.stdout).contains("Transfer failed"));
}

#[test]
fn a_long_list_is_cut_by_udp_and_whole_by_tcp() {
    if !has_program("dig") {
        return skip("dig");
    }
    let lab = Lab::serving(LONG);
    let container = lab.served("a", &[SHOP]);
    let dig = |more: &str| container.prints(&format!("dig @{DEFAULT_ADDRESS} {more} {APP}.{SHOP}.{SUFFIX} A"));
    for (more, most) in [("+ignore +noedns", 512), ("+ignore +bufsize=512", 512), ("+ignore +bufsize=4096", 1232)] {
        let text = dig(more);
        assert!(summary(&text).starts_with("NOERROR qr aa tc rd ra "), "{more}: {text}");
        let size = text.lines().find_map(|line| line.strip_prefix(";; MSG SIZE  rcvd: ")).expect("a size");
        assert!((most / 2..=most).contains(&size.trim().parse().expect("a number")), "{more}: {size}");
    }
    for more in ["", "+tcp", "+noedns"] {
        assert_eq!(summary(&dig(more)), format!("NOERROR qr aa rd ra {LONG}/0"), "{more}");
    }
}

#[test]
fn two_questions_in_one_are_refused_and_one_is_answered() {
    let lab = Lab::serving(1);
    let container = lab.served("a", &[SHOP]);
    let ask = |questions: u8| {
        let mut query = vec![0x12, 0x67, 1, 0, 0, questions, 0, 0, 0, 0, 0, 0];
        for _ in 0..questions {
            for label in SUFFIX.split('.') {
                query.push(u8::try_from(label.len()).expect("short"));
                query.extend_from_slice(label.as_bytes());
            }
            query.extend_from_slice(&[0, 0, 6, 0, 1]);
        }
        let ask = move || {
            let socket = UdpSocket::bind("127.0.0.1:0").expect("bound");
            socket.set_read_timeout(Some(Duration::from_secs(2))).expect("set");
            socket.send_to(&query, (DEFAULT_ADDRESS, 53)).expect("sent");
            let mut reply = [0; 512];
            socket.recv(&mut reply).expect("a reply");
            reply[3] & 0xf
        };
        container.netns.run_blocking(ask).expect("the namespace's thread")
    };
    assert_eq!(ask(1), 0);
    assert_eq!(ask(2), 1, "FORMERR (RFC 9619)");
}

#[test]
fn another_networks_names_do_not_exist_by_any_spelling_type_or_transport() {
    if !has_program("dig") {
        return skip("dig");
    }
    let lab = Lab::serving(3);
    let (shop, bank) = (lab.served("a", &[SHOP]), lab.served("b", &[BANK]));
    let mut questions = Vec::new();
    for network in [SHOP, "shop"] {
        let apex = format!("{network}.{SUFFIX}");
        let of_app =
            ["", "web.", "1.web.", "_http._tcp.", "_http._tcp.1.web."].map(|prefix| format!("{prefix}{APP}.{apex}"));
        questions.extend(of_app.into_iter().chain([format!("_members.{apex}"), apex]));
    }
    let spellings = |name: &String| [name.clone(), name.to_uppercase(), format!("{name}.")];
    let mut lines = Vec::new();
    for name in questions.iter().flat_map(spellings) {
        for kind in ["A", "AAAA", "SRV", "TXT", "PTR", "ANY", "SOA"] {
            lines.extend(["+notcp", "+tcp"].map(|transport| format!("{transport} {name} {kind}")));
        }
    }
    let batch = lab.ground.directory().join("questions");
    fs::write(&batch, lines.join("\n")).expect("written");
    let statuses = |container: &Container| {
        let options = "+noall +comments +answer +nocookie";
        let text = container.prints(&format!("dig @{DEFAULT_ADDRESS} {options} -f {}", batch.display()));
        let headers = text.split(";; ->>HEADER<<-").skip(1);
        headers.map(|part| summary(&format!(";; ->>HEADER<<-{part}"))).collect::<Vec<_>>()
    };
    let (own, other) = (statuses(&shop), statuses(&bank));
    assert_eq!((own.len(), other.len()), (lines.len(), lines.len()));
    for ((line, own), other) in lines.iter().zip(own).zip(other) {
        assert!(other.starts_with("NXDOMAIN ") && other.contains(" 0/"), "{line}, from the other network: {other}");
        assert!(own.starts_with("NOERROR "), "the twin, {line}: {own}");
    }
    println!("{} questions, each with its twin", lines.len());
    // No server of ours knows that address: the question goes where all others do.
    let reverse = |container: &Container| summary(&container.prints(&format!("dig @{DEFAULT_ADDRESS} -x 10.240.0.2")));
    assert!(reverse(&shop).ends_with(" 1/0") && reverse(&bank).contains(" 0/"));
}

fn dnsperf(container: &Container, lab: &Lab, more: &[&str]) -> Child {
    let queries = lab.ground.directory().join("queries");
    fs::write(&queries, format!("1.web.{APP}.{SHOP}.{SUFFIX} A\n1.web.{APP}.{BANK}.{SUFFIX} A\n")).expect("written");
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", container.path.display())).args(["dnsperf", "-s", &DEFAULT_ADDRESS.to_string()]);
    command.arg("-d").arg(queries).args(more).stdout(Stdio::piped()).stderr(Stdio::null());
    command.spawn().expect("dnsperf starts")
}

#[test]
fn a_container_that_floods_its_own_socket_costs_another_no_answer() {
    if !has_program("dnsperf") {
        return skip("dnsperf");
    }
    let lab = Lab::serving(3);
    let (shop, bank) = (lab.served("a", &[SHOP]), lab.served("b", &[BANK]));
    let report = |child: Child| String::from_utf8(child.wait_with_output().expect("it ends").stdout).expect("UTF-8");
    let line = |report: &str, what: &str| {
        report.lines().find(|line| line.contains(what)).unwrap_or_default().trim().to_owned()
    };
    let paced = ["-l", "2", "-Q", "500", "-t", "2"];
    let alone = report(dnsperf(&bank, &lab, &paced));
    let flood = dnsperf(&shop, &lab, &["-l", "4", "-q", "2000", "-c", "8"]);
    let beside = report(dnsperf(&bank, &lab, &paced));
    let flood = report(flood);
    println!(
        "alone: {}; beside a flood of {}: {}",
        line(&alone, "Average Latency"),
        line(&flood, "per second"),
        line(&beside, "Average Latency")
    );
    for report in [alone, beside] {
        assert!(line(&report, "Queries lost").contains(" 0 ("), "{report}");
    }
}
