//! Whether the store answers, and how old what is known of it is.
//!
//! Every read is answered from the store's image in memory. The image follows the store by its watch, which says nothing
//! while nothing changes and nothing while the store is away. So the store is asked once a second whether it answers.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::door::error::{ControlError, ErrorCode};
use super::door::explain::problem;
use super::store_problems::{StoreProblem, StoreProblems};
use super::turns::Turns;
use crate::store::Store;

/// How often the store is asked.
const INTERVAL: Duration = Duration::from_secs(1);
/// What is known of the store is current unless it has not answered for this long: an answer may take its time.
const CURRENT: Duration = Duration::from_secs(4);
/// After how long without an answer a store keeps a container from starting: it is asked once a second.
const SILENT: Duration = Duration::from_millis(1500);
/// How long a request waits in any case for a store that was silent before: a host that is busy asks it late.
const GRACE: Duration = Duration::from_millis(500);
/// How long it waits for a store that is known not to answer, which may be back by now.
const ONCE_MORE: Duration = Duration::from_millis(300);
/// How often is looked whether the store is silent.
const GLANCE: Duration = Duration::from_millis(50);

/// Whether the store answers.
#[derive(Debug)]
pub struct Contact(watch::Sender<Heard>);

#[derive(Clone, Debug)]
struct Heard {
    /// When the image was last known to be current.
    at: Instant,
    /// When it answered the last time, whatever the image is.
    answered: Instant,
    /// Whether the image followed the store at the last answer.
    follows: bool,
    /// Why the last question was left without an answer.
    fault: Option<ControlError>,
}

impl Contact {
    /// A store that has just been read.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self(watch::Sender::new(Heard { at: now, answered: now, follows: true, fault: None }))
    }

    /// A store that cannot be read, and an image of it that was current so long ago.
    #[must_use]
    pub fn without_answer(now: Instant, age: Duration, fault: ControlError) -> Self {
        let at = now.checked_sub(age).unwrap_or(now);
        Self(watch::Sender::new(Heard { at, answered: at, follows: false, fault: Some(fault) }))
    }

    /// How old the store's image is; nothing while it is current.
    #[must_use]
    pub fn age(&self, now: Instant) -> Option<Duration> {
        let Heard { at, follows, fault, .. } = &*self.0.borrow();
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

    /// Why the last question was left without an answer; nothing where it was answered.
    #[must_use]
    pub fn fault(&self) -> Option<ControlError> {
        let heard = self.0.borrow();
        heard.fault.clone().or_else(|| (heard.answered.elapsed() >= SILENT).then(silence))
    }

    /// Does what asks the store, for a container that waits; gives up soon after the store is found not to answer. What waits
    /// for other requests, while the store answers, is waited for. A change may have been carried out that is given up.
    ///
    /// # Errors
    /// Why the store does not answer.
    pub async fn in_time<T>(&self, work: impl Future<Output = T>) -> Result<T, ControlError> {
        let given_up = async {
            let fault = tokio::select! {
                fault = self.away() => fault,
                fault = self.silent() => return fault,
            };
            tokio::time::sleep(ONCE_MORE).await;
            fault
        };
        tokio::select! {
            biased;
            done = work => Ok(done),
            fault = given_up => Err(fault),
        }
    }

    /// Waits until the store has answered nothing for too long, and says so.
    async fn silent(&self) -> ControlError {
        tokio::time::sleep(GRACE).await;
        while self.0.borrow().answered.elapsed() < SILENT {
            tokio::time::sleep(GLANCE).await;
        }
        silence()
    }

    /// Notes an answer to a question that was asked then, while the image followed the store.
    fn heard(&self, asked: Instant) {
        self.0.send_replace(Heard { at: asked, answered: Instant::now(), follows: true, fault: None });
    }

    /// Notes an answer, while the image did not follow the store.
    fn is_there(&self) {
        self.0.send_modify(|heard| {
            heard.answered = Instant::now();
            heard.follows = false;
            heard.fault = None;
        });
    }

    /// Notes a question without an answer.
    fn is_away(&self, fault: ControlError) {
        self.0.send_modify(|heard| heard.fault = Some(fault));
    }
}

fn silence() -> ControlError {
    ControlError::new(
        ErrorCode::StoreUnavailable,
        format!("the store has answered nothing for {SILENT:?}"),
        "see `privnet status`, and try again once it answers",
    )
}

/// Asks the store again and again whether it answers. Never ends.
pub async fn keep_contact(
    contact: Arc<Contact>,
    store: Arc<dyn Store>,
    problems: Arc<StoreProblems>,
    turns: Arc<Turns>,
) {
    // A store that takes its time is asked as often as one that does not: what passes between two answers says that it is silent.
    let mut interval = tokio::time::interval(INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        interval.tick().await;
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
        contact.is_away(ControlError::new(ErrorCode::StoreUnavailable, "refused", ""));
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

    #[tokio::test]
    async fn what_asks_a_store_that_is_silent_is_given_up_and_what_waits_for_others_is_not() {
        let contact = Contact::new(Instant::now());
        let never = std::future::pending::<()>;
        // The store answers, and the request waits for others longer than a silent store is waited for.
        let answers = async {
            loop {
                contact.heard(Instant::now());
                tokio::time::sleep(GLANCE).await;
            }
        };
        let waits = contact.in_time(tokio::time::sleep(SILENT + GRACE));
        tokio::select! {
            biased;
            () = answers => {}
            done = waits => assert_eq!(done, Ok(())),
        }
        let fault = contact.in_time(never()).await.expect_err("it is silent");
        assert!(fault.message.contains("answered nothing"), "{fault}");
        assert_eq!(contact.in_time(std::future::ready(7)).await, Ok(7), "it has answered all the same");
        contact.is_away(ControlError::new(ErrorCode::StoreUnavailable, "refused", ""));
        assert_eq!(contact.in_time(never()).await.expect_err("it is away").message, "refused");
        assert_eq!(contact.in_time(tokio::time::sleep(GLANCE)).await, Ok(()), "it is back");
    }
}
