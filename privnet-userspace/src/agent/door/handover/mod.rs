//! A member whose device another program, such as Docker, moves into the container and out of it.
//!
//! ```text
//!  prepare            give                        settle, adopt              take back            end
//! ┌─────────────┐    ┌──────────────────────┐    ┌──────────────────────┐   ┌────────────────┐
//! │ handover    │───▶│ the program's netns: │───▶│ the container's:     │──▶│ the program's: │──▶ removed wherever
//! │ netns: wg0  │    │ pn<digits>, down     │    │ wg<n>, found by alias│   │ pn<digits>     │    it is
//! └─────────────┘    └──────────────────────┘    └──────────────────────┘   └────────────────┘
//! ```
//!
//! The membership is an ordinary one: of a namespace of ours at first, of the container's since that is there. The journal
//! holds how far it is ([`Stage`]), and while the device is under way no pass makes, changes or removes it.

pub(in crate::agent) mod netns;
mod steps;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use ipnet::Ipv4Net;

use super::error::ControlError;
use super::views::Attach;
pub use crate::agent::host::journal::{DEVICE, Stage};
use crate::model::{IfName, NetworkId};

/// A member whose device is handed over, as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandedOver {
    /// Its address, with the prefix length of its network.
    pub address: Ipv4Net,
    /// How far it is.
    pub stage: Stage,
    /// What was asked for with the device, by key.
    pub wishes: BTreeMap<String, String>,
    /// Whether it has a name that was made up.
    pub is_unnamed: bool,
    /// Whether its place may be another container's, until it is named.
    pub is_on_trust: bool,
    /// Whether the container's namespace is known.
    pub is_settled: bool,
    /// Where its namespace is looked for.
    pub path: PathBuf,
    /// Whether its `resolv.conf` is known.
    pub has_resolv_conf: bool,
}

/// What a device is made with.
#[derive(Clone, Debug)]
pub struct Wish {
    /// The network, the address, and a name that is made up until the container's is known.
    pub attach: Attach,
    /// What is kept with it, by key.
    pub wishes: BTreeMap<String, String>,
    /// Whether it may be the device of a member that ended while the store was away, and was made with the same wishes but
    /// [`DEVICE`]: its name is to be told before it is used.
    pub may_come_back: bool,
}

/// What another program that moves devices asks of the agent, by digits of its own for each device.
#[async_trait]
pub trait Handovers: Send + Sync + 'static {
    /// The network of this id or name; a name that no network has is a new network's.
    ///
    /// # Errors
    /// When there is no network of this id, or none can be made of this name.
    async fn network_for(&self, id_or_name: &str) -> Result<NetworkId, ControlError>;

    /// The member whose device is handed over under these digits; nothing when there is none, or it has ended.
    fn handed_over(&self, digits: u64) -> Option<HandedOver>;

    /// Why the store does not answer, where it does not.
    fn store_fault(&self) -> Option<String>;

    /// The digits of all members whose devices are handed over.
    fn all_handed_over(&self) -> Vec<u64>;

    /// Makes a member in a namespace of ours, whose device is to be given away. The same digits again are the same member.
    ///
    /// # Errors
    /// Nothing of it is left, or is being removed.
    async fn prepare(&self, digits: u64, wish: Wish) -> Result<HandedOver, ControlError>;

    /// Gives the device of a member to the program whose namespace is at `path`, for the container whose namespace is, or
    /// will be, at `container`. Returns the name that it has there; it is down.
    ///
    /// # Errors
    /// The member is to be ended.
    async fn give(&self, digits: u64, path: &Path, container: &Path) -> Result<IfName, ControlError>;

    /// Makes the container's namespace the member's, once it is there: the guard and the names come before the device does,
    /// and the backstop after it. Returns whether it is there.
    ///
    /// # Errors
    /// The namespace cannot be entered, or the record not changed.
    async fn settle(&self, digits: u64) -> Result<bool, ControlError>;

    /// Looks for the device in the container, and adopts it by the name that it has there. Returns whether it is there.
    ///
    /// # Errors
    /// The container cannot be looked into, or the record not changed.
    async fn adopt(&self, digits: u64) -> Result<bool, ControlError>;

    /// Gives a member its own name, for the one that was made up.
    ///
    /// # Errors
    /// It has the name that it had.
    async fn name(&self, digits: u64, attach: Attach) -> Result<(), ControlError>;

    /// Looks for the container's namespace at `path` from now on, which outlives the path that was given. Returns whether it is
    /// there.
    ///
    /// # Errors
    /// The record cannot be changed.
    async fn find_at(&self, digits: u64, path: &Path) -> Result<bool, ControlError>;

    /// Writes the `resolv.conf` at `path`, the container's; says what could not be done.
    async fn write_resolv_conf(&self, digits: u64, path: &Path) -> Vec<String>;

    /// Leaves the device to the program that takes it out of the container.
    ///
    /// # Errors
    /// The record cannot be changed.
    async fn take_back(&self, digits: u64) -> Result<(), ControlError>;

    /// Ends the membership. Its device is removed wherever it is, after that: `status` says what is in the way. Does nothing
    /// where there is none.
    ///
    /// # Errors
    /// When the record cannot be changed.
    async fn end(&self, digits: u64) -> Result<(), ControlError>;
}
