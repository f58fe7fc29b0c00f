//! What the handlers of the API share.

use std::sync::Arc;

use super::peer::Accounts;
use crate::agent::AgentApi;

/// What every handler may use.
#[derive(Clone)]
pub struct Surface {
    pub(super) agent: Arc<dyn AgentApi>,
    pub(super) accounts: Arc<Accounts>,
}

impl Surface {
    /// The surface of one agent. `accounts` lists the members of the group that may change things.
    #[must_use]
    pub fn new(agent: Arc<dyn AgentApi>, accounts: Accounts) -> Self {
        Self { agent, accounts: Arc::new(accounts) }
    }
}
