//! What an attach asks for, parsed.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use super::views::{Attachment, ResolvConfFile};
use crate::model::ids::ContainerNumber;
use crate::model::{App, ContainerType, Port};

/// What an attach asks for.
pub struct MemberWish {
    /// The app.
    pub app: App,
    /// The type of container.
    pub kind: ContainerType,
    /// Its number; when absent, the one that its namespace has already, or the lowest that is free in all networks.
    pub number: Option<ContainerNumber>,
    /// Its address; one that has rested longest when absent.
    pub address: Option<Ipv4Addr>,
    /// The ports that it declares by name.
    pub ports: BTreeSet<Port>,
    /// The container's `resolv.conf` that it names.
    pub resolv_conf: Option<ResolvConfFile>,
    /// What the container runtime says of it that asks.
    pub attachment: Option<Attachment>,
}
