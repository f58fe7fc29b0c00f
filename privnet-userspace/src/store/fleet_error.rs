//! Why a store is not that of a host's fleet.

#[cfg(test)]
use crate::model::explain::{Row, rows};
use crate::model::{ErrorCode, Explain, FleetId};

/// The store is not the one of the fleet that this host belongs to, or an older copy: nothing is written into it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FleetError {
    /// It has no record of a fleet.
    #[error("the store has no record of fleet {fleet}: it is another store, or lost its data")]
    NoRecord {
        /// The fleet of this host.
        fleet: FleetId,
    },
    /// It is the store of another fleet.
    #[error("the store is that of fleet {found}, and this host belongs to fleet {fleet}")]
    Another {
        /// The fleet of this host.
        fleet: FleetId,
        /// The fleet of the store.
        found: FleetId,
    },
    /// Another store has taken its place since.
    #[error("the store has epoch {found} of fleet {fleet}, and this host has seen epoch {epoch}: it is an older copy")]
    Older {
        /// The fleet.
        fleet: FleetId,
        /// The epoch that this host has seen.
        epoch: u64,
        /// The epoch of the store.
        found: u64,
    },
    /// The fleet has moved to another store.
    #[error("the store was closed when fleet {fleet} moved to another one")]
    Closed {
        /// The fleet.
        fleet: FleetId,
    },
    /// The record of the fleet cannot be read.
    #[error("{detail}")]
    Unreadable {
        /// The key, and why.
        detail: String,
    },
}

pub(super) const RIGHT_STORE: &str = "members stay attached meanwhile: give the agent the fleet's store; if this is the one that the fleet is to have, \
     `privnet state rebuild` makes it so";
const OTHER_STORE: &str = "members stay attached meanwhile: give the agent the store that the fleet has moved to; \
     `privnet state rebuild` takes the move back";

impl Explain for FleetError {
    fn code(&self) -> ErrorCode {
        ErrorCode::StoreUnavailable
    }

    fn remedy(&self) -> Option<String> {
        Some(match self {
            Self::NoRecord { .. } | Self::Another { .. } | Self::Older { .. } => RIGHT_STORE.to_owned(),
            Self::Closed { .. } => OTHER_STORE.to_owned(),
            Self::Unreadable { .. } => "upgrade privnet on this host, or restore the record".to_owned(),
        })
    }

    #[cfg(test)]
    fn rows() -> Vec<Row<Self>> {
        rows![
            Self::NoRecord { .. } => Self::NoRecord { fleet: fleet(1) }, StoreUnavailable,
                "the store has no record of fleet fl-00000000-0000-0000-0000-000000000001: it is another store, or lost its data",
                RIGHT_STORE;
            Self::Another { .. } => Self::Another { fleet: fleet(1), found: fleet(2) }, StoreUnavailable,
                "the store is that of fleet fl-00000000-0000-0000-0000-000000000002, and this host belongs to fleet \
                 fl-00000000-0000-0000-0000-000000000001", RIGHT_STORE;
            Self::Older { .. } => Self::Older { fleet: fleet(1), epoch: 3, found: 2 }, StoreUnavailable,
                "the store has epoch 2 of fleet fl-00000000-0000-0000-0000-000000000001, and this host has seen epoch 3: \
                 it is an older copy", RIGHT_STORE;
            Self::Closed { .. } => Self::Closed { fleet: fleet(1) }, StoreUnavailable,
                "the store was closed when fleet fl-00000000-0000-0000-0000-000000000001 moved to another one", OTHER_STORE;
            Self::Unreadable { .. } => Self::Unreadable { detail: "the record fleet/record is corrupt: EOF".to_owned() },
                StoreUnavailable, "the record fleet/record is corrupt: EOF",
                "upgrade privnet on this host, or restore the record";
        ]
    }
}

#[cfg(test)]
fn fleet(number: u128) -> FleetId {
    FleetId::from_uuid(uuid::Uuid::from_u128(number))
}
