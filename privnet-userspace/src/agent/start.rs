//! An agent from its configuration to its tasks, and back.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::checks::check_periodically;
use super::config::Config;
use super::contact::{Contact, keep_contact};
use super::door::control::Control;
use super::door::error::{ControlError, ErrorCode};
use super::door::explain::explain;
use super::door::read_failures::ReadFailures;
use super::follow::{StoreFollower, read_world};
use super::host::applied::tell_applied;
use super::host::capabilities;
use super::host::clock::watch_clock;
use super::host::facts::{Host, HostFacts};
use super::host::fleet;
use super::host::journal::{Journal, SharedJournal};
use super::host::places::{have_bpffs, have_writable};
use super::host::presence::{self, Presence};
use super::host::state_dir::StateDir;
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
use super::shared::{Memberships, Shared};
use super::store_problems::StoreProblems;
use super::turns::Turns;
use super::world::SharedWorld;
use crate::store::{Embedded, Store, claims};

/// A running agent. When it is dropped its tasks end, and what it built stays: traffic goes on.
pub struct Agent {
    control: Control,
    memberships: Arc<Memberships>,
    turns: Arc<Turns>,
    tasks: JoinSet<()>,
}

impl Agent {
    /// Starts an agent; returns once it has read the store and its records, and its workers are called.
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
        let facts = HostFacts::find(&config, &netns).await?;
        let mut journal = Journal::open(&config.journal_dir())?;
        journal.carry_over()?;
        journal.sweep()?;
        let resolv_confs = Arc::new(ResolvConfs::open(&config.resolv_conf_dir())?);
        let fleet = Arc::new(fleet::join(&config, store, journal.records().len()).await?);
        let store: Arc<dyn Store> = Arc::clone(&fleet) as Arc<dyn Store>;
        let lease = presence::announce(&fleet, &config, &facts).await?;
        match claims::remove_leftovers(&*store).await {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, "removed the address records of networks that were deleted"),
            // They are harmless; a store that has failed will say so where it matters.
            Err(error) => tracing::warn!("cannot remove the address records of a deleted network: {error}"),
        }
        let (world, watch) = read_world(&fleet).await?;
        let contact = Arc::new(Contact::new(Instant::now()));
        let host = Arc::new(Host { config, facts, netns, state_dir });
        let journal = Arc::new(SharedJournal::new(journal));
        let store_problems = Arc::new(StoreProblems::default());
        let presence =
            Arc::new(Presence::new(Arc::clone(&host), Arc::clone(&fleet), Arc::clone(&store_problems), lease));
        let (world, names, workers) =
            (Arc::new(SharedWorld::new(world)), Arc::new(NamesHandle::new()), Arc::new(Workers::default()));
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
        let claims = Arc::default();
        let resumption = Arc::new(Resumption::new());
        let memberships =
            Memberships { host, fleet, store, world, journal, workers, resumption, names, resolv_confs, claims };
        let memberships = Arc::new(memberships);
        membership::detect_reused_netns(&memberships).await?;
        membership::end_dead(&memberships).await?;
        resolv_conf::after_start(&memberships).await;
        let networks: Vec<_> = memberships.journal().records().values().map(|record| record.network).collect();
        for network in networks {
            memberships.workers.of(network).wake();
        }
        let (mut tasks, turns) = (JoinSet::new(), Arc::new(Turns::default()));
        tasks.spawn(run_workers(Arc::clone(&memberships)));
        tasks.spawn(Arc::clone(&memberships.resumption).run());
        tasks.spawn(follower.run(watch));
        tasks.spawn(check_periodically(Arc::clone(&memberships), Arc::clone(&turns)));
        tasks.spawn(presence.renew_periodically());
        tasks.spawn(clock);
        tasks.spawn(keep_contact(
            Arc::clone(&contact),
            Arc::clone(&memberships.store),
            Arc::clone(&store_problems),
            Arc::clone(&turns),
        ));
        tasks.spawn(telling);
        tasks.spawn(finish_drains(Arc::clone(&memberships)));
        let gone_hosts = Arc::new(GoneHosts::default());
        tasks.spawn(follow_hosts(Arc::clone(&gone_hosts), Arc::clone(&memberships.world)));
        tasks.spawn(tell_applied(Arc::clone(&memberships)));
        let shared = Shared {
            memberships: Arc::clone(&memberships),
            contact,
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
        self.turns.stuck(Instant::now())
    }
}

/// What comes before the store is opened or waited for: an agent that cannot do its work says so at once.
pub(super) fn prepare(config: &Config) -> Result<()> {
    capabilities::check_own(config.names.is_some())?;
    StateDir::prepare(&config.state_dir)
}
