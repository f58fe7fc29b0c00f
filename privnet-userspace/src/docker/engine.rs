//! What is asked of Docker's API: the name of a network, and which container an endpoint belongs to.
//!
//! `GET /containers/NAME/json` is not asked: dockerd answers it for a container that starts only after `Join` is answered. At
//! its own start dockerd answers nothing before the containers have joined that it starts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper::{Method, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::OnceCell;

use super::identity::Container;
use crate::api::http;

/// Where Docker listens unless `DOCKER_HOST` says otherwise.
pub const DEFAULT_SOCKET: &str = "/var/run/docker.sock";
/// How long an answer may take; a millisecond was seen.
const PATIENCE: Duration = Duration::from_millis(300);

/// Docker's API.
#[derive(Debug)]
pub struct Engine {
    socket: PathBuf,
    root: OnceCell<PathBuf>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Network {
    name: String,
    #[serde(default)]
    containers: Option<BTreeMap<String, Endpoint>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Endpoint {
    #[serde(rename = "EndpointID", default)]
    id: String,
    /// The container's.
    #[serde(default)]
    name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    id: String,
    #[serde(default)]
    names: Option<Vec<String>>,
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Info {
    docker_root_dir: PathBuf,
}

impl Engine {
    /// The one at `socket`.
    #[must_use]
    pub fn at(socket: &Path) -> Self {
        Self { socket: socket.to_owned(), root: OnceCell::new() }
    }

    /// The one that `DOCKER_HOST` names, else the usual one.
    #[must_use]
    pub fn of_environment() -> Self {
        let named = std::env::var("DOCKER_HOST").ok();
        let socket = named.as_deref().and_then(|host| host.strip_prefix("unix://")).filter(|path| !path.is_empty());
        Self::at(Path::new(socket.unwrap_or(DEFAULT_SOCKET)))
    }

    /// The name of a network; nothing when Docker does not say in time.
    pub async fn network_name(&self, network: &str) -> Option<String> {
        self.get::<Network>(&format!("/networks/{}", http::encode(network))).await.map(|network| network.name)
    }

    /// The container of an endpoint; nothing when Docker does not say in time.
    pub async fn container(&self, network: &str, endpoint: &str) -> Option<Container> {
        let network: Network = self.get(&format!("/networks/{}", http::encode(network))).await?;
        // While it joins, the endpoint stands under its own id, and only the name says which container it is.
        let mut containers = network.containers.unwrap_or_default().into_values();
        let name = containers.find(|found| found.id == endpoint)?.name;
        let filters = serde_json::json!({ "name": [format!("^/{name}$")] }).to_string();
        let listed: Vec<Listed> =
            self.get(&format!("/containers/json?all=1&filters={}", http::encode(&filters))).await?;
        let own = format!("/{name}");
        let is_it = |container: &Listed| container.names.iter().flatten().any(|name| *name == own);
        let Listed { id, labels, .. } = listed.into_iter().find(is_it)?;
        Some(Container { id, name, labels: labels.unwrap_or_default() })
    }

    /// Where the `resolv.conf` of a container is; nothing when Docker does not say in time.
    pub async fn resolv_conf(&self, container: &str) -> Option<PathBuf> {
        let root = self
            .root
            .get_or_try_init(|| async { self.get::<Info>("/info").await.map(|it| it.docker_root_dir).ok_or(()) });
        Some(root.await.ok()?.join("containers").join(container).join("resolv.conf"))
    }

    async fn get<T: DeserializeOwned>(&self, target: &str) -> Option<T> {
        let answer = http::request(&self.socket, Method::GET, target, None);
        let answer = tokio::time::timeout(PATIENCE, answer).await;
        match answer {
            Ok(Ok(answer)) if answer.status == StatusCode::OK => serde_json::from_slice(&answer.body).ok(),
            Ok(Ok(answer)) => {
                tracing::debug!("Docker answers {} to {target}", answer.status);
                None
            }
            Ok(Err(error)) => {
                tracing::debug!("Docker does not answer {target}: {error}");
                None
            }
            Err(_) => {
                tracing::debug!("Docker does not answer {target} in time");
                None
            }
        }
    }
}
