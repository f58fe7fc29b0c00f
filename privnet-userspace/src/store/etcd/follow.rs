//! A watch: a stream of etcd's that is opened again where it broke, or ends with a resync.
//!
//! A stream may end, or say nothing for ever: behind a partition, at a member that was stopped, at one that has lost the
//! others. So every stream demands a leader, and one that says nothing is asked for its progress; what does not answer that
//! is as good as broken. A broken watch goes on at another member, after the last revision that it delivered, for as long as
//! that takes less than [`Timing::bridge`](super::options::Timing). Where the changes are compacted, the cluster is another
//! one or has another history ([`Landmark`]), or it takes longer, the last event is a resync.
//!
//! Only events move the place from which a watch goes on, never a progress report: etcd before 3.4.25 and 3.5.8 may report
//! what it has not sent (etcd-io/etcd#15220).

use std::sync::Arc;

use futures::StreamExt as _;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::cluster::{Cluster, Failure};
use super::encode;
use super::landmark::Landmark;
use super::protocol::{DELETE, Done, WatchCreateRequest, WatchDemand, WatchEvent, WatchRequest, WatchResponse, path};
use crate::store::contract::{Event, ResyncReason, Watch};
use crate::store::path::Prefix;
use crate::store::transaction::Revision;

/// How many transactions wait for a slow reader here; more wait in etcd.
const WAITING_TRANSACTIONS: usize = 1024;

/// A watch, as long as it is read.
struct Follower {
    cluster: Arc<Cluster>,
    open: watch::Receiver<()>,
    range: (Vec<u8>, Vec<u8>),
    /// The last revision of etcd of which everything was delivered.
    delivered: i64,
    /// The last change that was delivered, or that was there before; nothing where the prefix was empty.
    landmark: Option<Landmark>,
    cluster_id: u64,
    /// Each message is a transaction.
    events: mpsc::Sender<Vec<Event>>,
}

/// Why a stream ended.
enum End {
    /// For good, and the reader is to be told.
    Resync(ResyncReason),
    /// The reader has gone.
    Unread,
    /// It broke; whether it had begun, and the failure.
    Broken { had_begun: bool, failure: Failure },
}

/// Watches `prefix` from the revision `after`.
pub(super) async fn watch(
    cluster: Arc<Cluster>,
    open: watch::Receiver<()>,
    prefix: &Prefix,
    after: Revision,
) -> Result<Watch, Failure> {
    let head = cluster.head().await?;
    let delivered = encode::etcd_revision(after);
    if head.revision < delivered {
        // etcd would wait for that revision, and not deliver the changes before it.
        let unknown = Event::Resync(ResyncReason::UnknownRevision);
        return Ok(Watch::new(futures::stream::once(std::future::ready(vec![unknown]))));
    }
    let (events, reader) = mpsc::channel(WAITING_TRANSACTIONS);
    let range = encode::range(prefix);
    let landmark = match Landmark::find(&cluster, range.clone(), delivered).await {
        // The stream says the same.
        Err(failure) if failure.status.code() == Code::OutOfRange => None,
        landmark => landmark?,
    };
    let follower = Follower { cluster, open, range, delivered, landmark, cluster_id: head.cluster_id, events };
    tokio::spawn(follower.run());
    Ok(Watch::new(ReceiverStream::new(reader)))
}

impl Follower {
    async fn run(mut self) {
        let mut broken_since: Option<Instant> = None;
        loop {
            let failure = match self.stream(broken_since.is_some()).await {
                End::Unread => return,
                End::Resync(reason) => return self.say_resync(reason).await,
                End::Broken { had_begun, failure } => {
                    if had_begun {
                        broken_since = None;
                    }
                    failure
                }
            };
            let since = *broken_since.get_or_insert_with(Instant::now);
            tracing::debug!("a watch broke: {}", failure.explain("watch"));
            if since.elapsed() >= self.cluster.timing.bridge {
                return self.say_resync(ResyncReason::Closed).await;
            }
            let pause = self.cluster.timing.pause();
            tokio::select! {
                () = sleep(pause) => {}
                () = self.events.closed() => return,
                _ = self.open.changed() => return self.say_resync(ResyncReason::Closed).await,
            }
        }
    }

    async fn say_resync(self, reason: ResyncReason) {
        // A reader that has gone needs no event.
        let _ = self.events.send(vec![Event::Resync(reason)]).await;
    }

    /// Opens a stream after the last delivered revision, and delivers until it ends.
    async fn stream(&mut self, is_again: bool) -> End {
        let mut open = self.open.clone();
        let opened = tokio::select! {
            opened = self.begin(is_again) => opened,
            () = self.events.closed() => return End::Unread,
            _ = open.changed() => return End::Resync(ResyncReason::Closed),
        };
        match opened {
            Ok((demands, answers)) => self.deliver(demands, answers).await,
            Err(end) => end,
        }
    }

    async fn begin(&self, is_again: bool) -> Result<(mpsc::Sender<WatchRequest>, Streaming<WatchResponse>), End> {
        let broken = |failure| End::Broken { had_begun: false, failure };
        if is_again {
            let head = self.cluster.head().await.map_err(broken)?;
            if head.cluster_id != self.cluster_id || head.revision < self.delivered {
                return Err(End::Resync(ResyncReason::UnknownRevision));
            }
            match self.has_the_same_history().await {
                Ok(true) => {}
                Ok(false) => return Err(End::Resync(ResyncReason::UnknownRevision)),
                Err(failure) if failure.status.code() == Code::OutOfRange => {
                    return Err(End::Resync(ResyncReason::Compacted));
                }
                Err(failure) => return Err(broken(failure)),
            }
        }
        // Between the two, nothing changed below the prefix; in another history something may have.
        let last = self.landmark.as_ref().filter(|_| is_again).map_or(self.delivered, Landmark::revision);
        let (demands, outgoing) = mpsc::channel(2);
        let (key, range_end) = self.range.clone();
        let create = WatchCreateRequest { key, range_end, start_revision: last + 1, progress_notify: true };
        // The channel is new and empty.
        let _ = demands.try_send(WatchRequest { demand: Some(WatchDemand::Create(create)) });
        let mut answers = self.cluster.stream(path::WATCH, ReceiverStream::new(outgoing)).await.map_err(broken)?;
        let answer: WatchResponse = self.cluster.next_of(&mut answers).await.map_err(broken)?;
        if answer.created && !answer.canceled {
            return Ok((demands, answers));
        }
        Err(self.canceled(&answer, false))
    }

    async fn has_the_same_history(&self) -> Result<bool, Failure> {
        match &self.landmark {
            Some(landmark) => landmark.is_in(&self.cluster).await,
            None => Ok(Landmark::find(&self.cluster, self.range.clone(), self.delivered).await?.is_none()),
        }
    }

    async fn deliver(&mut self, demands: mpsc::Sender<WatchRequest>, mut answers: Streaming<WatchResponse>) -> End {
        let timing = self.cluster.timing;
        let mut heard = Instant::now();
        let mut asked = heard;
        loop {
            let next = tokio::select! {
                next = timeout_at((heard + timing.silence).min(asked + timing.probe), answers.next()) => next,
                () = self.events.closed() => return End::Unread,
                _ = self.open.changed() => return End::Resync(ResyncReason::Closed),
            };
            let answer = match next {
                Ok(Some(Ok(answer))) => answer,
                Ok(Some(Err(status))) => return self.broken(status),
                Ok(None) => return self.broken(Status::unavailable("the stream ended")),
                Err(_) if heard.elapsed() >= timing.silence => {
                    let silence = timing.silence.as_secs_f32();
                    return self.broken(Status::deadline_exceeded(format!("a watch heard nothing for {silence} s")));
                }
                Err(_) => {
                    // A channel that is full still has the last question.
                    let _ = demands.try_send(WatchRequest { demand: Some(WatchDemand::Progress(Done {})) });
                    asked = Instant::now();
                    continue;
                }
            };
            if answer.canceled || answer.compact_revision != 0 {
                return self.canceled(&answer, true);
            }
            if let Err(end) = self.hand_over(answer.events).await {
                return end;
            }
            // After the handing over: a slow reader is no silence of etcd's.
            heard = Instant::now();
            asked = heard;
        }
    }

    /// Delivers events, a transaction at a time. Those of the same revision always come in the same answer: etcd splits one
    /// only for a watch that asks for fragments, and these ask for none.
    async fn hand_over(&mut self, mut events: Vec<WatchEvent>) -> Result<(), End> {
        let revision_of = |event: &WatchEvent| event.kv.as_ref().map_or(0, |kv| kv.mod_revision);
        events.sort_by_key(|event| (revision_of(event), event.kind == DELETE));
        for transaction in events.chunk_by(|one, other| revision_of(one) == revision_of(other)) {
            let changes: Vec<Event> = transaction.iter().filter_map(contract_event).collect();
            if !changes.is_empty() {
                tokio::select! {
                    sent = self.events.send(changes) => sent.map_err(|_| End::Unread)?,
                    _ = self.open.changed() => return Err(End::Resync(ResyncReason::Closed)),
                }
            }
            self.delivered = self.delivered.max(transaction.first().map_or(0, revision_of));
            self.landmark = transaction.last().and_then(Landmark::of).or(self.landmark.take());
        }
        Ok(())
    }

    fn canceled(&self, answer: &WatchResponse, had_begun: bool) -> End {
        if answer.compact_revision != 0 {
            return End::Resync(ResyncReason::Compacted);
        }
        let failure = self.cluster.failed_stream(Status::unavailable(answer.cancel_reason.clone()));
        End::Broken { had_begun, failure }
    }

    fn broken(&self, status: Status) -> End {
        End::Broken { had_begun: true, failure: self.cluster.failed_stream(status) }
    }
}

fn contract_event(event: &WatchEvent) -> Option<Event> {
    let kv = event.kv.as_ref()?;
    let key = encode::parse_key(&kv.key)?;
    let revision = encode::revision(kv.mod_revision);
    Some(if event.kind == DELETE {
        Event::Delete { key, revision }
    } else {
        Event::Put { key, value: kv.value.as_slice().into(), revision }
    })
}
