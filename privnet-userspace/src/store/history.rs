//! The recent changes of a store, in a bounded buffer that all its watches read.

use std::collections::VecDeque;

use super::contract::Event;
use super::path::{Key, Prefix};
use super::transaction::{Revision, Value};

/// How many changes a store remembers: a watch that is further behind has to list again.
pub(super) const HISTORY_CHANGES: usize = 8192;
/// How many changes a watch takes at a time, and the rest of the last one's transaction.
const BATCH_CHANGES: usize = 256;

/// A change of a key; no value where it was deleted.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) key: Key,
    pub(super) value: Option<Value>,
    pub(super) revision: Revision,
}

/// All changes after some revision, oldest first.
#[derive(Debug)]
pub(super) struct History {
    changes: VecDeque<Change>,
    /// The changes up to and including this revision are forgotten.
    forgotten: Revision,
    capacity: usize,
}

impl History {
    pub(super) fn new(revision: Revision, capacity: usize) -> Self {
        Self { changes: VecDeque::new(), forgotten: revision, capacity }
    }

    /// Adds a change, and removes the oldest ones when the buffer is full.
    pub(super) fn push(&mut self, change: Change) {
        self.changes.push_back(change);
        while self.changes.len() > self.capacity {
            if let Some(oldest) = self.changes.pop_front() {
                self.forgotten = oldest.revision;
            }
        }
    }

    /// The next transactions after `cursor` with their changes below `prefix`, and the revision up to which these are all;
    /// `None` when changes after `cursor` are forgotten.
    pub(super) fn after(
        &self,
        cursor: Revision,
        newest: Revision,
        prefix: &Prefix,
    ) -> Option<(VecDeque<Vec<Event>>, Revision)> {
        if cursor < self.forgotten {
            return None;
        }
        let (mut batch, mut changes) = (VecDeque::<Vec<Event>>::new(), 0);
        let (mut last, mut delivered) = (cursor, cursor);
        let first = self.changes.partition_point(|change| change.revision <= cursor);
        for change in self.changes.range(first..) {
            if changes >= BATCH_CHANGES && change.revision > last {
                return Some((batch, last));
            }
            last = change.revision;
            if prefix.holds(&change.key) {
                changes += 1;
                match batch.back_mut().filter(|_| delivered == last) {
                    Some(transaction) => transaction.push(change.event()),
                    None => batch.push_back(vec![change.event()]),
                }
                delivered = last;
            }
        }
        Some((batch, newest))
    }
}

impl Change {
    fn event(&self) -> Event {
        let (key, revision) = (self.key.clone(), self.revision);
        match self.value.clone() {
            Some(value) => Event::Put { key, value, revision },
            None => Event::Delete { key, revision },
        }
    }
}
