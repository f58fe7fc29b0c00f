//! The watches of a store of one process: each reads the changes that the store remembers.

use std::collections::VecDeque;
use std::sync::Arc;

use futures::stream::{self, Stream};
use tokio::sync::watch;

use super::contract::{Event, ResyncReason, Watch};
use super::path::Prefix;
use super::state::Shared;
use super::transaction::Revision;

/// A watch's place in the history.
struct Reader {
    shared: Arc<Shared>,
    news: watch::Receiver<Revision>,
    prefix: Prefix,
    cursor: Revision,
    batch: VecDeque<Vec<Event>>,
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
    Watch::new(reader.transactions())
}

impl Reader {
    fn transactions(self) -> impl Stream<Item = Vec<Event>> + Send + 'static {
        stream::unfold(self, |mut reader| async move { reader.next().await.map(|changes| (changes, reader)) })
    }

    async fn next(&mut self) -> Option<Vec<Event>> {
        loop {
            if let Some(changes) = self.batch.pop_front() {
                return Some(changes);
            }
            if self.ended {
                return None;
            }
            // Marked before reading, so that a commit during the reading is news again.
            self.news.mark_unchanged();
            if let Err(reason) = self.refill() {
                self.ended = true;
                return Some(vec![Event::Resync(reason)]);
            }
            if self.batch.is_empty() && self.news.changed().await.is_err() {
                self.ended = true;
                return Some(vec![Event::Resync(ResyncReason::Closed)]);
            }
        }
    }

    fn refill(&mut self) -> Result<(), ResyncReason> {
        let state = self.shared.lock();
        if self.cursor > state.revision {
            return Err(ResyncReason::UnknownRevision);
        }
        let (batch, cursor) =
            state.history.after(self.cursor, state.revision, &self.prefix).ok_or(ResyncReason::Compacted)?;
        if batch.is_empty() && state.closed {
            return Err(ResyncReason::Closed);
        }
        self.batch = batch;
        self.cursor = cursor;
        Ok(())
    }
}
