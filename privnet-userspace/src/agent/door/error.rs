//! The one error that surfaces see: a stable code, a message for a person, and what to do.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What went wrong, for programs. The names are part of the contract and never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The request is malformed.
    InvalidArgument,
    /// No network has this id or name.
    NetworkNotFound,
    /// A network of this name exists.
    NetworkExists,
    /// The network has members.
    NetworkNotEmpty,
    /// The subnet cannot be used.
    InvalidSubnet,
    /// The container is in another network whose subnet overlaps.
    SubnetOverlap,
    /// No such member.
    MemberNotFound,
    /// The member exists, in another namespace or on another host.
    MemberExists,
    /// Another member holds the address.
    AddressTaken,
    /// The address is not one that a member of this network can have.
    AddressInvalid,
    /// Every address of the subnet is held.
    PoolExhausted,
    /// There is no namespace at this path, or no such process.
    NetnsNotFound,
    /// The path is not a network namespace, or one that must not be attached.
    NetnsInvalid,
    /// The underlay leaves no room for the tunnels.
    MtuTooSmall,
    /// Another user of UDP 4789 or of the VNI stands in the way.
    VtepConflict,
    /// The kernel lacks what was asked for.
    Unsupported,
    /// No permission.
    PermissionDenied,
    /// The store cannot be reached, or refused.
    StoreUnavailable,
    /// It did not finish in time; it may yet.
    Timeout,
    /// The agent is not running.
    AgentUnavailable,
    /// The kernel refused, or a fault of ours.
    Internal,
}

/// An error that a surface shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlError {
    /// For programs.
    pub code: ErrorCode,
    /// What, which object, and why; lower case, one line.
    pub message: String,
    /// What to do about it; one sentence.
    pub remedy: String,
}

impl ControlError {
    /// Makes one of its parts.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { code, message: message.into(), remedy: remedy.into() }
    }
}

impl fmt::Display for ControlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ControlError {}
