//! The recent changes of a store, and the watches that read them. One bounded buffer serves every watch.

use std::collections::VecDeque;
use std::sync::Arc;

use futures::stream::{self, Stream};
use tokio::sync::watch;

use super::contract::{Event, ResyncReason, Revision, Value, Watch};
use super::path::{Key, Prefix};
use super::state::Shared;

/// How many changes a store remembers: a watch that is further behind has to list again.
pub(super) const HISTORY_CHANGES: usize = 8192;
/// How many changes a watch takes at a time; a transaction is never split.
const BATCH_CHANGES: usize = 256;

/// One change of one key; no value where it was deleted.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) key: Key,
    pub(super) value: Option<Value>,
    pub(super) revision: Revision,
}

/// Every change after one revision, oldest first.
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

    /// Remembers one change, and forgets the oldest if need be.
    pub(super) fn push(&mut self, change: Change) {
        self.changes.push_back(change);
        while self.changes.len() > self.capacity {
            if let Some(oldest) = self.changes.pop_front() {
                self.forgotten = oldest.revision;
            }
        }
    }

    /// The next changes after `cursor` below `prefix`, and the revision up to which that is all of them.
    fn after(&self, cursor: Revision, newest: Revision, prefix: &Prefix) -> Result<(VecDeque<Event>, Revision), ()> {
        if cursor < self.forgotten {
            return Err(());
        }
        let mut batch = VecDeque::new();
        let mut last = cursor;
        let first = self.changes.partition_point(|change| change.revision <= cursor);
        for change in self.changes.range(first..) {
            if batch.len() >= BATCH_CHANGES && change.revision > last {
                return Ok((batch, last));
            }
            last = change.revision;
            if prefix.holds(&change.key) {
                batch.push_back(change.event());
            }
        }
        Ok((batch, newest))
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

/// A watch's place in the history.
struct Reader {
    shared: Arc<Shared>,
    news: watch::Receiver<Revision>,
    prefix: Prefix,
    cursor: Revision,
    batch: VecDeque<Event>,
    ended: bool,
}

/// Watches `prefix` from the revision `after`.
pub(super) fn watch(shared: &Arc<Shared>, prefix: &Prefix, after: Revision) -> Watch {
    let reader = Reader {
        news: shared.subscribe(),
        shared: shared.clone(),
        prefix: prefix.clone(),
        cursor: after,
        batch: VecDeque::new(),
        ended: false,
    };
    Watch::new(reader.events())
}

impl Reader {
    fn events(self) -> impl Stream<Item = Event> + Send + 'static {
        stream::unfold(self, |mut reader| async move { reader.next().await.map(|event| (event, reader)) })
    }

    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.batch.pop_front() {
                return Some(event);
            }
            if self.ended {
                return None;
            }
            // Marked before reading, so that what is committed meanwhile is news again.
            self.news.mark_unchanged();
            if let Err(reason) = self.refill() {
                self.ended = true;
                return Some(Event::Resync(reason));
            }
            if self.batch.is_empty() && self.news.changed().await.is_err() {
                self.ended = true;
                return Some(Event::Resync(ResyncReason::Closed));
            }
        }
    }

    fn refill(&mut self) -> Result<(), ResyncReason> {
        let state = self.shared.lock();
        if self.cursor > state.revision {
            return Err(ResyncReason::UnknownRevision);
        }
        let (batch, cursor) =
            state.history.after(self.cursor, state.revision, &self.prefix).map_err(|()| ResyncReason::Compacted)?;
        if batch.is_empty() && state.closed {
            return Err(ResyncReason::Closed);
        }
        self.batch = batch;
        self.cursor = cursor;
        Ok(())
    }
}
