//! What the control socket asks of an agent: one method per request, so that tests can answer in the agent's place.

use async_trait::async_trait;

use crate::agent::views::{
    Attach, Attached, Check, CreateNetwork, Detach, Detached, DomainNameView, MemberView, NetworkView, ResolveView,
    Scrape, StatusView,
};
use crate::agent::{Control, ControlError};

/// The agent as the control socket sees it. See [`Control`] for what each method promises.
#[async_trait]
#[expect(missing_docs, reason = "each method is the one of Control with its name, and is described there")]
pub trait Service: Send + Sync + 'static {
    async fn create_network(&self, request: CreateNetwork) -> Result<NetworkView, ControlError>;
    async fn networks(&self) -> Result<Vec<NetworkView>, ControlError>;
    async fn network(&self, id_or_name: &str) -> Result<NetworkView, ControlError>;
    async fn delete_network(&self, id_or_name: &str) -> Result<(), ControlError>;
    async fn attach(&self, request: Attach) -> Result<Attached, ControlError>;
    async fn detach(&self, request: Detach) -> Result<Detached, ControlError>;
    async fn members(&self, network: Option<&str>) -> Result<Vec<MemberView>, ControlError>;
    async fn domain_names(&self, app: &str, network: Option<&str>) -> Result<Vec<DomainNameView>, ControlError>;
    async fn resolve(&self, name: &str, kind: &str, asker: &str) -> Result<ResolveView, ControlError>;
    async fn status(&self) -> Result<StatusView, ControlError>;
    async fn doctor(&self) -> Vec<Check>;
    async fn scrape(&self) -> Result<Scrape, ControlError>;
}

#[async_trait]
impl Service for Control {
    async fn create_network(&self, request: CreateNetwork) -> Result<NetworkView, ControlError> {
        Control::create_network(self, request).await
    }

    async fn networks(&self) -> Result<Vec<NetworkView>, ControlError> {
        Control::networks(self).await
    }

    async fn network(&self, id_or_name: &str) -> Result<NetworkView, ControlError> {
        Control::network(self, id_or_name).await
    }

    async fn delete_network(&self, id_or_name: &str) -> Result<(), ControlError> {
        Control::delete_network(self, id_or_name).await
    }

    async fn attach(&self, request: Attach) -> Result<Attached, ControlError> {
        Control::attach(self, request).await
    }

    async fn detach(&self, request: Detach) -> Result<Detached, ControlError> {
        Control::detach(self, request).await
    }

    async fn members(&self, network: Option<&str>) -> Result<Vec<MemberView>, ControlError> {
        Control::members(self, network).await
    }

    async fn domain_names(&self, app: &str, network: Option<&str>) -> Result<Vec<DomainNameView>, ControlError> {
        Control::domain_names(self, app, network).await
    }

    async fn resolve(&self, name: &str, kind: &str, asker: &str) -> Result<ResolveView, ControlError> {
        Control::resolve(self, name, kind, asker).await
    }

    async fn status(&self) -> Result<StatusView, ControlError> {
        Control::status(self).await
    }

    async fn doctor(&self) -> Vec<Check> {
        Control::doctor(self).await
    }

    async fn scrape(&self) -> Result<Scrape, ControlError> {
        Control::scrape(self).await
    }
}
