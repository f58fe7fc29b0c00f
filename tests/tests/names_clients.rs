//! What programs find: every resolver that containers bring along, with short lists and long ones, and the twin of each:
//! another network's name by the same means.
//!
//! ```text
//! container a (in shop)          container b (in bank)
//! 127.0.0.82:53 ──┐              127.0.0.82:53 ──┐
//!                 └── one DNS process ───────────┘
//! ```
#![forbid(unsafe_code)]

mod names_lab;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use names_lab::upstream::{ANSWER, Upstream};
use names_lab::{APP, BANK, Container, Lab, SHOP, SUFFIX};
use privnet::names::Forwarding;
use privnet_tests::lab::{has_program, say, skip, skip_part};

const C_ARES: &str = "c-ares";
/// A list longer than 512 octets, than 1232, and of one.
const LONG: u8 = 200;

/// A resolver: what it is called, and how it is asked for a name's addresses.
struct Client {
    what: &'static str,
    line: String,
    /// Whether it asks by TCP when an answer was cut off.
    takes_long: bool,
}

impl Client {
    fn new(what: &'static str, line: impl Into<String>) -> Self {
        Self { what, line: line.into(), takes_long: true }
    }

    /// The addresses that it finds; nothing when it says that there is no such name, or prints none.
    fn finds(&self, container: &Container, name: &str) -> BTreeSet<String> {
        let output = container.run(&self.line.replace("NAME", name));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let words = text.split(|c: char| c.is_whitespace() || c == '\'' || c == ',');
        words.filter(|word| word.starts_with("10.240.")).map(str::to_owned).collect()
    }
}

/// Compiles a program of the lab for a client; nothing when its compiler or library is not here.
fn compile(lab: &Lab, what: &str, compiler: &str, source: &str, more: &[&str]) -> Option<String> {
    if !has_program(compiler) {
        skip_part(what, compiler);
        return None;
    }
    let program = lab.ground.directory().join(format!("{source}-{compiler}"));
    let source = self::source(source).with_extension("c");
    let status = Command::new(compiler).arg("-o").arg(&program).arg(source).args(more).status().expect("it starts");
    if !status.success() {
        assert_eq!(what, C_ARES, "{compiler} does not compile what needs no library");
        skip_part(what, "the library c-ares");
        return None;
    }
    Some(program.display().to_string())
}

fn source(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/names_lab").join(file)
}

fn clients(lab: &Lab) -> Vec<Client> {
    let at = "@127.0.0.82";
    let mut clients = vec![Client::new("glibc getent", "getent ahosts NAME")];
    let tools = [
        ("busybox", Client { takes_long: false, ..Client::new("busybox", "busybox nslookup -type=a NAME") }),
        ("dig", Client::new("dig by UDP", format!("dig {at} +short NAME A"))),
        ("dig", Client::new("dig by TCP", format!("dig {at} +tcp +short NAME A"))),
        ("dig", Client::new("dig without EDNS", format!("dig {at} +noedns +short NAME A"))),
        ("kdig", Client::new("kdig", format!("kdig {at} +short NAME A"))),
        ("kdig", Client::new("kdig by TCP", format!("kdig {at} +tcp +short NAME A"))),
    ];
    for (tool, client) in tools {
        if has_program(tool) {
            clients.push(client);
        } else {
            skip_part(client.what, tool);
        }
    }
    if Command::new("/usr/bin/python3")
        .args(["-c", "import dns.resolver"])
        .status()
        .is_ok_and(|status| status.success())
    {
        clients.push(Client::new("dnspython", format!("/usr/bin/python3 {} NAME", source("resolve.py").display())));
    } else {
        skip_part("dnspython", "dnspython");
    }
    if let Some(program) = compile(lab, "glibc", "gcc", "resolve", &["-static-libgcc"]) {
        clients.push(Client::new("glibc", format!("{program} NAME")));
    }
    if let Some(program) = compile(lab, "musl, static", "musl-gcc", "resolve", &["-static"]) {
        // Before 1.2.4 musl does not know TCP, and takes of a long answer what fits.
        clients.push(Client { takes_long: false, ..Client::new("musl, static", format!("{program} NAME")) });
    }
    if let Some(program) = compile(lab, C_ARES, "gcc", "resolve_cares", &["-lcares"]) {
        clients.push(Client::new(C_ARES, format!("{program} NAME")));
    }
    clients
}

#[test]
fn every_resolver_finds_the_names_of_its_network_and_no_other() {
    let lab = Lab::serving(LONG);
    let (shop, bank) = (lab.served("a", &[SHOP]), lab.served("b", &[BANK]));
    let all: BTreeSet<String> = (2..=LONG + 1).map(|last| format!("10.240.0.{last}")).collect();
    let (one, theirs) = (format!("7.web.{APP}.{SHOP}.{SUFFIX}"), format!("1.web.{APP}.{BANK}.{SUFFIX}"));
    for client in clients(&lab) {
        let what = client.what;
        say(&format!("# {what}"));
        assert_eq!(client.finds(&shop, &one), ["10.240.0.8".to_owned()].into(), "{what}");
        assert_eq!(client.finds(&shop, &one.to_uppercase()), ["10.240.0.8".to_owned()].into(), "{what}");
        let alias = one.replace(SHOP, "shop");
        assert_eq!(client.finds(&shop, &alias), ["10.240.0.8".to_owned()].into(), "{what}");
        let list = client.finds(&shop, &format!("{APP}.{SHOP}.{SUFFIX}"));
        if client.takes_long {
            assert_eq!(list, all, "{what} has the whole list");
        } else {
            assert!(list.len() > 20 && list.is_subset(&all), "{what} has some of the list: {list:?}");
        }
        // The twin: the same question, in the other network, both ways.
        assert_eq!(client.finds(&shop, &theirs), BTreeSet::new(), "{what}");
        assert_eq!(client.finds(&bank, &one), BTreeSet::new(), "{what}");
        assert_eq!(client.finds(&bank, &theirs), ["10.240.4.2".to_owned()].into(), "{what}");
    }
}

/// Names that hold an id, or that are of the asker's own app, as programs without a search list ask for them: with an answer,
/// and without.
fn without_suffix() -> [(String, Option<&'static str>); 8] {
    [
        ("7.web".to_owned(), Some("10.240.0.8")),
        (format!("7.web.{APP}"), Some("10.240.0.8")),
        (format!("7.web.{APP}").to_uppercase(), Some("10.240.0.8")),
        (format!("7.web.{APP}.{SHOP}"), Some("10.240.0.8")),
        (format!("nosuch.{APP}"), None),
        (format!("nosuch.{APP}.{SHOP}"), None),
        (format!("nosuch.{APP}.shop"), None),
        (format!("1.web.{APP}.{BANK}"), None),
    ]
}

#[test]
fn no_resolver_leads_a_name_of_ours_to_another_server_and_each_leads_others_there() {
    let upstream = Upstream::start(true);
    let lab = Lab::forwarding(LONG, &Forwarding::Servers(vec![upstream.address()]));
    let shop = lab.served("a", &[SHOP]);
    for client in clients(&lab) {
        let what = client.what;
        say(&format!("# {what}"));
        for (name, address) in without_suffix() {
            assert_eq!(client.finds(&shop, &name), address.map(str::to_owned).into_iter().collect(), "{what}: {name}");
        }
        assert_eq!(upstream.asked(), [] as [String; 0], "{what}");
        // The twins: a domain of others, and one whose top-level domain is a network of the container's as well.
        for name in ["example.com", "nosuch.shop"] {
            let output = shop.run(&client.line.replace("NAME", name));
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(text.contains(ANSWER), "{what}: {name}: {text}");
            assert!(upstream.asked().iter().any(|asked| asked == name), "{what}: {:?}", upstream.asked());
        }
        upstream.forget();
    }
}

#[test]
fn a_dead_server_of_others_keeps_no_name_of_ours_waiting() {
    let silent = Upstream::start(false);
    let lab = Lab::forwarding(1, &Forwarding::Servers(vec![silent.address()]));
    let shop = lab.served("a", &[SHOP]);
    for client in clients(&lab) {
        for name in [format!("nosuch.{APP}"), format!("nosuch.{APP}.{SUFFIX}"), SHOP.to_owned()] {
            assert_eq!(client.finds(&shop, &name), BTreeSet::new(), "{}: {name}", client.what);
        }
    }
    // Not known, which libc says by the code 2; a server that fails is asked again and again.
    assert_eq!(shop.run(&format!("getent ahosts nosuch.{APP}")).status.code(), Some(2));
    assert_eq!(silent.asked(), [] as [String; 0]);
    if has_program("dig") {
        let text = shop.prints(&format!("dig @127.0.0.82 nosuch.{APP} A"));
        assert!(text.contains("status: NXDOMAIN") && text.contains("AUTHORITY: 1"), "{text}");
    }
    shop.run("getent ahosts nosuch.shop");
    assert!(silent.asked().contains(&"nosuch.shop".to_owned()), "the twin: {:?}", silent.asked());
}

#[test]
fn a_name_without_an_aaaa_record_is_there_all_the_same() {
    if !has_program("dig") {
        return skip("dig");
    }
    let lab = Lab::serving(3);
    let shop = lab.served("a", &[SHOP]);
    let name = format!("1.web.{APP}.{SHOP}.{SUFFIX}");
    let text = shop.prints(&format!("dig @127.0.0.82 {name} AAAA"));
    assert!(text.contains("status: NOERROR") && text.contains("ANSWER: 0, AUTHORITY: 1"), "{text}");
    let text = shop.prints(&format!("dig @127.0.0.82 x.{name} AAAA"));
    assert!(text.contains("status: NXDOMAIN") && text.contains("ANSWER: 0, AUTHORITY: 1"), "{text}");
    assert!(!text.contains("WARNING"), "{text}");
    let output = shop.run(&format!("getent ahosts x.{name}"));
    assert_eq!(output.status.code(), Some(2), "a name that is not there is not found");
}

#[test]
fn an_address_leads_back_to_its_name_and_a_service_to_its_port() {
    if !has_program("dig") {
        return skip("dig");
    }
    let lab = Lab::serving(3);
    let (shop, bank) = (lab.served("a", &[SHOP]), lab.served("b", &[BANK]));
    let name = format!("1.web.{APP}.{SHOP}.{SUFFIX}");
    assert!(shop.prints("getent hosts 10.240.0.2").contains(&name));
    assert_eq!(bank.run("getent hosts 10.240.0.2").status.code(), Some(2));
    let text = shop.prints(&format!("dig @127.0.0.82 +short _http._tcp.{name} SRV"));
    assert_eq!(text, format!("0 1 80 {name}."));
}
