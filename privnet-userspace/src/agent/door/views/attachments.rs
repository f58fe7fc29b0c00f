//! What container runtimes attached, by the names that they have for it.

use serde::{Deserialize, Serialize};

use super::{MemberRef, ProblemView};
use crate::model::{AttachmentName, IfName, NetworkId, NetworkName};

/// What a container runtime says of an attachment that it makes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Attachment {
    /// The runtime's own name for it, by which it is found and ended.
    pub name: AttachmentName,
    /// How the interface is called in the container; `wg<n>` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<IfName>,
}

/// Names the attachment that is to end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct EndAttachment {
    /// The runtime's own name for it.
    pub name: AttachmentName,
}

/// A membership of this host that a container runtime made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(rename = "MadeAttachment"))]
pub struct AttachmentView {
    /// The runtime's own name for it.
    pub name: AttachmentName,
    /// The network.
    pub network: NetworkId,
    /// The network's name; absent when the network is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_name: Option<NetworkName>,
    /// The member.
    #[serde(flatten)]
    pub member: MemberRef,
    /// The WireGuard interface in the app netns.
    pub interface: IfName,
    /// Whether it can send.
    pub ready: bool,
    /// What does not work.
    #[serde(default)]
    pub problems: Vec<ProblemView>,
}
