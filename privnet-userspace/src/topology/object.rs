//! The objects of the kernel that make up one network on one host, as types: made of the [table](super::table).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv4Addr;
use std::sync::Arc;

use ipnet::Ipv4Net;
use privnet_ebpf::net::{MacAddr, Vni};

use super::ownership::MemberLink;
use super::peers::PeerTable;
use super::table::object_table;
use crate::model::{IfName, MemberId, PublicKey};

/// The name of an object among those of its kind.
pub trait ObjectId: Copy {
    /// The member that it names.
    fn member(self) -> Option<MemberId>;
}

impl ObjectId for MemberId {
    fn member(self) -> Option<MemberId> {
        Some(self)
    }
}

impl ObjectId for Ipv4Addr {
    fn member(self) -> Option<MemberId> {
        None
    }
}

impl ObjectId for MemberLink {
    fn member(self) -> Option<MemberId> {
        None
    }
}

/// A kind of object, as a type: the objects of one kind have one form of id and one form of specification.
pub trait Kind {
    /// The name of an object of the kind.
    type Id: Copy;
    /// How one should be.
    type Spec;
    /// Whether its container's root can change it, or stand in the way of it.
    const IS_IN_CONTAINER: bool;

    /// The key of one of them.
    fn key(id: Self::Id) -> Key;
    /// One of them.
    fn object(id: Self::Id, spec: Self::Spec) -> Object;
    /// The specification of an object, when it is of this kind.
    fn spec(object: &Object) -> Option<&Self::Spec>;
}

macro_rules! define_objects {
    ($(
        $(#[doc = $doc:literal])+
        $name:ident $(($id:ident: $of:ty))? { $($(#[doc = $field_doc:literal])+ $field:ident: $type:ty,)* }
        $change:ident, $place:ident, $text:literal {
            $(parents: [$($parent:ident $(($parent_id:ident))?),+],)?
            $(contained_in: [$($container:ident $(($container_id:ident))?),+],)?
            $(safeguards: [$($safeguard:ident $(($safeguard_id:ident))?),+],)?
        }
    )+) => {
        /// Names an object. Keys are ordered as their objects are created.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        pub enum Key {
            $($(#[doc = $doc])+ $name $(($of))?,)+
        }

        /// An object as it should be: its key, and how it should be, which only fit together.
        #[derive(Clone, PartialEq, Eq, Debug)]
        pub enum Object {
            $($(#[doc = $doc])+ $name($($of,)? spec::$name),)+
        }

        /// How an object should be, for each kind.
        pub mod spec {
            use super::*;
            $(
                $(#[doc = $doc])+
                #[derive(Clone, PartialEq, Eq, Debug)]
                pub struct $name { $($(#[doc = $field_doc])+ pub $field: $type,)* }
            )+
        }

        /// The kinds of objects, as types without values.
        pub mod kind {
            $($(#[doc = $doc])+ #[derive(Debug)] pub enum $name {})+
        }

        $(
            impl Kind for kind::$name {
                type Id = object_table_id!($($of)?);
                type Spec = spec::$name;
                const IS_IN_CONTAINER: bool = matches!(Place::$place, Place::InContainer);

                fn key(id: Self::Id) -> Key {
                    object_table_key!(id, $name $(, $id)?)
                }

                fn object(id: Self::Id, spec: Self::Spec) -> Object {
                    object_table_object!(id, spec, $name $(, $id)?)
                }

                fn spec(object: &Object) -> Option<&Self::Spec> {
                    if let Object::$name(.., spec) = object { Some(spec) } else { None }
                }
            }
        )+

        #[allow(unused_variables, reason = "most kinds have fewer relations than a row of the table may name")]
        impl Key {
            /// The objects without which this one cannot be; when one of them is made anew, so is this one.
            #[must_use]
            pub fn parents(self) -> Vec<Self> {
                match self {
                    $(Self::$name $(($id))? => vec![$($(Self::$parent $(($parent_id))?),+)?],)+
                }
            }

            /// The objects whose removal removes this one as well, without an operation of its own.
            #[must_use]
            pub fn contained_in(self) -> Vec<Self> {
                match self {
                    $(Self::$name $(($id))? => vec![$($(Self::$container $(($container_id))?),+)?],)+
                }
            }

            /// The objects without which this one must not be made, though it could.
            #[must_use]
            pub fn safeguards(self) -> Vec<Self> {
                match self {
                    $(Self::$name $(($id))? => vec![$($(Self::$safeguard $(($safeguard_id))?),+)?],)+
                }
            }

            /// Whether changing the object means removing it first, which takes its dependents along.
            #[must_use]
            pub const fn is_made_anew(self) -> bool {
                match self {
                    $(Self::$name { .. } => matches!(Change::$change, Change::Anew),)+
                }
            }

            /// Whether the object is in the container, where its root can change it or stand in the way of it.
            #[must_use]
            pub const fn is_in_container(self) -> bool {
                match self {
                    $(Self::$name { .. } => matches!(Place::$place, Place::InContainer),)+
                }
            }

            /// The member of this host that the object belongs to; `None` when it is the network's own.
            #[must_use]
            pub fn member(self) -> Option<MemberId> {
                match self {
                    $(Self::$name $(($id))? => None::<MemberId>$(.or_else(|| ObjectId::member($id)))?,)+
                }
            }

            /// Whether the object is the network's own: there once, and needed by all members of this host.
            #[must_use]
            pub const fn is_the_networks(self) -> bool {
                match self {
                    $(Self::$name { .. } => { const IDS: &[&str] = &[$(stringify!($id))?]; IDS.is_empty() },)+
                }
            }

            /// The kind's name, for logs and measurements.
            #[must_use]
            pub const fn kind(self) -> &'static str {
                match self {
                    $(Self::$name { .. } => stringify!($name),)+
                }
            }
        }

        impl fmt::Display for Key {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Self::$name $(($id))? => {
                        f.write_str($text)?;
                        $(write!(f, " of {}", $id)?;)?
                        Ok(())
                    })+
                }
            }
        }

        impl Key {
            /// Whether an object that could not be removed keeps another one from being removed: its safeguard, or what it
            /// stands on of the network's own, unless that takes it along.
            #[must_use]
            pub fn keeps(self, other: Self) -> bool {
                let stands_on = || self.parents().contains(&other) && !self.contained_in().contains(&other);
                self.safeguards().contains(&other) || (other.is_the_networks() && stands_on())
            }

            /// The names of all kinds.
            pub const KINDS: &'static [&'static str] = &[$(stringify!($name)),+];

            /// The object, for a person: `name` gives the name of a member of this host, where it is at hand.
            #[must_use]
            pub fn describe(self, name: impl FnOnce(MemberId) -> Option<String>) -> String {
                match self.member().and_then(name) {
                    Some(name) => format!("{} of {name}", self.text()),
                    None => self.to_string(),
                }
            }

            const fn text(self) -> &'static str {
                match self {
                    $(Self::$name { .. } => $text,)+
                }
            }
        }

        impl Object {
            /// Its key.
            #[must_use]
            pub const fn key(&self) -> Key {
                match self {
                    $(Self::$name($($id,)? ..) => Key::$name $((*$id))?,)+
                }
            }
        }
    };
}

/// How an object is changed.
enum Change {
    /// By removing it and making it again.
    Anew,
    /// As it stands.
    InPlace,
}

/// Where an object is.
enum Place {
    /// In a namespace of ours.
    Ours,
    /// In the container.
    InContainer,
}

macro_rules! object_table_id {
    () => {
        ()
    };
    ($of:ty) => {
        $of
    };
}

macro_rules! object_table_key {
    ($given:ident, $name:ident) => {{
        let () = $given;
        Key::$name
    }};
    ($given:ident, $name:ident, $id:ident) => {
        Key::$name($given)
    };
}

macro_rules! object_table_object {
    ($given:ident, $spec:ident, $name:ident) => {{
        let () = $given;
        Object::$name($spec)
    }};
    ($given:ident, $spec:ident, $name:ident, $id:ident) => {
        Object::$name($given, $spec)
    };
}

object_table!(define_objects);
