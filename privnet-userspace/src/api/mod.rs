//! The control socket: HTTP/1.1 and JSON; requests become intents, status is read out.
//!
//! Everybody who can connect may read; root and the group `privnet` may change ([`peer`]). It holds no truth and does
//! no work: every answer is the [`Service`]'s, and in production that is the agent's [`Control`](crate::agent::Control).
//!
//! | module | what it owns |
//! |---|---|
//! | [`service`] | what the surface asks of an agent |
//! | [`router`](mod@router) | the routes; `openapi.json` describes each |
//! | [`socket`] | the socket file and its permissions |
//! | [`peer`] | who may change things |
//! | [`serve`] | accepting, bounding and ending connections |
//! | [`problem`] | errors as HTTP |
//! | [`version`] | what this binary is |

pub mod body;
pub mod peer;
pub mod problem;
pub mod router;
pub mod serve;
pub mod service;
pub mod socket;
pub mod version;

#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod serve_tests;
#[cfg(test)]
mod tests;

pub use crate::agent::{ControlError, ErrorCode, views};
pub use crate::metrics::exposition;
pub use body::Deleted;
pub use peer::Accounts;
pub use problem::ErrorBody;
pub use router::{Surface, metrics_router, router};
pub use serve::{serve_control, serve_metrics, serve_waiting};
pub use service::Service;
pub use socket::ControlSocket;
pub use version::VersionView;
