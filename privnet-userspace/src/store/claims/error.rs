//! Why a claim was refused.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;

use ipnet::Ipv4Net;

use crate::ipam::{InvalidAddress, InvalidSubnet};
#[cfg(test)]
use crate::model::explain::Row;
use crate::model::{
    AppId, ContainerRef, ContainerType, ErrorCode, Explain, HostName, Member, NetworkId, NetworkName, counted,
};
use crate::store::error::{CommitError, StoreError};
use crate::store::records::RecordError;

/// A network could not be created or deleted.
#[derive(Clone, Debug, thiserror::Error)]
pub enum NetworkError {
    /// Another network bears the name.
    #[error("network name {name} is taken by {id}")]
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
    #[error("network {id} does not exist")]
    NotFound {
        /// The network that was asked for.
        id: NetworkId,
    },
    /// A network with members is not deleted.
    #[error("network {id} has {}: {}", counted(.members.len(), "member"), some_of(.members))]
    HasMembers {
        /// The network.
        id: NetworkId,
        /// The members, also those of hosts that are away, and those whose records the store has lost.
        members: Vec<Arc<Member>>,
    },
    /// Every VNI is taken.
    #[error("all 16777215 VNIs are taken")]
    VnisExhausted,
    /// Others changed the same records all the time.
    #[error("too many hosts are creating or deleting networks at the same time")]
    Contended,
    /// A record could not be read.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The store refused.
    #[error(transparent)]
    Commit(#[from] CommitError),
}

/// How many members a message names.
const NAMED: usize = 5;

/// The first members and their hosts, and how many more there are on which hosts.
pub fn some_of(members: &[Arc<Member>]) -> String {
    let named = |member: &Arc<Member>| format!("{} on host {}", member.container, member.host);
    let (first, rest) = members.split_at(members.len().min(NAMED));
    let text = first.iter().map(named).collect::<Vec<_>>().join(", ");
    let hosts: BTreeSet<&HostName> = rest.iter().map(|member| &member.host).collect();
    match &hosts.iter().take(NAMED).map(ToString::to_string).collect::<Vec<_>>()[..] {
        [] => text,
        [host] => format!("{text} and {} more on host {host}", rest.len()),
        some => format!("{text} and {} more on {} hosts: {}", rest.len(), hosts.len(), some.join(", ")),
    }
}

/// A member could not be claimed, changed or released.
#[derive(Clone, Debug, thiserror::Error)]
pub enum MemberError {
    /// There is no such network.
    #[error("network {id} does not exist")]
    NetworkNotFound {
        /// The network that was asked for.
        id: NetworkId,
    },
    /// The container is a member already.
    #[error("container {} is a member of {} already, at {} on host {}", .0.container, .0.network, .0.address, .0.host)]
    MemberExists(Box<Member>),
    /// A membership has as many names as a transaction has room for.
    #[error("the container of {holder} has {most} names in {network} already")]
    TooManyNames {
        /// The network.
        network: NetworkId,
        /// The oldest name.
        holder: ContainerRef,
        /// How many it can have.
        most: usize,
    },
    /// The container is not a member.
    #[error("container {container} is not a member of {network}")]
    MemberNotFound {
        /// The network.
        network: NetworkId,
        /// The container.
        container: ContainerRef,
    },
    /// The member has been changed, or replaced by another, since it was read.
    #[error("member {} of {} was changed or replaced since it was read", .0.container, .0.network)]
    MemberChanged(Box<Member>),
    /// The address belongs to another member.
    #[error("address {address} is taken by {holder}")]
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
        "no address of {subnet} is free: members hold {used} of {size}, and {resting} wait until no name leads to them"
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
    #[error("all 99999 numbers of type {kind} of {app} are taken")]
    NumbersExhausted {
        /// The app.
        app: AppId,
        /// The type.
        kind: ContainerType,
    },
    /// Two members would share a key.
    #[error("the public key belongs to {holder} already")]
    PublicKeyInUse {
        /// The member that it belongs to.
        holder: ContainerRef,
    },
    /// Others changed the same records all the time.
    #[error("too many hosts are attaching and detaching at the same time")]
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

pub(super) const LIST_NETWORKS: &str = "`privnet network list` shows the networks that exist";

impl Explain for NetworkError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::NameTaken { .. } => ErrorCode::NetworkExists,
            Self::NotFound { .. } => ErrorCode::NetworkNotFound,
            Self::HasMembers { .. } => ErrorCode::NetworkNotEmpty,
            Self::VnisExhausted => ErrorCode::PoolExhausted,
            Self::Contended => ErrorCode::StoreUnavailable,
            Self::InvalidSubnet(error) => error.code(),
            Self::Record(error) => error.code(),
            Self::Commit(error) => error.code(),
        }
    }

    fn remedy(&self) -> Option<String> {
        Some(match self {
            Self::NameTaken { .. } => "choose another name, or delete that network".to_owned(),
            Self::NotFound { .. } => LIST_NETWORKS.to_owned(),
            Self::HasMembers { id, .. } => format!(
                "detach them first: `privnet members --network {id}` shows them; `privnet network delete {id} --force` ends them too"
            ),
            Self::VnisExhausted => "delete a network".to_owned(),
            Self::Contended => "try again".to_owned(),
            Self::InvalidSubnet(error) => return error.remedy(),
            Self::Record(error) => return error.remedy(),
            Self::Commit(error) => return error.remedy(),
        })
    }

    #[cfg(test)]
    fn rows() -> Vec<Row<Self>> {
        Self::all_rows()
    }
}

impl Explain for MemberError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::NetworkNotFound { .. } => ErrorCode::NetworkNotFound,
            Self::MemberExists(_) => ErrorCode::MemberExists,
            Self::MemberNotFound { .. } | Self::MemberChanged(_) => ErrorCode::MemberNotFound,
            Self::AddressTaken { .. } => ErrorCode::AddressTaken,
            Self::AddressOutsideSubnet(error) | Self::AddressReserved(error) => error.code(),
            Self::PoolExhausted { .. } => ErrorCode::PoolExhausted,
            Self::NumbersExhausted { .. } | Self::TooManyNames { .. } => ErrorCode::InvalidArgument,
            Self::PublicKeyInUse { .. } => ErrorCode::Internal,
            Self::Contended => ErrorCode::StoreUnavailable,
            Self::Record(error) => error.code(),
            Self::Commit(error) => error.code(),
        }
    }

    fn remedy(&self) -> Option<String> {
        let text = match self {
            Self::NetworkNotFound { .. } => LIST_NETWORKS,
            Self::MemberExists(_) => "detach it first, or choose another number",
            Self::MemberNotFound { .. } => "`privnet members` shows the containers that are members",
            Self::MemberChanged(_) | Self::Contended => "try again",
            Self::AddressTaken { .. } => "choose another, or none to get a free one",
            Self::PoolExhausted { resting: 0, .. } => {
                "detach a member, or create a network with a larger subnet: `privnet network create NAME --subnet PREFIX`"
            }
            Self::PoolExhausted { .. } => {
                "try again in a few seconds, or create a network with a larger subnet: \
                 `privnet network create NAME --subnet PREFIX`"
            }
            Self::NumbersExhausted { .. } | Self::TooManyNames { .. } => "detach one of them",
            Self::PublicKeyInUse { .. } => "try again: each attach makes a new key pair",
            Self::AddressOutsideSubnet(error) | Self::AddressReserved(error) => return error.remedy(),
            Self::Record(error) => return error.remedy(),
            Self::Commit(error) => return error.remedy(),
        };
        Some(text.to_owned())
    }

    fn can_retry(&self) -> bool {
        match self {
            Self::PoolExhausted { resting, .. } => *resting > 0,
            Self::MemberChanged(_) | Self::PublicKeyInUse { .. } => true,
            Self::Record(error) => error.can_retry(),
            Self::Commit(error) => error.can_retry(),
            Self::Contended
            | Self::NetworkNotFound { .. }
            | Self::MemberExists(_)
            | Self::MemberNotFound { .. }
            | Self::AddressTaken { .. }
            | Self::AddressOutsideSubnet(_)
            | Self::AddressReserved(_)
            | Self::NumbersExhausted { .. }
            | Self::TooManyNames { .. } => self.code().can_retry(),
        }
    }

    #[cfg(test)]
    fn rows() -> Vec<Row<Self>> {
        Self::all_rows()
    }
}
