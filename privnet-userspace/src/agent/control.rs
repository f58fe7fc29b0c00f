//! The agent's door for the surfaces.

use super::error::ControlError;
use super::views::{
    Attach, Attached, Check, CreateNetwork, Detach, Detached, MemberView, NetworkCounters, NetworkView, StatusView,
    TunnelView,
};

/// A handle to a running agent. Clones speak to the same agent.
#[derive(Clone)]
pub struct Control {}

impl Control {
    /// Creates a network.
    ///
    /// # Errors
    /// Nothing was created.
    pub async fn create_network(&self, _request: CreateNetwork) -> Result<NetworkView, ControlError> {
        Err(unfinished())
    }

    /// All networks, by name.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn networks(&self) -> Result<Vec<NetworkView>, ControlError> {
        Err(unfinished())
    }

    /// One network, by id or name.
    ///
    /// # Errors
    /// When there is none.
    pub async fn network(&self, _id_or_name: &str) -> Result<NetworkView, ControlError> {
        Err(unfinished())
    }

    /// Deletes a network that has no members.
    ///
    /// # Errors
    /// Nothing was deleted.
    pub async fn delete_network(&self, _id_or_name: &str) -> Result<(), ControlError> {
        Err(unfinished())
    }

    /// Makes a container a member; returns when it can send.
    ///
    /// # Errors
    /// Nothing of the member is left.
    pub async fn attach(&self, _request: Attach) -> Result<Attached, ControlError> {
        Err(unfinished())
    }

    /// Ends a membership. Idempotent.
    ///
    /// # Errors
    /// The membership is as it was, or is being ended by the next pass.
    pub async fn detach(&self, _request: Detach) -> Result<Detached, ControlError> {
        Err(unfinished())
    }

    /// Members of one network (id or name) or of all, by network, app, type and number.
    ///
    /// # Errors
    /// When the store cannot be read, or the network does not exist.
    pub async fn members(&self, _network: Option<&str>) -> Result<Vec<MemberView>, ControlError> {
        Err(unfinished())
    }

    /// The agent's state.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn status(&self) -> Result<StatusView, ControlError> {
        Err(unfinished())
    }

    /// What the host can and cannot do.
    pub async fn doctor(&self) -> Vec<Check> {
        Vec::new()
    }

    /// The counters of every network with members on this host.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub async fn counters(&self) -> Result<Vec<NetworkCounters>, ControlError> {
        Err(unfinished())
    }

    /// The WireGuard figures of every member on this host.
    ///
    /// # Errors
    /// When a device cannot be read.
    pub async fn tunnels(&self) -> Result<Vec<TunnelView>, ControlError> {
        Err(unfinished())
    }
}

fn unfinished() -> ControlError {
    ControlError::new(super::error::ErrorCode::Unsupported, "the agent is being built", "wait")
}
