//! What the grammar accepts, and what it refuses.

use clap::CommandFactory;

use super::*;

#[test]
fn the_grammar_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn a_container_is_named_in_exactly_one_way() {
    let base = ["privnet", "attach", "--network", "shop", "--app", "ap-x"];
    let parse = |more: &[&str]| Cli::try_parse_from(base.iter().chain(more));
    assert!(parse(&["--pid", "1"]).is_ok());
    assert!(parse(&["--netns", "/run/netns/a"]).is_ok());
    assert!(parse(&["--container", "a"]).is_ok());
    assert!(parse(&[]).is_err());
    assert!(parse(&["--pid", "1", "--container", "a"]).is_err());
}

#[test]
fn a_commands_own_flags_are_the_commands() {
    let cli = Cli::try_parse_from([
        "privnet",
        "run",
        "--network",
        "shop",
        "--app",
        "ap-x",
        "--",
        "sh",
        "-o",
        "json",
        "--network",
        "-c",
    ])
    .expect("parsed");
    assert_eq!(cli.output, Format::Table);
    let Verb::Run(run) = cli.verb else { panic!("not run") };
    assert_eq!(run.command, ["sh", "-o", "json", "--network", "-c"]);
}

#[test]
fn what_the_demo_is_told_is_passed_on() {
    for (line, expected, format) in [
        ("privnet demo", "", Format::Table),
        ("privnet demo --help", "--help", Format::Table),
        ("privnet demo --datapath bridge -o json", "--datapath bridge -o json", Format::Table),
        ("privnet -o json demo --remove privnet-demo-1", "--remove privnet-demo-1", Format::Json),
    ] {
        let cli = Cli::try_parse_from(line.split(' ')).expect("parsed");
        let Verb::Demo(demo) = cli.verb else { panic!("not the demo") };
        assert_eq!((demo.arguments.join(" ".as_ref()), cli.output), (expected.into(), format), "{line}");
    }
    // Wherever it stands, it arrives.
    let cli = Cli::try_parse_from(["privnet", "demo", "-o", "json"]).expect("parsed");
    let Verb::Demo(demo) = cli.verb else { panic!("not the demo") };
    assert!(cli.output == Format::Json || demo.arguments == ["-o", "json"], "{demo:?}");
}

#[test]
fn output_may_stand_anywhere() {
    for arguments in [["privnet", "-o", "json", "network", "list"], ["privnet", "network", "list", "-o", "json"]] {
        assert_eq!(Cli::try_parse_from(arguments).expect("parsed").output, Format::Json);
    }
}
