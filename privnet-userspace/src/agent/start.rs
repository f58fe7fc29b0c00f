//! An agent from its configuration to its tasks, and back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::task::JoinSet;

use super::belief::Belief;
use super::checks::{check_periodically, expire_periodically};
use super::config::Config;
use super::contact::{Contact, keep_contact};
use super::door::control::Control;
use super::door::error::{ControlError, ErrorCode};
use super::door::explain::{explain, problem};
use super::door::handover;
use super::door::read_failures::ReadFailures;
use super::follow::{StoreFollower, read_everything};
use super::host::applied::tell_applied;
use super::host::capabilities;
use super::host::clock::watch_clock;
use super::host::facts::{Host, HostFacts, machine_at};
use super::host::fleet::{self, Joined};
use super::host::journal::{Journal, SharedJournal};
use super::host::machine;
use super::host::places::{have_bpffs, have_writable};
use super::host::presence::{self, Presence, Taking};
use super::host::state_dir::StateDir;
use super::host::underlay::watch_underlay;
use super::hosts::{GoneHosts, follow_hosts};
use super::membership;
use super::names::drain::finish_drains;
use super::names::handle::NamesHandle;
use super::names::resolv_conf;
use super::names::resolv_conf::files::ResolvConfs;
use super::names::worker::run_names;
use super::netns_links::NetnsLinks;
use super::network::handle::Workers;
use super::network::resumption::Resumption;
use super::network::supervisor::run_workers;
use super::put_back::put_back_periodically;
use super::recovery;
use super::shared::{Memberships, Shared};
use super::snapshot::{self, Remembered};
use super::store_problems::{StoreProblem, StoreProblems};
use super::turns::Turns;
use super::world::SharedWorld;
use crate::store::{Embedded, Fleet, LeaseId, Listing, Store, StoreKind, Watch, claims, keys};
use crate::{companion, failpoint};

/// A running agent. When it is dropped its tasks end, and what it built stays: traffic goes on.
pub struct Agent {
    control: Control,
    pub(super) memberships: Arc<Memberships>,
    turns: Arc<Turns>,
    tasks: JoinSet<()>,
}

impl Control {
    /// Ends what surfaces watch, since the agent ends.
    pub fn end_watching(&self) {
        self.shared.drops.end();
    }
}

impl Agent {
    /// Starts an agent; returns once it has read the store and its records, and its workers are called. The agent of a host
    /// that belongs to a fleet serves what it has seen where the store does not answer, or is not the fleet's.
    ///
    /// # Errors
    /// Nothing was changed but for the host's record in the store.
    pub async fn start(config: Config, store: Arc<dyn Store>) -> Result<Self, ControlError> {
        Self::try_start(config, store).await.map_err(|error| explain(&error))
    }

    async fn try_start(config: Config, store: Arc<dyn Store>) -> Result<Self> {
        prepare(&config)?;
        let state_dir = StateDir::take(&config.state_dir)?;
        have_bpffs(&config.bpffs_dir)?;
        have_writable(&config.netns_dir)?;
        let netns = NetnsLinks::enter(config.host_netns.clone()).await.context("entering the host's namespace")?;
        let own_machine = machine_at(&config.machine_id_file);
        let is_moved = machine::settle(&config, &state_dir, own_machine, store.kind())?;
        let mut journal = Journal::open(&config.journal_dir())?;
        let facts = HostFacts::find(&config, &netns, journal.instance()).await?;
        journal.carry_over()?;
        journal.sweep()?;
        let resolv_confs = Arc::new(ResolvConfs::open(&config.resolv_conf_dir())?);
        let Joined { fleet, is_known, away } = fleet::join(&config, store, journal.members()).await?;
        let fleet = Arc::new(fleet);
        let store: Arc<dyn Store> = Arc::clone(&fleet) as Arc<dyn Store>;
        let store_problems = Arc::new(StoreProblems::default());
        let seen = recall(&config, &journal, (store.kind(), is_known), &store_problems)?;
        let taking = Taking::Start { is_moved };
        let began = begin(&fleet, &config, &facts, &seen.belief, (away, taking)).await?;
        if is_moved && matches!(began, Began::Followed { .. }) {
            machine::note(&config.state_dir, &state_dir, facts.machine)?;
        }
        if let Began::Followed { listing, .. } = &began {
            // Without a memory, what cannot be read would look like what is not there, and be taken out of the kernel.
            if seen.remembered == Remembered::Nothing && !journal.records().is_empty() {
                Belief::read_all(listing).context("reading the store")?;
            }
        }
        let world = Arc::new(SharedWorld::new(seen.belief));
        if let Began::Followed { listing, .. } = &began {
            world.compare(listing, Instant::now());
            world.expire_quarantine(super::now_unix_seconds());
        }
        let now = tokio::time::Instant::now();
        let (lease, watch, contact) = match began {
            Began::Followed { lease, watch, .. } => {
                remove_leftovers(&*store, &world).await;
                (lease, Some(watch), Contact::new(now))
            }
            Began::Away(fault) => {
                store_problems.set(StoreProblem::Following, Some(problem(&fault)));
                (None, None, Contact::without_answer(now, seen.age, fault))
            }
        };
        let contact = Arc::new(contact);
        let host = Arc::new(Host { config, facts, netns, state_dir });
        let journal = Arc::new(SharedJournal::new(journal));
        let presence = Arc::new(Presence::new(
            Arc::clone(&host),
            Arc::clone(&fleet),
            Arc::clone(&store_problems),
            Arc::clone(&world),
            lease,
            watch.is_none().then_some(taking),
        ));
        let (names, workers) = (Arc::new(NamesHandle::new()), Arc::new(Workers::default()));
        let follower = StoreFollower {
            host: Arc::clone(&host),
            fleet: Arc::clone(&fleet),
            world: Arc::clone(&world),
            problems: Arc::clone(&store_problems),
            presence: Arc::clone(&presence),
            names: Arc::clone(&names),
            workers: Arc::clone(&workers),
        };
        let clock = watch_clock(Arc::clone(&host), Arc::clone(&store));
        let telling = run_names(
            Arc::clone(&host),
            Arc::clone(&world),
            Arc::clone(&journal),
            Arc::clone(&names),
            Arc::clone(&resolv_confs),
        );
        let (claims, unrecorded, kept) = (Arc::default(), Arc::default(), Arc::default());
        let resumption = Arc::new(Resumption::new());
        let memberships = Memberships {
            host,
            fleet,
            store,
            contact,
            world,
            journal,
            workers,
            resumption,
            names,
            resolv_confs,
            claims,
            unrecorded,
            kept,
            drops: Arc::default(),
        };
        let memberships = Arc::new(memberships);
        membership::detect_reused_netns(&memberships).await?;
        handover::netns::end_abandoned(&memberships)?;
        if watch.is_some() {
            membership::end_dead_and_settle(&memberships).await?;
        }
        recovery::private_keys::mend(&memberships).await;
        resolv_conf::after_start(&memberships).await;
        let networks: Vec<_> = memberships.journal().records().values().map(|record| record.network).collect();
        for network in networks {
            memberships.workers.of(network).wake();
        }
        let (mut tasks, turns) = (JoinSet::new(), Arc::new(Turns::default()));
        tasks.spawn(run_workers(Arc::clone(&memberships)));
        tasks.spawn(Arc::clone(&memberships.resumption).run());
        tasks.spawn(follower.run(watch));
        tasks.spawn(expire_periodically(Arc::clone(&memberships)));
        tasks.spawn(check_periodically(Arc::clone(&memberships), Arc::clone(&turns)));
        tasks.spawn(put_back_periodically(Arc::clone(&memberships), Arc::clone(&store_problems)));
        if memberships.store.kind() == StoreKind::Etcd {
            let path = memberships.host.config.snapshot_path();
            tasks.spawn(snapshot::keep(path, Arc::clone(&memberships.world), Arc::clone(&store_problems)));
        }
        tasks.spawn(Arc::clone(&presence).renew_periodically());
        tasks.spawn(clock);
        tasks.spawn(watch_underlay(Arc::clone(&memberships)));
        tasks.spawn(keep_contact(
            Arc::clone(&memberships.contact),
            Arc::clone(&memberships.store),
            Arc::clone(&store_problems),
            Arc::clone(&turns),
        ));
        tasks.spawn(telling);
        tasks.spawn(finish_drains(Arc::clone(&memberships)));
        tasks.spawn(resolv_conf::finish_attaches(Arc::clone(&memberships)));
        let gone_hosts = Arc::new(GoneHosts::default());
        tasks.spawn(follow_hosts(Arc::clone(&gone_hosts), Arc::clone(&memberships.world)));
        tasks.spawn(tell_applied(Arc::clone(&memberships)));
        let shared = Shared {
            memberships: Arc::clone(&memberships),
            presence,
            gone_hosts,
            store_problems,
            read_failures: ReadFailures::default(),
        };
        Ok(Self { control: Control::new(Arc::new(shared)), memberships, turns, tasks })
    }

    /// Starts an agent on the embedded store of its state directory.
    ///
    /// # Errors
    /// As [`Agent::start`], and when the store cannot be opened.
    pub async fn start_embedded(config: Config) -> Result<Self, ControlError> {
        prepare(&config).map_err(|error| explain(&error))?;
        let store = Embedded::open(&config.state_dir).await?;
        Self::start(config, Arc::new(store)).await
    }

    /// The door for the surfaces.
    #[must_use]
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// Waits until one of the agent's tasks panics, and returns what happened. An agent without one of them does a part of its
    /// work: the next agent does all of it. A task that has nothing to do with such a store ends, and that is none.
    pub async fn failed(&mut self) -> ControlError {
        while let Some(ended) = self.tasks.join_next().await {
            if let Err(error) = ended {
                let remedy =
                    "start the agent again: the members keep their connections; report it with the agent's log";
                return ControlError::new(ErrorCode::Internal, format!("a task of the agent failed: {error}"), remedy);
            }
        }
        std::future::pending().await
    }

    /// The task of the agent that does not go on, with how long its turn takes. Waits for the locks that all requests take,
    /// so it does not return while one of them is held for ever.
    #[must_use]
    pub fn stuck(&self) -> Option<(&'static str, Duration)> {
        drop(self.memberships.journal());
        self.memberships.world(|_| ());
        self.turns.stuck(tokio::time::Instant::now())
    }
}

/// What comes before the store is opened or waited for: an agent that cannot do its work says so at once.
pub(super) fn prepare(config: &Config) -> Result<()> {
    failpoint::listen();
    companion::raise_descriptor_limit();
    capabilities::check_own(config.names.is_some())?;
    StateDir::prepare(&config.state_dir)
}

/// How the store is used when an agent starts.
enum Began {
    /// This host is announced in it, and it was read.
    Followed { lease: Option<LeaseId>, listing: Listing, watch: Watch },
    /// It does not answer, or is not the fleet's: the agent serves what was seen, and writes nothing until it is.
    Away(ControlError),
}

/// Announces this host and reads the store, unless it is `away`; one that goes away meanwhile is as well.
async fn begin(
    fleet: &Fleet,
    config: &Config,
    facts: &HostFacts,
    belief: &Belief,
    (away, taking): (Option<anyhow::Error>, Taking),
) -> Result<Began> {
    let error = match away {
        Some(error) => error,
        None => {
            let began = async {
                let seen = belief.serial(&keys::host(&config.host));
                let lease = presence::announce(fleet, config, facts, seen, taking).await?;
                let (listing, watch) = read_everything(fleet).await?;
                Ok(Began::Followed { lease, listing, watch })
            };
            match began.await {
                Ok(began) => return Ok(began),
                Err(error) => error,
            }
        }
    };
    let fault = explain(&error);
    let is_away = matches!(fault.code, ErrorCode::StoreUnavailable | ErrorCode::OutcomeUnknown);
    if is_away && config.serves_alone { Ok(Began::Away(fault)) } else { Err(error) }
}

/// What was seen of the store before this start.
struct SeenBefore {
    belief: Belief,
    remembered: Remembered,
    /// How long ago the store answered last.
    age: Duration,
}

/// Recalls it by the snapshot, where many hosts share the store, and by this host's records. A store of one host alone is its
/// own memory. A snapshot of a fleet that this host does not belong to any more says nothing of this one.
fn recall(
    config: &Config,
    journal: &Journal,
    (store, is_known): (StoreKind, bool),
    problems: &StoreProblems,
) -> Result<SeenBefore> {
    let mut belief = Belief::new(config.host.clone());
    let path = config.snapshot_path();
    let age = snapshot::age(&path).unwrap_or_default();
    let remembered = match store {
        StoreKind::Etcd if is_known => snapshot::recall(&path, &mut belief, problems)?,
        StoreKind::Etcd => Remembered::Nothing,
        StoreKind::Memory | StoreKind::Embedded => Remembered::Something,
    };
    if remembered == Remembered::Nothing {
        belief.begin_without_memory();
    }
    for record in journal.records().values().filter(|record| !record.leaving) {
        for (key, text) in &record.stored {
            let Ok(key) = key.parse() else { continue };
            // One of a newer version was written by a newer agent: this one does not act on it.
            if let Err(error) = belief.remember(key, text.as_bytes().into(), Instant::now()) {
                tracing::debug!("a record of the journal is passed over: {error}");
            }
        }
    }
    // What the snapshot has of this host besides has ended since.
    belief.keep_own(|id| journal.may_live(id), Instant::now());
    Ok(SeenBefore { belief, remembered, age })
}

/// Removes the address records of networks that were deleted while they were being removed.
async fn remove_leftovers(store: &dyn Store, world: &SharedWorld) {
    let believed = world.read(|world| world.networks().keys().copied().collect());
    match claims::remove_leftovers(store, &believed).await {
        Ok(0) => {}
        Ok(count) => tracing::info!(count, "removed the address records of networks that were deleted"),
        // They are harmless; a store that has failed will say so where it matters.
        Err(error) => tracing::warn!("cannot remove the address records of a deleted network: {error}"),
    }
}
