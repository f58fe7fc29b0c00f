//! Whether the store answers, and how old what is known of it is.
//!
//! Every read is answered from the store's image in memory. The image follows the store by its watch, which says nothing
//! while nothing changes and nothing while the store is away. So the store is asked once a second whether it answers.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::door::error::ControlError;
use super::door::explain::problem;
use super::store_problems::{StoreProblem, StoreProblems};
use super::turns::Turns;
use crate::store::Store;

/// How often the store is asked.
const INTERVAL: Duration = Duration::from_secs(1);
/// What is known of the store is current unless it has not answered for this long: an answer may take its time.
const CURRENT: Duration = Duration::from_secs(4);

/// Whether the store answers.
#[derive(Debug)]
pub struct Contact(watch::Sender<Heard>);

#[derive(Clone, Debug)]
struct Heard {
    /// When the image was last known to be current.
    at: Instant,
    /// Whether the image followed the store at the last answer.
    follows: bool,
    /// Why the last question was left without an answer.
    fault: Option<ControlError>,
}

impl Contact {
    /// A store that has just been read.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self(watch::Sender::new(Heard { at: now, follows: true, fault: None }))
    }

    /// A store that cannot be read, and an image of it that was current so long ago.
    #[must_use]
    pub fn without_answer(now: Instant, age: Duration, fault: ControlError) -> Self {
        let at = now.checked_sub(age).unwrap_or(now);
        Self(watch::Sender::new(Heard { at, follows: false, fault: Some(fault) }))
    }

    /// How old the store's image is; nothing while it is current.
    #[must_use]
    pub fn age(&self, now: Instant) -> Option<Duration> {
        let Heard { at, follows, fault } = &*self.0.borrow();
        let age = now.saturating_duration_since(*at);
        (fault.is_some() || !follows || age > CURRENT).then_some(age)
    }

    /// Waits until the store is found not to answer, and returns why; at once when that is known.
    pub async fn away(&self) -> ControlError {
        let mut heard = self.0.subscribe();
        loop {
            if let Some(fault) = &heard.borrow_and_update().fault {
                return fault.clone();
            }
            // The sender is this value's, and lives as long.
            let _ = heard.changed().await;
        }
    }

    /// Notes an answer to a question that was asked then, while the image followed the store.
    fn heard(&self, asked: Instant) {
        self.0.send_replace(Heard { at: asked, follows: true, fault: None });
    }

    /// Notes an answer, while the image did not follow the store.
    fn is_there(&self) {
        self.0.send_modify(|heard| {
            heard.follows = false;
            heard.fault = None;
        });
    }

    /// Notes a question without an answer.
    fn is_away(&self, fault: ControlError) {
        self.0.send_modify(|heard| heard.fault = Some(fault));
    }
}

/// Asks the store again and again whether it answers. Never ends.
pub async fn keep_contact(
    contact: Arc<Contact>,
    store: Arc<dyn Store>,
    problems: Arc<StoreProblems>,
    turns: Arc<Turns>,
) {
    loop {
        let asked = Instant::now();
        turns.turned("contact", asked);
        match store.check().await {
            Ok(()) => {
                problems.set(StoreProblem::Contact, None);
                // An image that is being read anew is not current yet.
                if problems.has(StoreProblem::Following) { contact.is_there() } else { contact.heard(asked) }
            }
            Err(error) => {
                let fault = error.into();
                problems.set(StoreProblem::Contact, Some(problem(&fault)));
                contact.is_away(fault);
            }
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_image_is_current_until_the_store_does_not_answer_and_then_as_old_as_its_last_answer() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let contact = Contact::new(start);
        assert_eq!(contact.age(after(3)), None);
        assert_eq!(contact.age(after(5)), Some(Duration::from_secs(5)), "it was not asked for too long");
        contact.heard(after(5));
        assert_eq!(contact.age(after(6)), None);
        contact.is_away(ControlError::new(crate::model::ErrorCode::StoreUnavailable, "refused", ""));
        assert_eq!(contact.age(after(6)), Some(Duration::from_secs(1)));
        assert_eq!(contact.away().await.message, "refused");
        // It answers, and the image is not read anew yet.
        contact.is_there();
        assert_eq!(contact.age(after(6)), Some(Duration::from_secs(1)), "an answer does not make the image current");
        assert_eq!(contact.age(after(10)), Some(Duration::from_secs(5)));
        assert!(futures::poll!(Box::pin(contact.away())).is_pending());
        contact.heard(after(10));
        assert_eq!(contact.age(after(10)), None);
    }
}
