//! The operations, each one printable line: the same lines are the dry run and the log.

use std::fmt;

use super::object::{Key, Object};
use super::state::{Seen, State};

/// A step from the observed state to the plan.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Op {
    /// Makes an object that is not there.
    Create(Object),
    /// Changes an object, or makes it anew.
    Replace(Seen, Object),
    /// Removes an object.
    Remove(Seen),
}

impl Op {
    /// What it does: `create`, `change` or `remove`.
    #[must_use]
    pub const fn verb(&self) -> &'static str {
        match self {
            Self::Create(_) => "create",
            Self::Replace(..) => "change",
            Self::Remove(_) => "remove",
        }
    }

    /// The object.
    #[must_use]
    pub const fn key(&self) -> Key {
        match self {
            Self::Create(object) | Self::Replace(_, object) => object.key(),
            Self::Remove(seen) => seen.key(),
        }
    }

    /// Records in `state` that the operation was carried out: what goes along with the object goes too.
    pub fn record(&self, state: &mut State) {
        let takes_along = match self {
            Self::Create(..) => false,
            Self::Replace(..) => self.key().is_made_anew(),
            Self::Remove(..) => true,
        };
        if takes_along {
            state.retain(|other| !other.contained_in().contains(&self.key()));
        }
        match self {
            Self::Create(object) | Self::Replace(_, object) => state.insert(Seen::Sound(object.clone())),
            Self::Remove(seen) => state.remove(seen.key()),
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb(), self.key())?;
        match self {
            Self::Create(object) => write!(f, ": {}", Brief(object)),
            Self::Replace(Seen::Sound(Object::Peers(_, from)), Object::Peers(_, to)) => {
                let (removed, set) = from.table.change_to(&to.table);
                write!(f, ": +{} -{}", set.len(), removed.len())
            }
            Self::Replace(Seen::Sound(Object::Departed(_, from)), Object::Departed(_, to)) => {
                let (from, to) = (&from.addresses, &to.addresses);
                write!(f, ": +{} -{}", to.difference(from).count(), from.difference(to).count())
            }
            Self::Replace(Seen::Sound(from), to) => write!(f, ": from {} to {}", Brief(from), Brief(to)),
            Self::Replace(Seen::Broken(_, why), to) => write!(f, ": from broken ({why}) to {}", Brief(to)),
            Self::Remove(_) => Ok(()),
        }
    }
}

/// A specification on one line, a table as its length.
struct Brief<'a>(&'a Object);

impl fmt::Display for Brief<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Object::Peers(_, spec) = self.0 {
            write!(f, "{} peers", spec.table.iter().count())
        } else if let Object::Neighbours(_, spec) = self.0 {
            write!(f, "{} neighbours", spec.macs.len())
        } else if let Object::Departed(_, spec) = self.0 {
            write!(f, "{} addresses", spec.addresses.len())
        } else {
            write!(f, "{:?}", self.0)
        }
    }
}
