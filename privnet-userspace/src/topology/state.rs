//! The desired and the observed objects of a network, by their keys.

use std::collections::BTreeMap;

use super::object::{Key, Kind, Object};

/// The objects that one host must have for one network.
pub type Plan = Objects<Object>;

/// The objects that one host was seen to have of one network.
pub type State = Objects<Seen>;

/// Objects by their keys, which order them as they are created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Objects<T>(BTreeMap<Key, T>);

/// A value that has the key of an object.
pub trait Keyed {
    /// The key.
    fn key(&self) -> Key;
}

/// An object as it was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// In a form that a plan could want.
    Sound(Object),
    /// In a form that no plan could want; the text says which.
    Broken(Key, String),
}

/// The object before a change, for the file of its kind.
#[derive(Debug)]
pub enum Before<'a, S> {
    /// It did not exist.
    Absent,
    /// It was in a form that no plan could want.
    Broken,
    /// Its specification.
    Was(&'a S),
}

impl<T> Default for Objects<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T: Keyed> Objects<T> {
    /// Adds an object, or replaces the one with its key.
    pub fn insert(&mut self, object: T) {
        self.0.insert(object.key(), object);
    }

    /// The object with this key.
    #[must_use]
    pub fn get(&self, key: Key) -> Option<&T> {
        self.0.get(&key)
    }

    /// Whether there is an object with this key.
    #[must_use]
    pub fn contains(&self, key: Key) -> bool {
        self.0.contains_key(&key)
    }

    /// Whether there is no object.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All objects, in the order of their creation.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (Key, &T)> {
        self.0.iter().map(|(key, object)| (*key, object))
    }

    /// Removes the object with this key.
    pub fn remove(&mut self, key: Key) {
        self.0.remove(&key);
    }

    /// Keeps the objects for whose key `keep` is true.
    pub fn retain(&mut self, keep: impl Fn(Key) -> bool) {
        self.0.retain(|key, _| keep(*key));
    }

    /// Adds the objects of `other`.
    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }
}

impl State {
    /// Notes an object of a kind: `spec`, or that it is broken.
    pub fn see<K: Kind>(&mut self, id: K::Id, spec: Result<K::Spec, &str>) {
        self.insert(match spec {
            Ok(spec) => Seen::Sound(K::object(id, spec)),
            Err(why) => Seen::Broken(K::key(id), why.to_owned()),
        });
    }
}

impl From<Plan> for State {
    /// The state after a pass that carried out the whole plan.
    fn from(plan: Plan) -> Self {
        Self(plan.0.into_iter().map(|(key, object)| (key, Seen::Sound(object))).collect())
    }
}

impl Keyed for Object {
    fn key(&self) -> Key {
        Self::key(self)
    }
}

impl Keyed for Seen {
    fn key(&self) -> Key {
        Self::key(self)
    }
}

impl Seen {
    /// The object's key.
    #[must_use]
    pub const fn key(&self) -> Key {
        match self {
            Self::Sound(object) => object.key(),
            Self::Broken(key, _) => *key,
        }
    }

    /// Whether it is as `wanted`.
    #[must_use]
    pub fn is(&self, wanted: &Object) -> bool {
        matches!(self, Self::Sound(object) if object == wanted)
    }

    /// The object before a change, for the file of its kind.
    #[must_use]
    pub fn before<K: Kind>(&self) -> Before<'_, K::Spec> {
        match self {
            Self::Sound(object) => K::spec(object).map_or(Before::Broken, Before::Was),
            Self::Broken(..) => Before::Broken,
        }
    }
}

impl<'a, S> Before<'a, S> {
    /// Whether something was there.
    #[must_use]
    pub const fn exists(&self) -> bool {
        !matches!(self, Self::Absent)
    }

    /// How it was, when that is known.
    #[must_use]
    pub const fn spec(&self) -> Option<&'a S> {
        match self {
            Self::Was(spec) => Some(spec),
            Self::Absent | Self::Broken => None,
        }
    }
}
