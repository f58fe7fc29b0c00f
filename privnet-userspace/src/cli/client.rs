//! The command line's side of the API: one method per request, no decisions.

use std::io;
use std::path::{Path, PathBuf};

use hyper::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::http::{self, HttpError, encode};
use crate::api::views::{
    Attach, Attached, Check, CreateNetwork, Detach, Detached, DomainNameView, MemberView, NetworkView, ResolveView,
};
use crate::api::{ControlError, ErrorCode};
use crate::api::{Deleted, ErrorBody};

/// Talks to the agent behind a control socket. Every error is the agent's own, or says why it cannot be asked.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

#[expect(missing_docs, reason = "each method is the request of its name, described by openapi.json")]
#[expect(clippy::missing_errors_doc, reason = "the errors are the agent's")]
impl Client {
    #[must_use]
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    pub async fn create_network(&self, request: &CreateNetwork) -> Result<NetworkView, ControlError> {
        self.ask(Method::POST, "/v1/networks", Some(json(request)?)).await
    }

    pub async fn networks(&self) -> Result<Vec<NetworkView>, ControlError> {
        self.get("/v1/networks").await
    }

    pub async fn network(&self, network: &str) -> Result<NetworkView, ControlError> {
        self.get(&format!("/v1/networks/{}", encode(network))).await
    }

    pub async fn delete_network(&self, network: &str) -> Result<Deleted, ControlError> {
        self.ask(Method::DELETE, &format!("/v1/networks/{}", encode(network)), None).await
    }

    pub async fn attach(&self, request: &Attach) -> Result<Attached, ControlError> {
        self.ask(Method::POST, "/v1/members", Some(json(request)?)).await
    }

    pub async fn detach(&self, request: &Detach) -> Result<Detached, ControlError> {
        self.ask(Method::POST, "/v1/members/detach", Some(json(request)?)).await
    }

    pub async fn members(&self, network: Option<&str>) -> Result<Vec<MemberView>, ControlError> {
        let query = network.map(|network| format!("?network={}", encode(network))).unwrap_or_default();
        self.get(&format!("/v1/members{query}")).await
    }

    pub async fn domain_names(&self, app: &str, network: Option<&str>) -> Result<Vec<DomainNameView>, ControlError> {
        let network = network.map(|network| format!("&network={}", encode(network))).unwrap_or_default();
        self.get(&format!("/v1/domain-names?app={}{network}", encode(app))).await
    }

    pub async fn resolve(&self, name: &str, kind: &str, asker: &str) -> Result<ResolveView, ControlError> {
        let (name, kind, asker) = (encode(name), encode(kind), encode(asker));
        self.get(&format!("/v1/resolve?name={name}&type={kind}&as={asker}")).await
    }

    /// The agent's state, as the type that the caller reads it as.
    pub async fn status<T: DeserializeOwned>(&self) -> Result<T, ControlError> {
        self.get("/v1/status").await
    }

    pub async fn doctor(&self) -> Result<Vec<Check>, ControlError> {
        self.get("/v1/doctor").await
    }

    pub async fn metrics(&self) -> Result<String, ControlError> {
        let bytes = self.exchange(Method::GET, "/metrics", None).await?;
        String::from_utf8(bytes.to_vec()).map_err(|error| not_an_agent(&self.socket, &error))
    }

    async fn get<T: DeserializeOwned>(&self, target: &str) -> Result<T, ControlError> {
        self.ask(Method::GET, target, None).await
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        target: &str,
        body: Option<Vec<u8>>,
    ) -> Result<T, ControlError> {
        let bytes = self.exchange(method, target, body).await?;
        serde_json::from_slice(&bytes).map_err(|error| not_an_agent(&self.socket, &error))
    }

    async fn exchange(
        &self,
        method: Method,
        target: &str,
        body: Option<Vec<u8>>,
    ) -> Result<hyper::body::Bytes, ControlError> {
        let answer = http::request(&self.socket, method, target, body).await;
        let (status, bytes) = answer.map_err(|error| unreachable(&self.socket, &error))?;
        if status.is_success() {
            return Ok(bytes);
        }
        let body: ErrorBody = serde_json::from_slice(&bytes).map_err(|error| not_an_agent(&self.socket, &error))?;
        Err(body.error)
    }
}

fn json(request: &impl Serialize) -> Result<Vec<u8>, ControlError> {
    serde_json::to_vec(request).map_err(|error| {
        let message = format!("the request cannot be written as JSON: {error}");
        ControlError::new(ErrorCode::InvalidArgument, message, "give names and paths in UTF-8")
    })
}

fn unreachable(socket: &Path, error: &HttpError) -> ControlError {
    let path = socket.display();
    match error {
        HttpError::Connect(io) if io.kind() == io::ErrorKind::PermissionDenied => ControlError::new(
            ErrorCode::PermissionDenied,
            format!("cannot talk to the agent at {path}: {error}"),
            "run it as root, or as a user of the group privnet",
        ),
        HttpError::Connect(_) => ControlError::new(
            ErrorCode::AgentUnavailable,
            format!("the agent is not running: cannot connect to {path}: {error}"),
            "start it as root with `privnet agent` (from a checkout: `cargo xtask run`), or give its --socket",
        ),
        HttpError::Exchange(_) => ControlError::new(
            ErrorCode::AgentUnavailable,
            format!("the agent at {path} did not answer: {error}"),
            "look into its log, and try again",
        ),
        HttpError::Timeout => ControlError::new(
            ErrorCode::Timeout,
            format!("the agent at {path} did not answer in time: {error}"),
            "the agent may still finish: see `privnet status` and its log",
        ),
    }
}

fn not_an_agent(socket: &Path, error: &dyn std::fmt::Display) -> ControlError {
    ControlError::new(
        ErrorCode::Internal,
        format!(
            "the program that listens at {} does not answer as an agent of this version does: {error}",
            socket.display()
        ),
        "compare `privnet version` with the version in `privnet status`",
    )
}
