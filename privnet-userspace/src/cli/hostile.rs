//! Hostile command lines and configuration files: understood, or refused with what is wrong and where.

use clap::Parser as _;
use proptest::prelude::*;

use super::agent::config::parse;
use super::args::Cli;
use crate::model::hostile::{near_text, odd_text};

const FILE: &str = "host = \"a\"\nvtep = \"192.0.2.7\"\nstate_dir = \"/srv\"\nstore = \"etcd\"\n\
                    etcd_endpoints = [\"http://192.0.2.1:2379\"]\ndatapath = \"bridge\"\nwireguard = \"userspace\"\n\
                    metrics_listen = \"127.0.0.1:9100\"\ndns_address = \"off\"\n";
const WORDS: [&str; 40] = [
    "agent",
    "network",
    "create",
    "list",
    "show",
    "delete",
    "attach",
    "detach",
    "run",
    "connect",
    "curl",
    "backend.demo:8000",
    "--listen",
    "members",
    "domain-names",
    "status",
    "doctor",
    "mtu",
    "monitor",
    "--direction",
    "metrics",
    "demo",
    "version",
    "--network",
    "--app",
    "--type",
    "--number",
    "--address",
    "--netns",
    "--pid",
    "--subnet",
    "--socket",
    "-o",
    "json",
    "--",
    "shop",
    "1",
    "10.240.0.2",
    "--help",
    "--config",
];

fn word() -> impl Strategy<Value = String> {
    prop_oneof![4 => prop::sample::select(WORDS.to_vec()).prop_map(str::to_owned), 1 => odd_text()]
}

proptest! {
    #[test]
    fn any_command_line_is_understood_or_refused(words in prop::collection::vec(word(), 0..12)) {
        let line = std::iter::once("privnet".to_owned()).chain(words);
        if let Err(refused) = Cli::try_parse_from(line) {
            prop_assert!(!refused.to_string().is_empty());
            prop_assert!([0, 2].contains(&refused.exit_code()), "{}", refused.exit_code());
        }
    }

    #[test]
    fn any_configuration_is_understood_or_refused_with_its_line(bytes in near_text(&[FILE])) {
        let text = String::from_utf8_lossy(&bytes);
        if let Err((line, message)) = parse(&text) {
            prop_assert!(!message.is_empty() && !message.contains('\n'), "{:?}", message);
            let lines = text.matches('\n').count() + 1;
            prop_assert!(line.is_none_or(|line| (1..=lines).contains(&line)), "line {:?} of {}", line, lines);
        }
    }
}

#[test]
fn the_corpus_is_understood() {
    parse(FILE).expect("a configuration");
    for line in ["privnet status -o json", "privnet network create shop", "privnet members --network shop"] {
        Cli::try_parse_from(line.split(' ')).expect("a command line");
    }
}
