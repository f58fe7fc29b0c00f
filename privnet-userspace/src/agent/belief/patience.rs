//! When what the store does not have counts: nothing before its first reading, a presence after ten seconds.

use std::time::{Duration, Instant};

use super::fact::is_presence;
use super::held::{Belief, Held, Stored};
use crate::store::{Event, Key, Revision};

/// How long a presence that was deleted is believed: its host writes it again meanwhile, if it is there.
pub(super) const PRESENCE_PATIENCE: Duration = Duration::from_secs(10);

impl Belief {
    /// What was remembered and the store does not have is lost from its first reading on: other hosts write theirs again then.
    pub(super) fn begin_to_lose(&mut self, now: Instant) {
        if std::mem::replace(&mut self.was_read, true) {
            return;
        }
        for key in &self.lost {
            if let Some(Held { stored: Stored::Lost { since, .. }, .. }) = self.held.get_mut(key) {
                *since = now;
            }
        }
    }

    /// Ends the belief in presences that were deleted long enough ago, and returns the changes of what is believed.
    pub fn expire(&mut self, now: Instant) -> Vec<Event> {
        if !self.was_read {
            return Vec::new();
        }
        let is_due = |held: &Held| {
            matches!(held.stored, Stored::Lost { since, is_over: false, .. }
                if now.saturating_duration_since(since) >= PRESENCE_PATIENCE)
        };
        let lost = self.lost.iter().filter(|key| is_presence(key));
        let due: Vec<Key> = lost.filter(|key| self.held.get(key).is_some_and(is_due)).cloned().collect();
        self.version += u64::from(!due.is_empty());
        for key in &due {
            if let Some(Held { stored: Stored::Lost { is_over, .. }, .. }) = self.held.get_mut(key) {
                *is_over = true;
            }
        }
        due.into_iter().map(|key| Event::Delete { key, revision: Revision::default() }).collect()
    }
}
