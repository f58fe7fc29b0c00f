//! The nouns of privnet, checked at birth. No verbs: nothing here reads a clock, a file or the kernel.

pub mod app;
mod attachment;
mod counted;
pub mod explain;
pub mod fleet;
#[cfg(test)]
pub(crate) mod hostile;
pub mod ids;
mod if_name;
pub mod keys;
pub mod member;
pub mod member_id;
pub mod mtu;
pub mod naming;
pub mod network;
pub mod port;
mod publish;

pub use app::{App, AppName};
pub use attachment::AttachmentName;
pub use counted::counted;
pub use explain::{ErrorCode, Explain, FileError};
pub use fleet::DEFAULT_VXLAN_PORT;
pub use ids::{AppId, ContainerRef, ContainerType, FleetId, HostName, NetworkId};
pub use if_name::IfName;
pub use keys::{PrivateKey, PublicKey};
pub use member::{Member, MemberName, MemberState, NameOf};
pub use member_id::MemberId;
pub use mtu::Mtu;
pub use naming::{Forwarding, NameOptions};
pub use network::{Network, NetworkName};
pub use port::{Port, PortName, Protocol};
pub(crate) use publish::published;
