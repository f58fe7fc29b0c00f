//! In which order systemd starts Docker and the socket of its plugin: a check of `doctor`.
//!
//! A dockerd that starts while the plugin's socket is not there gives up the containers of its networks. So the socket has to be
//! enabled, and docker.service has to come after it. docker.service must not require it either: then Docker ends with it.

use std::path::Path;
use std::process::Command;

use crate::agent::views::{Check, CheckStatus};

/// Is there while systemd is the service manager, sd_booted(3).
const BOOTED: &str = "/run/systemd/system";
const DOCKER: &str = "docker.service";
const SOCKET: &str = "privnet-docker.socket";
/// What comes before every service that does not say otherwise, and after the sockets that are enabled.
const BEFORE_SERVICES: [&str; 2] = ["sockets.target", "basic.target"];
/// Those that make Docker end with one of privnet's units, as systemctl shows them.
const REQUIRING: [&str; 3] = ["Requires", "Requisite", "BindsTo"];

/// What systemd says of a unit, `Property=value` a line.
struct Unit<'a>(&'a str);

impl<'a> Unit<'a> {
    fn property(&self, name: &str) -> &'a str {
        self.0.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=')).unwrap_or("")
    }

    fn names(&self, property: &str, unit: &str) -> bool {
        self.property(property).split_whitespace().any(|word| word == unit)
    }

    fn is_loaded(&self) -> bool {
        self.property("LoadState") == "loaded"
    }
}

/// The check; nothing where systemd does not start Docker.
pub async fn order() -> Option<Check> {
    if !Path::new(BOOTED).is_dir() {
        return None;
    }
    let mut command = Command::new("systemctl");
    command.args(["show", "--property=LoadState,UnitFileState,After", DOCKER, SOCKET]);
    command.arg(format!("--property={}", REQUIRING.join(","))).env("LC_ALL", "C");
    let output = tokio::task::spawn_blocking(move || command.output()).await.ok()?.ok()?;
    judge(&String::from_utf8_lossy(&output.stdout))
}

/// `shown` has the two units in the order in which they were asked for, parted by an empty line.
fn judge(shown: &str) -> Option<Check> {
    let mut units = shown.split("\n\n").map(Unit);
    let (docker, socket) = (units.next()?, units.next()?);
    if !docker.is_loaded() {
        return None;
    }
    let warn = |detail: String, remedy: String| (CheckStatus::Warn, detail, remedy);
    let gives_up = "a dockerd that starts before the agent gives up the containers that it restarts";
    let required = REQUIRING.iter().find_map(|property| {
        let mut units = docker.property(property).split_whitespace();
        units.find(|unit| unit.starts_with("privnet")).map(|unit| (*property, unit))
    });
    let (status, detail, remedy) = if let Some((property, unit)) = required {
        warn(
            format!("{DOCKER} has {property}={unit}: Docker ends when {unit} does"),
            format!("write Wants={unit} in its place (`systemctl cat docker`)"),
        )
    } else if !socket.is_loaded() {
        warn(
            format!("no {SOCKET} is there: {gives_up}"),
            "install the package, or start the agent before Docker".to_owned(),
        )
    } else if !socket.property("UnitFileState").starts_with("enabled") {
        let state = socket.property("UnitFileState");
        warn(format!("{SOCKET} is {state}: {gives_up}"), format!("systemctl enable --now {SOCKET}"))
    } else if BEFORE_SERVICES.iter().chain([&SOCKET]).any(|unit| docker.names("After", unit)) {
        (CheckStatus::Ok, format!("{DOCKER} starts after {SOCKET}"), String::new())
    } else {
        warn(
            format!("{DOCKER} does not wait for {SOCKET}: {gives_up}"),
            format!("give {DOCKER} After={SOCKET} (`systemctl edit docker`)"),
        )
    };
    Some(Check { check: "unit_order".to_owned(), status, detail, remedy })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABSENT: &str = "LoadState=not-found\nUnitFileState=\nAfter=";

    fn told(docker: &str, socket: &str) -> Option<(CheckStatus, String, String)> {
        judge(&format!("{docker}\n\n{socket}\n")).map(|check| (check.status, check.detail, check.remedy))
    }

    #[test]
    fn docker_starts_after_the_plugins_socket_or_what_is_in_the_way_is_named() {
        let docker = "Requires=system.slice sysinit.target\nRequisite=\nBindsTo=\nAfter=network.target basic.target\n\
                      LoadState=loaded\nUnitFileState=enabled";
        let socket = "After=sysinit.target\nLoadState=loaded\nUnitFileState=enabled";
        assert_eq!(told(docker, socket).map(|told| told.0), Some(CheckStatus::Ok));
        assert_eq!(told(ABSENT, socket), None, "there is no Docker, or none that systemd starts");
        assert_eq!(judge(""), None, "systemd does not answer");
        let direct = docker.replace("basic.target", SOCKET);
        assert_eq!(told(&direct, socket).map(|told| told.0), Some(CheckStatus::Ok));
        for (docker, socket, said, to_do) in [
            (docker, ABSENT, "no privnet-docker.socket", "install the package"),
            (docker, &*socket.replace("enabled", "disabled"), "is disabled", "systemctl enable --now"),
            (docker, &*socket.replace("enabled", "masked"), "is masked", "systemctl enable --now"),
            (&*docker.replace("basic.target", ""), socket, "does not wait", "After=privnet-docker.socket"),
            (
                &*docker.replace("BindsTo=", "BindsTo=privnet.service"),
                socket,
                "Docker ends when privnet.service does",
                "Wants=privnet.service",
            ),
        ] {
            let (status, detail, remedy) = told(docker, socket).expect("a check");
            assert!(
                status == CheckStatus::Warn && detail.contains(said) && remedy.contains(to_do),
                "{detail}: {remedy}"
            );
        }
    }
}
