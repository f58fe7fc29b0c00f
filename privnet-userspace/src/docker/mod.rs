//! Docker's network plugin: the calls of dockerd as requests to the agent.
//!
//! `docker network create -d privnet --ipam-driver null` and `docker run --network …` end here. The room translates: an
//! endpoint of Docker is a member whose device is handed over ([`Handovers`]); who the container is, its labels and its name
//! say. It keeps which network of Docker's is which of privnet's; all else is in the agent's journal.
//!
//! | module | what it owns |
//! |---|---|
//! | `protocol` | the JSON of dockerd's calls |
//! | [`plugin`] | what each call does |
//! | `arrival` | what follows a `Join`, until the container has its device and its names |
//! | `engine` | what is asked of Docker's API |
//! | [`checks`] | what Docker makes of the plugin, for `doctor` |
//! | [`units`] | in which order systemd starts them, for `doctor` |
//! | `sandbox` | which container a namespace is of, where Docker's API is silent |
//! | `networks` | which network of Docker's is which of privnet's, on the disk |

mod arrival;
pub mod checks;
mod engine;
mod networks;
pub mod plugin;
mod protocol;
mod sandbox;
#[cfg(test)]
mod tests;
pub mod units;

use std::future::Future;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Router};

pub use crate::agent::handover::Handovers;
use crate::api::peer::Peer;
use crate::api::{ControlSocket, serve_plugin};
pub use engine::{DEFAULT_SOCKET, Engine};
pub use plugin::Plugin;

/// Where dockerd looks for the plugin of the driver `privnet`.
pub const PLUGIN_SOCKET: &str = "/run/docker/plugins/privnet.sock";
/// The content type of the protocol's answers.
const CONTENT_TYPE: &str = "application/vnd.docker.plugins.v1.2+json";

/// Serves the plugin until `end`.
pub async fn serve(plugin: Arc<Plugin>, socket: ControlSocket, end: impl Future<Output = ()> + Send) {
    serve_plugin(socket, Router::new().fallback(answer).with_state(plugin), end).await;
}

async fn answer(
    State(plugin): State<Arc<Plugin>>,
    Extension(peer): Extension<Peer>,
    uri: Uri,
    body: Bytes,
) -> Response {
    let method = uri.path().trim_start_matches('/').to_owned();
    // A call goes on when dockerd hangs up: it is not told again.
    let task = tokio::spawn(async move { plugin.call(&method, &body, peer.pid).await });
    let answer = task.await.unwrap_or_else(|_| Err("the agent has a fault: see its log".to_owned()));
    let body = answer.unwrap_or_else(|error| serde_json::json!({ "Err": error }));
    (StatusCode::OK, [(header::CONTENT_TYPE, CONTENT_TYPE)], body.to_string()).into_response()
}
