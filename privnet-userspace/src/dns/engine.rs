//! The zones, their age and the counters, shared by the UDP threads and the TCP tasks; and the way from a query to its
//! reply.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use rand::SeedableRng as _;
use rand::rngs::SmallRng;
use rustix::time::ClockId;
use serde::{Deserialize, Serialize};

use super::wire::{self, Incoming, Limits, Query, ResponseCode, Written};
use crate::model::published;
use crate::names::{Difference, DnsClient, Forwarding, Name, QueryType, Question, Resolution, Zones};

/// How old the snapshot may be before it is no longer answered from, unless it is set otherwise.
pub const DEFAULT_MAX_AGE: Duration = Duration::from_hours(24);
/// The smallest record, in octets: a pointer to its owner, type, class, TTL, length and an address.
const RECORD_OCTETS: usize = 16;

/// The zones, their age and the counters, shared by all threads and tasks that serve.
#[derive(Debug)]
pub struct Engine {
    zones: RwLock<Zones>,
    /// When the snapshot was last known to be current, in nanoseconds since boot; 0 when there is none.
    confirmed: AtomicU64,
    max_age: Duration,
    /// The counters.
    pub counters: Counters,
}

published! {
    /// How a query came, and its reply went.
    Transport {
        /// A datagram.
        Udp "udp",
        /// A stream.
        Tcp "tcp",
    }
}

/// The treatment of a query.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// The reply was written: send it.
    Reply,
    /// The query gets no reply.
    Silence,
    /// The resolvers are asked.
    Forward(Forwarding),
}

/// The memory of a thread or task that serves: used for each of its queries, so that a query allocates none.
#[derive(Debug)]
pub struct Scratch {
    random: SmallRng,
    name: Name,
}

impl Default for Scratch {
    fn default() -> Self {
        Self { random: SmallRng::from_rng(&mut rand::rng()), name: Name::root() }
    }
}

/// The zones at one moment, and whether they may be answered from.
pub struct View<'a> {
    zones: RwLockReadGuard<'a, Zones>,
    stale: bool,
}

impl Engine {
    /// An engine without names: it answers SERVFAIL until it has some.
    #[must_use]
    pub fn new(max_age: Duration) -> Self {
        Self { zones: RwLock::default(), confirmed: AtomicU64::new(0), max_age, counters: Counters::default() }
    }

    /// Changes the zones, and notes that they are current.
    pub fn apply(&self, difference: Difference) {
        self.zones.write().unwrap_or_else(PoisonError::into_inner).apply(difference);
        self.confirm();
    }

    /// Replaces all zones at once, and notes that they are current.
    pub fn replace(&self, everything: Difference) {
        let mut zones = Zones::new();
        zones.apply(everything);
        *self.zones.write().unwrap_or_else(PoisonError::into_inner) = zones;
        self.confirm();
    }

    /// Notes that the zones are current.
    pub fn confirm(&self) {
        self.confirmed.store(nanoseconds_since_boot().max(1), Ordering::Relaxed);
    }

    /// The time since the zones were last known to be current; `None` when they never were.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        match self.confirmed.load(Ordering::Relaxed) {
            0 => None,
            then => Some(Duration::from_nanos(nanoseconds_since_boot().saturating_sub(then))),
        }
    }

    /// Whether the zones are too old to be answered from, or there are none.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.age().is_none_or(|age| age > self.max_age)
    }

    /// The zones as they are. A change of the zones waits until the view is dropped.
    #[must_use]
    pub fn view(&self) -> View<'_> {
        let stale = self.is_stale();
        View { zones: self.zones.read().unwrap_or_else(PoisonError::into_inner), stale }
    }
}

impl View<'_> {
    /// The zones.
    #[must_use]
    pub fn zones(&self) -> &Zones {
        &self.zones
    }

    /// Decides the treatment of the message `bytes` from `client`, and writes a reply into `out`.
    pub fn handle(
        &self,
        counters: &Counters,
        scratch: &mut Scratch,
        client: &DnsClient,
        (bytes, transport): (&[u8], Transport),
        out: &mut Vec<u8>,
    ) -> Step {
        out.clear();
        let forwarding = self.zones.forwarding(client);
        let recursion_available = forwarding != Forwarding::Off;
        let query = match wire::read(bytes) {
            Incoming::Silence => {
                counters.silence.add();
                return Step::Silence;
            }
            Incoming::Wrong(head, problem) => {
                let limits = Limits { octets: wire::UDP_PLAIN_OCTETS, recursion_available };
                let written = wire::write_problem(&head, problem, limits, out);
                counters.wrote(transport, written);
                return Step::Reply;
            }
            Incoming::Query(query) => query,
        };
        let limits = Limits { octets: most_octets(&query, transport), recursion_available };
        let written = match self.resolve(scratch, client, &query, limits.octets) {
            Some(Resolution::Answered(_)) if self.stale => {
                counters.stale.add();
                wire::write_error(&query, ResponseCode::ServerFailure, limits, out)
            }
            Some(Resolution::Answered(answer)) => wire::write_answer(&query, &answer, limits, out),
            Some(Resolution::Elsewhere) if recursion_available => return Step::Forward(forwarding),
            Some(Resolution::Elsewhere) => wire::write_error(&query, ResponseCode::Refused, limits, out),
            None => wire::write_error(&query, ResponseCode::FormatError, limits, out),
        };
        counters.wrote(transport, written);
        Step::Reply
    }

    fn resolve(
        &self,
        scratch: &mut Scratch,
        client: &DnsClient,
        query: &Query<'_>,
        octets: usize,
    ) -> Option<Resolution> {
        // The labels of a name that was read are neither too long nor too many.
        scratch.name.refill(query.labels()).ok()?;
        scratch.name.make_lowercase();
        let question =
            Question { name: &scratch.name, kind: QueryType::from(query.kind), most: octets / RECORD_OCTETS };
        Some(self.zones.resolve(client, question, &mut scratch.random))
    }
}

/// The largest reply to a query, in octets.
#[must_use]
pub fn most_octets(query: &Query<'_>, transport: Transport) -> usize {
    match transport {
        Transport::Udp => query.udp_octets(),
        Transport::Tcp => wire::TCP_MOST_OCTETS,
    }
}

/// The clock counts the time of suspension: a host that was suspended for a day resumes with old names.
fn nanoseconds_since_boot() -> u64 {
    let now = rustix::time::clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(now.tv_nsec).unwrap_or(0))
}

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    pub fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Its value.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counters since the start of the process.
#[derive(Debug, Default)]
pub struct Counters {
    udp: [Counter; ResponseCode::ALL.len()],
    tcp: [Counter; ResponseCode::ALL.len()],
    /// Messages that got no reply: responses, and messages without a whole header.
    pub silence: Counter,
    /// Replies without some of their records.
    pub truncated: Counter,
    /// Questions for names of ours that were not answered because the snapshot is too old.
    pub stale: Counter,
    /// Queries that were forwarded and answered.
    pub forwarded: Counter,
    /// Queries that were forwarded and not answered in time.
    pub unanswered: Counter,
    /// Queries that were not forwarded because their container, or all together, had too many under way.
    pub over_budget: Counter,
    /// Replies that could not be sent.
    pub send_failures: Counter,
    /// Connections that were refused because their container, or all together, had too many.
    pub connections_refused: Counter,
}

/// The counters at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    /// Replies by transport (`udp`, `tcp`) and code.
    pub replies: Vec<Replies>,
    /// See [`Counters`], for this and all that follow.
    pub silence: u64,
    /// Replies that left something out.
    pub truncated: u64,
    /// Not answered because of the snapshot's age.
    pub stale: u64,
    /// Forwarded and answered.
    pub forwarded: u64,
    /// Forwarded and not answered.
    pub unanswered: u64,
    /// Not forwarded because of a budget.
    pub over_budget: u64,
    /// Not sent.
    pub send_failures: u64,
    /// Connections refused.
    pub connections_refused: u64,
}

/// The number of replies of one transport and code.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replies {
    /// `udp` or `tcp`.
    pub transport: String,
    /// The code in lower case, `noerror`.
    pub rcode: String,
    /// The number.
    pub count: u64,
}

impl Counters {
    /// Counts a reply.
    pub fn wrote(&self, transport: Transport, written: Written) {
        let counters = match transport {
            Transport::Udp => &self.udp,
            Transport::Tcp => &self.tcp,
        };
        let counted = ResponseCode::ALL.iter().zip(counters).find(|(code, _)| **code == written.code);
        if let Some((_, counter)) = counted {
            counter.add();
        }
        if written.truncated {
            self.truncated.add();
        }
    }

    /// The counters at this moment.
    #[must_use]
    pub fn read(&self) -> Counted {
        let replies = |transport: Transport, counters: &[Counter]| -> Vec<Replies> {
            let rows = ResponseCode::ALL.iter().zip(counters).map(|(code, counter)| Replies {
                transport: transport.name().to_owned(),
                rcode: code.name().to_owned(),
                count: counter.get(),
            });
            rows.collect()
        };
        Counted {
            replies: [replies(Transport::Udp, &self.udp), replies(Transport::Tcp, &self.tcp)].concat(),
            silence: self.silence.get(),
            truncated: self.truncated.get(),
            stale: self.stale.get(),
            forwarded: self.forwarded.get(),
            unanswered: self.unanswered.get(),
            over_budget: self.over_budget.get(),
            send_failures: self.send_failures.get(),
            connections_refused: self.connections_refused.get(),
        }
    }
}
