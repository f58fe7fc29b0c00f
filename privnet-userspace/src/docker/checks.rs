//! What Docker on this host makes of the plugin: checks of `doctor`.

use std::path::Path;
use std::time::Duration;

use hyper::{Method, StatusCode};

use super::engine::Engine;
use crate::agent::views::{Check, CheckStatus};
use crate::api::http;

/// The call that every plugin answers.
const ACTIVATE: &str = "/Plugin.Activate";
/// How long it may take for that: it needs nobody else to answer.
const PRESENCE: Duration = Duration::from_secs(3);
/// What makes a plugin answer that nobody serves.
const SERVE: &str = "`systemctl start privnet-docker.socket`, or give the agent --docker-socket; as another user than root: try \
                     again as root";
/// What makes one answer that hangs.
const RESTART: &str = "`systemctl restart privnet`: Docker's calls wait for an answer until then";

/// Whether the plugin whose socket is at `plugin` answers, and which containers Docker gave up while it did not. Nothing on a
/// host where no Docker answers at `engine`.
pub async fn checks(engine: &Engine, plugin: &Path) -> Vec<Check> {
    let Some(version) = engine.version().await else { return Vec::new() };
    let driver = plugin.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
    let networks = engine.networks_of(&driver).await.unwrap_or_default();
    let (answer, given_up) = tokio::join!(activate(plugin), engine.given_up(&networks));
    let mut checks = vec![served(&driver, &version, &networks, (plugin, answer))];
    if !networks.is_empty() {
        checks.push(of_given_up(&given_up));
    }
    checks
}

/// Asks the plugin as dockerd does first.
///
/// # Errors
/// Why there is no answer, and what to do.
async fn activate(plugin: &Path) -> Result<(), (String, &'static str)> {
    let answer = http::request(plugin, Method::POST, ACTIVATE, None);
    match tokio::time::timeout(PRESENCE, answer).await {
        Ok(Ok(answer)) if answer.status == StatusCode::OK => Ok(()),
        Ok(Ok(answer)) => Err((format!("it answers {}", answer.status), SERVE)),
        Ok(Err(error)) => Err((error.to_string(), SERVE)),
        Err(_) => Err((format!("it has answered nothing for {} s", PRESENCE.as_secs()), RESTART)),
    }
}

fn served(
    driver: &str,
    version: &str,
    networks: &[String],
    (plugin, answer): (&Path, Result<(), (String, &'static str)>),
) -> Check {
    let plugin = plugin.display();
    let (status, detail, remedy) = match (answer, networks) {
        (Ok(()), []) => (CheckStatus::Ok, format!("Docker {version} finds the driver {driver} at {plugin}"), ""),
        (Ok(()), some) => (
            CheckStatus::Ok,
            format!("Docker {version} finds the driver {driver} of its network {} at {plugin}", some.join(", ")),
            "",
        ),
        (Err(_), []) => (
            CheckStatus::Ok,
            format!("Docker {version} has no network of the driver {driver}, and nothing answers at {plugin}"),
            "",
        ),
        (Err((error, remedy)), some) => (
            CheckStatus::Fail,
            format!(
                "Docker {version} does not find the driver {driver} of its network {} at {plugin}: {error}; containers of it \
                 do not start, and a dockerd that starts waits for it",
                some.join(", ")
            ),
            remedy,
        ),
    };
    Check { check: "docker_plugin".to_owned(), status, detail, remedy: remedy.to_owned() }
}

fn of_given_up(names: &[String]) -> Check {
    let (status, detail, remedy) = match names {
        [] => (CheckStatus::Ok, "Docker has given up no container that it restarts".to_owned(), String::new()),
        some => (
            CheckStatus::Fail,
            format!(
                "Docker has given up {}, which it restarts otherwise: its network could not be made",
                some.join(", ")
            ),
            format!("docker start {}", some.join(" ")),
        ),
    };
    Check { check: "docker_containers".to_owned(), status, detail, remedy }
}
