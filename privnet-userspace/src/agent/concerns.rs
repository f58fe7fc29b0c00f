//! Whom a change of the image concerns.

use std::collections::BTreeSet;

use crate::model::NetworkId;

/// Which networks a change concerns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Concerns {
    /// None.
    Nothing,
    /// These.
    Networks(BTreeSet<NetworkId>),
    /// All of them.
    Everything,
}

impl Concerns {
    /// What both concern.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Nothing, other) => other,
            (concerns, Self::Nothing) => concerns,
            (Self::Everything, _) | (_, Self::Everything) => Self::Everything,
            (Self::Networks(mut networks), Self::Networks(others)) => {
                networks.extend(others);
                Self::Networks(networks)
            }
        }
    }
}
