//! What is asked of Docker's API: the name of a network, and which container an endpoint belongs to.
//!
//! `GET /containers/NAME/json` is asked of containers that have joined: before that dockerd does not answer it. At its own
//! start dockerd answers nothing before the containers have joined that it starts.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::future::join_all;
use hyper::{Method, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::OnceCell;

use super::sandbox;
use crate::agent::{Durability, rename_over};
use crate::api::http;
use crate::api::identity::Container;

/// Where Docker listens unless `DOCKER_HOST` says otherwise.
pub const DEFAULT_SOCKET: &str = "/var/run/docker.sock";
/// How long an answer may take while a container waits; a millisecond was seen.
const PATIENCE: Duration = Duration::from_millis(300);
/// How long one may take while a person waits: on a host that is busy, half a second was seen.
const LONG: Duration = Duration::from_secs(5);

/// Docker's API.
#[derive(Debug)]
pub struct Engine {
    socket: PathBuf,
    patience: Duration,
    root: OnceCell<PathBuf>,
    /// Where the root directory is kept that Docker has told, for the agent that starts when Docker is silent.
    kept: Option<PathBuf>,
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

/// Of a container, what tells why it does not run.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Inspected {
    name: String,
    state: State,
    host_config: HostConfig,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct State {
    /// Why it could not be started; empty for one that ended by itself.
    #[serde(default)]
    error: String,
    /// Its first process; 0 while it does not run.
    #[serde(default)]
    pid: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HostConfig {
    restart_policy: RestartPolicy,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RestartPolicy {
    /// Empty or `no` where it is not restarted.
    #[serde(default)]
    name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Version {
    version: String,
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
        Self { socket: socket.to_owned(), patience: PATIENCE, root: OnceCell::new(), kept: None }
    }

    /// The one that `DOCKER_HOST` names, else the usual one.
    #[must_use]
    pub fn of_environment() -> Self {
        let named = std::env::var("DOCKER_HOST").ok();
        let socket = named.as_deref().and_then(|host| host.strip_prefix("unix://")).filter(|path| !path.is_empty());
        Self::at(Path::new(socket.unwrap_or(DEFAULT_SOCKET)))
    }

    /// The same, which keeps in a file what it is to know while Docker is silent.
    #[must_use]
    pub fn keeping(self, file: &Path) -> Self {
        Self { kept: Some(file.to_owned()), ..self }
    }

    /// The same, for which nothing but a person waits.
    #[must_use]
    pub fn with_time(self) -> Self {
        Self { patience: LONG, ..self }
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

    /// The container whose processes alone are in the namespace at `netns`, by what Docker keeps on the disk; nothing where
    /// Docker has never said where that is, and before Docker 28, where no process is there.
    pub async fn container_in(&self, netns: &Path) -> Option<Container> {
        let (root, netns) = (self.known_root()?, netns.to_owned());
        tokio::task::spawn_blocking(move || sandbox::container_in(&netns, &root)).await.ok().flatten()
    }

    /// Where the `resolv.conf` of a container is; nothing when Docker does not say in time.
    pub async fn resolv_conf(&self, container: &str) -> Option<PathBuf> {
        let of_container = |root: &Path| root.join("containers").join(container);
        // An id is no other container's: where it is, the root is still the one.
        if let Some(directory) = self.known_root().as_deref().map(of_container).filter(|directory| directory.is_dir()) {
            return Some(directory.join("resolv.conf"));
        }
        Some(of_container(self.root().await?).join("resolv.conf"))
    }

    async fn root(&self) -> Option<&Path> {
        let ask = || async {
            let root = self.get::<Info>("/info").await.ok_or(())?.docker_root_dir;
            if let Some(file) = &self.kept
                && let Err(error) = rename_over(file, Durability::ForGood, root.as_os_str().as_bytes())
            {
                tracing::warn!("where Docker keeps its containers is not kept: {error:#}");
            }
            Ok::<_, ()>(root)
        };
        self.root.get_or_try_init(ask).await.ok().map(PathBuf::as_path)
    }

    /// Docker's root directory, as far as it was ever told.
    fn known_root(&self) -> Option<PathBuf> {
        let kept = || fs::read(self.kept.as_ref()?).ok().map(|text| PathBuf::from(OsStr::from_bytes(&text)));
        self.root.get().cloned().or_else(kept)
    }

    /// Docker's version; nothing when Docker does not say in time.
    pub async fn version(&self) -> Option<String> {
        self.get::<Version>("/version").await.map(|it| it.version)
    }

    /// The names of the networks of a driver; nothing when Docker does not say in time.
    pub async fn networks_of(&self, driver: &str) -> Option<Vec<String>> {
        let filters = serde_json::json!({ "driver": [driver] }).to_string();
        let listed: Vec<Network> = self.get(&format!("/networks?filters={}", http::encode(&filters))).await?;
        Some(listed.into_iter().map(|network| network.name).collect())
    }

    /// The names of the containers of these networks that Docker restarts, and that do not run since they could not be started.
    pub async fn given_up(&self, networks: &[String]) -> Vec<String> {
        // Docker takes none for all.
        if networks.is_empty() {
            return Vec::new();
        }
        let filters = serde_json::json!({ "network": networks, "status": ["exited", "created"] }).to_string();
        let target = format!("/containers/json?all=1&filters={}", http::encode(&filters));
        let listed = self.get::<Vec<Listed>>(&target).await.unwrap_or_default();
        // Of one that is starting Docker says nothing: it is waited for once.
        let asked = listed.iter().map(|Listed { id, .. }| self.inspect(id));
        let given_up = |Inspected { name, state, host_config }: Inspected| {
            let is_restarted = !matches!(host_config.restart_policy.name.as_str(), "" | "no");
            (is_restarted && !state.error.is_empty()).then(|| name.trim_start_matches('/').to_owned())
        };
        join_all(asked).await.into_iter().flatten().filter_map(given_up).collect()
    }

    /// The first process of a container that runs; nothing when Docker does not say in time.
    pub async fn process(&self, container: &str) -> Option<u32> {
        self.inspect(container).await.map(|found| found.state.pid).filter(|pid| *pid != 0)
    }

    /// Docker answers this of a container that starts only after its `Join`s.
    async fn inspect(&self, container: &str) -> Option<Inspected> {
        self.get(&format!("/containers/{}/json", http::encode(container))).await
    }

    async fn get<T: DeserializeOwned>(&self, target: &str) -> Option<T> {
        let answer = http::request(&self.socket, Method::GET, target, None);
        let answer = tokio::time::timeout(self.patience, answer).await;
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
