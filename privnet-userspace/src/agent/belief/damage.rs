//! Records that no host has written as the store has them. A host puts back what it wrote itself; a network is never changed,
//! so every host that has members in it puts that back.

use super::fact::{About, Fact};
use super::held::Belief;
use super::repair::Unit;
use crate::store::{Entry, Key, Value, records};

impl Belief {
    /// Whether this host puts back what it believes in the place of a record that cannot be read. What is no record of any
    /// build is damage for every host.
    pub(super) fn mends_unreadable(&self, entry: &Entry) -> bool {
        records::version_of(&entry.value).is_none() || self.is_to_mend(&entry.key)
    }

    /// Whether a record has the number of the one that is believed and says something else, and this host knows better: it
    /// numbers what it writes. The end of a membership may be another host's word.
    pub(super) fn is_altered(&self, key: &Key, value: &Value, fact: &Fact) -> bool {
        let Some(held) = self.held.get(key) else { return false };
        let has_same_number = match (&fact.about, &held.fact.about) {
            (About::Address { row, .. }, About::Address { row: before, .. }) => {
                row.count == before.count && row.holder.is_some()
            }
            (_, _) => true,
        };
        has_same_number
            && fact.serial == held.fact.serial
            && fact.serial > 0
            && held.value != *value
            && self.is_to_mend(key)
    }

    fn is_to_mend(&self, key: &Key) -> bool {
        let Some(held) = self.held.get(key) else { return false };
        match self.unit_of(key, &held.fact.about) {
            // A mark is never taken back.
            Some(Unit::Network(_) | Unit::Mark(_)) => true,
            Some(Unit::Host(host)) => host == self.own,
            Some(Unit::Membership(record)) => self.member(&record).is_some_and(|member| member.host == self.own),
            Some(Unit::Rows(_) | Unit::Ghost(_) | Unit::Beaten(_)) | None => false,
        }
    }
}
