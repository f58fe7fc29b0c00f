//! Why a claim was refused, and what to do instead.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::ipam::{InvalidAddress, InvalidSubnet};
use crate::model::{AppId, ContainerRef, ContainerType, Member, NetworkId, NetworkName};
use crate::store::error::{CommitError, StoreError};
use crate::store::records::RecordError;

/// A network could not be created or deleted.
#[derive(Clone, Debug, thiserror::Error)]
pub enum NetworkError {
    /// Another network bears the name.
    #[error("network name {name} is taken by {id}: choose another name, or delete that network")]
    NameTaken {
        /// The name.
        name: NetworkName,
        /// The network that bears it.
        id: NetworkId,
    },
    /// The subnet cannot be had.
    #[error(transparent)]
    InvalidSubnet(#[from] InvalidSubnet),
    /// There is no such network.
    #[error("network {id} does not exist: `privnet network list` shows those that do")]
    NotFound {
        /// The network that was asked for.
        id: NetworkId,
    },
    /// A network with members is not deleted.
    #[error("network {id} has {count} members: detach them first; `privnet members --network {id}` shows them")]
    HasMembers {
        /// The network.
        id: NetworkId,
        /// How many members it has.
        count: usize,
    },
    /// Every VNI is taken.
    #[error("all 16777215 VNIs are taken: delete a network")]
    VnisExhausted,
    /// Others changed the same records all the time.
    #[error("too many others are creating or deleting networks at the same time: try again")]
    Contended,
    /// A record could not be read.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The store refused.
    #[error(transparent)]
    Commit(#[from] CommitError),
}

/// A member could not be claimed, changed or released.
#[derive(Clone, Debug, thiserror::Error)]
pub enum MemberError {
    /// There is no such network.
    #[error("network {id} does not exist: `privnet network list` shows those that do")]
    NetworkNotFound {
        /// The network that was asked for.
        id: NetworkId,
    },
    /// The container is a member already.
    #[error(
        "container {} is a member of {} already, at {} on host {}: detach it first, or choose another number",
        .0.container, .0.network, .0.address, .0.host
    )]
    MemberExists(Box<Member>),
    /// The container is not a member.
    #[error("container {container} is not a member of {network}")]
    MemberNotFound {
        /// The network.
        network: NetworkId,
        /// The container.
        container: ContainerRef,
    },
    /// The member has been changed, or replaced by another, since it was read.
    #[error("member {} of {} is not the one that it was: read it again", .0.container, .0.network)]
    MemberChanged(Box<Member>),
    /// The address belongs to another member.
    #[error("address {address} is taken by {holder}: choose another, or none to get a free one")]
    AddressTaken {
        /// The address.
        address: Ipv4Addr,
        /// The member that holds it.
        holder: ContainerRef,
    },
    /// The address is not in the network's subnet.
    #[error("{0}")]
    AddressOutsideSubnet(InvalidAddress),
    /// The address is in the network's subnet, and not for members.
    #[error("{0}")]
    AddressReserved(InvalidAddress),
    /// Every address is held, or was until a moment ago.
    #[error(
        "no address of {subnet} is free, of {size} members have {used}, and {resting} rest until nobody has them by their names: \
         {remedy}, or make a larger network",
        remedy = if *resting > 0 { "try again in a few seconds" } else { "detach a member" }
    )]
    PoolExhausted {
        /// The network's subnet.
        subnet: Ipv4Net,
        /// How many members hold one.
        used: usize,
        /// How many members could.
        size: usize,
        /// How many are held no longer, and not free yet.
        resting: usize,
    },
    /// Every number of the type is taken.
    #[error("all 99999 numbers of type {kind} of {app} are taken: detach one")]
    NumbersExhausted {
        /// The app.
        app: AppId,
        /// The type.
        kind: ContainerType,
    },
    /// Two members would share a key.
    #[error("the public key belongs to {holder} already: make a new key pair")]
    PublicKeyInUse {
        /// The member that it belongs to.
        holder: ContainerRef,
    },
    /// Others changed the same records all the time.
    #[error("too many others are attaching and detaching at the same time: try again")]
    Contended,
    /// A record could not be read.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The store refused.
    #[error(transparent)]
    Commit(#[from] CommitError),
}

impl From<StoreError> for NetworkError {
    fn from(error: StoreError) -> Self {
        Self::Record(error.into())
    }
}

impl From<StoreError> for MemberError {
    fn from(error: StoreError) -> Self {
        Self::Record(error.into())
    }
}

impl From<InvalidAddress> for MemberError {
    fn from(error: InvalidAddress) -> Self {
        match error {
            InvalidAddress::OutsideSubnet { .. } => Self::AddressOutsideSubnet(error),
            InvalidAddress::Reserved { .. } => Self::AddressReserved(error),
        }
    }
}
