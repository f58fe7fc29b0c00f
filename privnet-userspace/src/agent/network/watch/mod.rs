//! Watchers in the namespaces of one network: what a stranger removes or changes wakes the worker in milliseconds.
//!
//! A watcher judges each event by the plan, so that what the agent does itself wakes nobody: what goes and should go, and what
//! comes as it should be. What is left is doubted, member by member, and no more often than [`Pace`] allows.
//!
//! | module | where |
//! |---|---|
//! | `app` | in a container: its `wg<n>`, the routes, the guard's filters, interfaces that appear |
//! | `binding` | in a binding netns: the carrier, its address, routes and neighbours |
//! | `network` | in the network netns: the veths, `vxlan0`, `br0`, forwarding entries, filters |

mod app;
mod binding;
mod network;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::handle::{Doubts, Fault, WorkerHandle};
use super::local::LocalNetwork;
use super::pace::Pace;
use crate::link::{Event, Watch};
use crate::model::{IfName, MemberId};
use crate::netns::NetnsId;
use crate::topology::{Key, Plan};

/// The watchers of one network: two per member of this host, and one in the network netns.
pub struct Watchers {
    handle: Arc<WorkerHandle>,
    expected: Arc<Expected>,
    members: BTreeMap<(MemberId, Place), Watcher>,
    netns: Option<Watcher>,
}

/// Which namespace of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    App,
    Binding,
}

/// A watcher's task, the namespace that it is in, and the interface of ours that it knows there. Ends with its value.
struct Watcher {
    netns: NetnsId,
    interface: Option<IfName>,
    task: JoinHandle<()>,
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What should be, as the latest pass has it.
#[derive(Default)]
struct Expected(Mutex<Arc<Plan>>);

impl Expected {
    fn plan(&self) -> Arc<Plan> {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What a watcher makes of an event.
trait Judge: Send + 'static {
    /// What to doubt after the event.
    fn judge(&mut self, event: Event, plan: &Plan) -> Doubts;

    /// Whether the watcher is of no more use where it is: the next pass starts another one.
    fn is_over(&self) -> bool {
        false
    }
}

impl Watchers {
    /// None yet; they will wake the worker of `handle`.
    pub fn new(handle: Arc<WorkerHandle>) -> Self {
        Self { handle, expected: Arc::default(), members: BTreeMap::new(), netns: None }
    }

    /// Tells the watchers what should be from now on, and ends those of members that should not.
    pub fn expect(&mut self, plan: &Arc<Plan>) {
        *self.expected.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(plan);
        self.members.retain(|(member, _), _| plan.contains(Key::Guard(*member)));
    }

    /// Starts the watchers that are missing after a pass, which found something `in_the_way` of some members.
    pub async fn update(&mut self, net: &LocalNetwork, in_the_way: &BTreeMap<MemberId, Fault>) {
        let plan = self.expected.plan();
        for record in net.records.values().filter(|record| plan.contains(Key::Guard(record.id))) {
            for place in [Place::App, Place::Binding] {
                let key = (record.id, place);
                let interface = (place == Place::App).then(|| record.interface());
                // A device that was handed over is in another namespace, under another name.
                let is_there = |watcher: &Watcher| {
                    watcher.interface == interface && (place == Place::Binding || watcher.netns == record.netns)
                };
                if self.members.get(&key).is_some_and(|watcher| is_there(watcher) && !watcher.task.is_finished()) {
                    continue;
                }
                self.members.remove(&key);
                // What cannot be entered is tried again after the next pass, which says why.
                let Ok(namespaces) = net.namespaces_of(record.id).await else { continue };
                let there = match place {
                    Place::App => namespaces.app.as_ref(),
                    Place::Binding => namespaces.binding.get(),
                };
                let Some(netns) = there.map(|there| there.netns.clone()) else { continue };
                let (id, listening, has_fault) = (netns.id(), self.listening(), in_the_way.contains_key(&record.id));
                let task = match place {
                    Place::App => tokio::spawn(app::watch(netns, record.clone(), has_fault, listening)),
                    Place::Binding => tokio::spawn(binding::watch(netns, record.clone(), listening)),
                };
                self.members.insert(key, Watcher { netns: id, interface, task });
            }
        }
        self.update_netns(net, &plan).await;
    }

    async fn update_netns(&mut self, net: &LocalNetwork, plan: &Plan) {
        let netns = if plan.is_empty() { None } else { net.netns().await.ok().flatten() };
        let Some(netns) = netns else {
            self.netns = None;
            return net.forget_netns();
        };
        let id = netns.netns.id();
        if self.netns.as_ref().is_some_and(|watcher| watcher.netns == id && !watcher.task.is_finished()) {
            return;
        }
        let (netns, journal) = (netns.netns.clone(), Arc::clone(&net.journal));
        let task = tokio::spawn(network::watch(netns, net.network, journal, self.listening()));
        self.netns = Some(Watcher { netns: id, interface: None, task });
    }

    fn listening(&self) -> Listening {
        Listening { handle: Arc::clone(&self.handle), expected: Arc::clone(&self.expected) }
    }
}

/// How many passes a watcher may ask for at once, when it has not for long.
const PASSES_AT_ONCE: u32 = 20;
/// How far apart they are, in the long run: a container that changes what is privnet's all the time costs the others
/// two passes a second, of one member each.
const PASS_INTERVAL: Duration = Duration::from_millis(500);
/// How many events a watcher reads before it lets other tasks run.
const EVENTS_AT_ONCE: u32 = 64;

/// What every watcher has: whom to wake, and what should be.
struct Listening {
    handle: Arc<WorkerHandle>,
    expected: Arc<Expected>,
}

impl Listening {
    /// Reads events until the socket is closed, however many there are, and asks for passes at their pace.
    async fn follow(self, mut watch: Watch, mut judge: impl Judge, first: Doubts) {
        let mut pace = Pace::new(PASSES_AT_ONCE, PASS_INTERVAL, Instant::now());
        let mut doubts = first;
        let mut events = 0_u32;
        loop {
            let is_due = doubts != Doubts::default();
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(pace.due()), if is_due => {
                    pace.take(Instant::now());
                    self.handle.wake_and_doubt(std::mem::take(&mut doubts));
                }
                event = watch.next() => match event {
                    Some(event) => {
                        doubts.add(judge.judge(event, &self.expected.plan()));
                        if judge.is_over() {
                            return self.handle.wake_and_doubt(doubts);
                        }
                        events = events.wrapping_add(1);
                        if events.is_multiple_of(EVENTS_AT_ONCE) {
                            tokio::task::yield_now().await;
                        }
                    }
                    None => return,
                },
            }
        }
    }
}

/// A doubt about one member.
fn member(id: MemberId) -> Doubts {
    Doubts { members: [id].into(), ..Doubts::default() }
}
