//! Begins the sessions that devices of this host had before they were made anew, those that talked last first, at a pace that
//! the host and its peers bear.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::pace::Pace;
use super::sessions::Session;
use crate::model::PublicKey;
use crate::wireguard::Device;

/// How many sessions this host begins at once, and how far apart it begins the others.
///
/// A handshake costs both ends together 1.3 ms of processor time in a build that is not optimized. A session lasts 180 s, so
/// 9,000 are begun at most, however many there were: the other ends begin the rest, when they talk.
const BURST: u32 = 40;
const INTERVAL: Duration = Duration::from_millis(20);

/// The sessions of this host that are still to be begun. The devices in it keep their containers' namespaces alive, for as long
/// as a session lasts at most.
pub struct Resumption {
    queue: Mutex<Queue<(Arc<Device>, PublicKey)>>,
    added: Notify,
}

impl Resumption {
    /// Nothing to begin.
    pub fn new() -> Self {
        Self { queue: Mutex::new(Queue::new(Instant::now())), added: Notify::new() }
    }

    /// Takes over the sessions that a device had, and that the other ends still have.
    pub fn add(&self, device: Device, sessions: BTreeMap<PublicKey, Session>) {
        let device = Arc::new(device);
        let mut queue = self.lock();
        for (peer, session) in sessions {
            queue.add(session, (Arc::clone(&device), peer));
        }
        self.added.notify_one();
    }

    /// Begins one session after the other. Never ends.
    pub async fn run(self: Arc<Self>) {
        loop {
            let due = self.lock().due();
            match due {
                None => self.added.notified().await,
                Some(due) => tokio::time::sleep_until(due).await,
            }
            let taken = self.lock().take(Instant::now());
            for (device, peers) in by_device(taken) {
                // A process that hangs takes 5 s to be given up; the others do not wait for it.
                tokio::spawn(async move {
                    match device.begin_sessions(&peers).await {
                        Ok(()) => {
                            tracing::debug!(sessions = peers.len(), "began the sessions that a device had before")
                        }
                        // The device is gone again, or its process is one of a build before this one.
                        Err(error) => tracing::debug!("cannot begin the sessions that a device had before: {error}"),
                    }
                });
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue<(Arc<Device>, PublicKey)>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn by_device(sessions: Vec<(Arc<Device>, PublicKey)>) -> Vec<(Arc<Device>, Vec<PublicKey>)> {
    let mut devices: Vec<(Arc<Device>, Vec<PublicKey>)> = Vec::new();
    for (device, peer) in sessions {
        match devices.iter_mut().find(|(other, _)| Arc::ptr_eq(other, &device)) {
            Some((_, peers)) => peers.push(peer),
            None => devices.push((device, vec![peer])),
        }
    }
    devices
}

/// Which session is begun before which: the one that talked last, then the youngest, then the one that was added first.
type Turn = (Reverse<Instant>, Reverse<Instant>, u64);

/// What is to be begun, in its order and at its pace.
struct Queue<T> {
    waiting: BTreeMap<Turn, T>,
    added: u64,
    pace: Pace,
}

impl<T> Queue<T> {
    fn new(now: Instant) -> Self {
        Self { waiting: BTreeMap::new(), added: 0, pace: Pace::new(BURST, INTERVAL, now) }
    }

    fn add(&mut self, session: Session, what: T) {
        self.waiting.insert((Reverse(session.talked), Reverse(session.ends), self.added), what);
        self.added += 1;
    }

    /// When the next may be begun; nothing when none waits.
    fn due(&self) -> Option<Instant> {
        (!self.waiting.is_empty()).then(|| self.pace.due())
    }

    /// Takes those that may be begun now. One that the other end has forgotten meanwhile is left out: it begins anew by itself.
    fn take(&mut self, now: Instant) -> Vec<T> {
        let mut taken = Vec::new();
        while self.pace.due() <= now
            && let Some(((_, Reverse(ends), _), what)) = self.waiting.pop_first()
        {
            if ends > now {
                self.pace.take(now);
                taken.push(what);
            }
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MILLISECOND: Duration = Duration::from_millis(1);

    /// What is begun at which millisecond, when the queue is asked whenever it is due, until it is empty.
    fn begun<T>(queue: &mut Queue<T>, start: Instant) -> Vec<(u128, T)> {
        let (mut now, mut all) = (start, Vec::new());
        while let Some(due) = queue.due() {
            now = now.max(due);
            all.extend(queue.take(now).into_iter().map(|what| ((now - start).as_millis(), what)));
        }
        all
    }

    fn start() -> Instant {
        Instant::now() + Duration::from_secs(3600)
    }

    #[test]
    fn an_upgrade_of_a_full_host_begins_its_sessions_one_after_the_other() {
        let start = start();
        let mut queue = Queue::new(start);
        let ends = start + crate::wireguard::SESSION;
        for session in 0..45_000_u32 {
            queue.add(Session::of(start - MILLISECOND * session, ends), session);
        }
        let all = begun(&mut queue, start);
        // What is left is forgotten by the other ends as well.
        assert_eq!(all.len(), 40 + 180 * 50 - 1);
        assert!(all.is_sorted_by_key(|(_, session)| *session), "those that talked last come first");
        let within_a_second = |at: u128| all.iter().filter(|(then, _)| (at..at + 1000).contains(then)).count();
        assert!((0..180_000).step_by(250).all(|at| within_a_second(at) <= 90));
    }

    proptest! {
        #[test]
        fn each_session_is_begun_once_in_its_order_unless_it_ended(
            sessions in proptest::collection::vec((0..100_u32, 0..10_000_u32), 0..300),
        ) {
            let start = start();
            let mut queue = Queue::new(start);
            for (number, (talked, ends)) in sessions.iter().enumerate() {
                queue.add(Session::of(start - MILLISECOND * *talked, start + MILLISECOND * *ends), number);
            }
            let all = begun(&mut queue, start);
            prop_assert!(all.is_sorted_by_key(|(at, number)| (*at, sessions[*number].0)));
            prop_assert!(all.iter().all(|(at, number)| *at < u128::from(sessions[*number].1)));
            let most = |ms: u128| usize::try_from(40 + ms / 20).expect("few");
            prop_assert!(all.iter().enumerate().all(|(before, (at, _))| before < most(*at)));
            let mut numbers: Vec<usize> = all.iter().map(|(_, number)| *number).collect();
            numbers.sort_unstable();
            numbers.dedup();
            prop_assert_eq!(numbers.len(), all.len(), "once each");
            // One that is left out ended before its turn would have come.
            let last = all.last().map_or(0, |(at, _)| *at);
            let left = (0..sessions.len()).filter(|number| numbers.binary_search(number).is_err());
            prop_assert!(left.into_iter().all(|number| u128::from(sessions[number].1) <= last + 20));
        }
    }
}
