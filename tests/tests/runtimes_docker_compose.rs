//! `examples/compose`, by Docker Compose itself: two apps in two networks, and a page that shows which of them reach each other.
//!
//! ```text
//!  curl, on the host ──▶ web ══ shop ══ api ══ bank ══ ledger
//!                                ║
//!                                db
//! ```
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use privnet::agent::views::MemberView;
use privnet::model::MemberState;
use privnet_tests::lab::image::{IMAGE, database};
use privnet_tests::lab::{Docker, Lab, Options, has_program, say, skip, wait_until};

/// Of the host's resolver, which does not answer.
const RESOLVER: &str = "192.168.77.1";

#[test]
fn the_example_of_compose_shows_who_reaches_whom() {
    if !Docker::has_compose() || ["dockerd", "docker", "containerd", "runc"].iter().any(|program| !has_program(program))
    {
        return skip("Docker Compose 2");
    }
    let lab = Lab::new("the_example_of_compose_shows_who_reaches_whom");
    let host = lab.host(&Options::ebpf().with_docker());
    let docker = Docker::beside(&host, RESOLVER);
    let programs = [Docker::tools(), database(lab.directory())].concat();
    docker.import(&programs);
    docker.compose(&example(), "up --detach --quiet-pull", &[("IMAGE", IMAGE), ("DB_IMAGE", IMAGE)]);
    let names = || {
        let members = host.members().expect("the members");
        let text = |it: &MemberView| {
            let app = it.member.app_name.as_ref().map_or_else(|| it.member.app.to_string(), ToString::to_string);
            format!("{} {}.{}.{app}", it.network_name, it.member.number, it.member.kind)
        };
        let mut names: Vec<String> =
            members.iter().filter(|it| it.state == MemberState::Ready && it.names.len() == 1).map(text).collect();
        names.sort();
        names
    };
    let all = ["bank 1.api.stall", "bank 1.ledger.bank", "shop 1.api.stall", "shop 1.db.stall", "shop 1.web.stall"];
    wait_until("all are members", || names() == all);
    let web = docker.inspect("stall-web-1", ".NetworkSettings.Networks.stall_default.IPAddress");
    let page = || {
        let output = host.space.output(&format!("curl --silent --max-time 20 http://{web}/"));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let mut shown = String::new();
    wait_until("the page shows who reaches whom", || {
        shown = page();
        say(&shown);
        shown.contains("balance 100 apples") && shown.contains("the api says: visit ")
    });
    assert!(!shown.contains("unknown") && shown.contains("to web: nothing, as it should"), "{shown}");
    docker.compose(&example(), "down --timeout 1", &[("IMAGE", IMAGE), ("DB_IMAGE", IMAGE)]);
    wait_until("no member is left", || names().is_empty());
    drop(docker);
    drop(host);
    lab.finish();
}

fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/compose/compose.yaml")
}
