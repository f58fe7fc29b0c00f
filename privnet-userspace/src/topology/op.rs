//! The operations, each one printable line: the same lines are the dry run and the log.

use std::fmt;

use super::object::{Key, Spec, State};

/// One step from what is to what should be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Op {
    /// Makes an object that is not there.
    Create(Key, Spec),
    /// Changes an object, or makes it anew.
    Replace(Key, Spec, Spec),
    /// Removes an object.
    Remove(Key, Spec),
}

impl Op {
    /// The operation and its object, without the details: for a person who reads an error.
    #[must_use]
    pub fn in_short(&self) -> String {
        match self {
            Self::Create(key, _) => format!("create {key:?}"),
            Self::Replace(key, _, _) => format!("change {key:?}"),
            Self::Remove(key, _) => format!("remove {key:?}"),
        }
    }

    /// The object.
    #[must_use]
    pub const fn key(&self) -> Key {
        match self {
            Self::Create(key, _) | Self::Replace(key, _, _) | Self::Remove(key, _) => *key,
        }
    }

    /// Records in `state` that the operation was carried out: what goes along with the object goes too.
    pub fn record(&self, state: &mut State) {
        let takes_along = match self {
            Self::Create(..) => false,
            Self::Replace(key, _, _) => key.is_made_anew(),
            Self::Remove(..) => true,
        };
        if takes_along {
            state.retain(|other, _| !other.contained_in().contains(&self.key()));
        }
        match self {
            Self::Create(key, spec) | Self::Replace(key, _, spec) => {
                state.insert(*key, spec.clone());
            }
            Self::Remove(key, _) => {
                state.remove(key);
            }
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create(key, spec) => write!(f, "create {key:?} {}", Brief(spec)),
            Self::Replace(key, Spec::Peers(from), Spec::Peers(to)) => {
                let (removed, set) = from.change_to(to);
                write!(f, "change {key:?} +{} -{}", set.len(), removed.len())
            }
            Self::Replace(key, Spec::Departed(from), Spec::Departed(to)) => {
                write!(f, "change {key:?} +{} -{}", to.difference(from).count(), from.difference(to).count())
            }
            Self::Replace(key, from, to) => write!(f, "change {key:?} from {} to {}", Brief(from), Brief(to)),
            Self::Remove(key, _) => write!(f, "remove {key:?}"),
        }
    }
}

/// A spec on one line, a table as its length.
struct Brief<'a>(&'a Spec);

impl fmt::Display for Brief<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Spec::Peers(table) = self.0 {
            write!(f, "{} peers", table.iter().count())
        } else if let Spec::Neighbours(table) = self.0 {
            write!(f, "{} neighbours", table.len())
        } else if let Spec::Departed(addresses) = self.0 {
            write!(f, "{} addresses", addresses.len())
        } else {
            write!(f, "{:?}", self.0)
        }
    }
}
