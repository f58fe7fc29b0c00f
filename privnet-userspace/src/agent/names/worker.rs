//! Pass after pass: a process that runs, a socket in every container, every name told.
//!
//! What the process has is believed until something contradicts it: a request that failed, its end, or the time to look again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::desired::{self, Container};
use super::handle::{Dirty, NamesHandle, NamesReport};
use super::resolv_conf::files::ResolvConfs;
use crate::agent::config::NamesConfig;
use crate::agent::door::error::ControlError;
use crate::agent::door::explain::{problem, shown};
use crate::agent::host::facts::Host;
use crate::agent::host::journal::{Record, SharedJournal};
use crate::agent::world::SharedWorld;
use crate::companion::{Ending, Standing};
use crate::dns::{DnsProcess, Error, ServedContainer, Sockets, open_own};
use crate::model::NetworkId;
use crate::names::{Catalogue, Difference, DnsClient};
use crate::netns::{self, Netns, NetnsId};

/// How often the process is looked at, and told that what it knows is current.
const LOOK: Duration = Duration::from_secs(5);
/// How long a pass that failed waits for the next one.
const RETRY: Duration = Duration::from_millis(500);

/// Keeps the DNS process as it should be. Never ends; does nothing where this host answers no names.
pub async fn run_names(
    host: Arc<Host>,
    world: Arc<SharedWorld>,
    journal: Arc<SharedJournal>,
    names: Arc<NamesHandle>,
    resolv_confs: Arc<ResolvConfs>,
) {
    let Some(config) = host.config.names.clone() else { return };
    let mut worker = NamesWorker {
        host,
        world,
        journal,
        names: Arc::clone(&names),
        resolv_confs,
        config,
        sockets: BTreeMap::new(),
        known: None,
        catalogue: Catalogue::new(),
        changed: false,
        told: None,
    };
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let failed = worker.pass().await;
        let retry = async { if failed { tokio::time::sleep(RETRY).await } else { std::future::pending().await } };
        tokio::select! {
            () = names.woken() => {}
            () = retry => {}
            () = ended(worker.known.as_ref()) => worker.known = None,
            _ = look.tick() => worker.known = None,
        }
    }
}

struct NamesWorker {
    host: Arc<Host>,
    world: Arc<SharedWorld>,
    journal: Arc<SharedJournal>,
    names: Arc<NamesHandle>,
    resolv_confs: Arc<ResolvConfs>,
    config: NamesConfig,
    /// The sockets of the containers, as far as this agent opened them: what is asked while no process runs waits in them for
    /// the next one.
    sockets: BTreeMap<NetnsId, Sockets>,
    /// The process that serves, and what it serves; nothing when that is to be found out.
    known: Option<Known>,
    /// What should be told.
    catalogue: Catalogue,
    /// Whether that changed since it was told.
    changed: bool,
    /// What was told to which process.
    told: Option<(u32, Arc<Catalogue>)>,
}

/// A process as it was seen, kept up to date by what it was asked.
struct Known {
    process: DnsProcess,
    pid: u32,
    served: BTreeMap<NetnsId, DnsClient>,
    ending: Ending,
}

impl NamesWorker {
    /// One pass; whether something went wrong with all of it.
    async fn pass(&mut self) -> bool {
        self.changed |= self.renew();
        let mut problems = BTreeMap::new();
        let converged = match self.host.state_dir.check() {
            // Its process is not seen, and still serves.
            Err(error) => Err(error),
            Ok(()) => self.converge(&mut problems).await.map_err(|error| shown(&error)),
        };
        if let Err(error) = converged {
            tracing::warn!("the DNS process is not in its desired state: {}", problem(&error));
            problems.insert(None, error);
            self.known = None;
        }
        let failed = problems.contains_key(&None);
        self.names.publish(NamesReport {
            process: self.known.as_ref().map(|known| known.process.clone()),
            told: self.told.as_ref().map(|(_, told)| Arc::clone(told)).unwrap_or_default(),
            served: self.known.as_ref().map(|known| known.served.clone()).unwrap_or_default(),
            problems,
        });
        failed
    }

    /// Brings what should be told up to date; whether that changed anything.
    fn renew(&mut self) -> bool {
        let here: BTreeSet<NetworkId> = {
            let journal = self.journal.lock();
            journal.records().values().filter(|record| !record.leaving).map(|record| record.network).collect()
        };
        let before = self.catalogue.len();
        self.catalogue.retain(|network, _| here.contains(network));
        let mut changed = self.catalogue.len() != before;
        let dirty: BTreeSet<NetworkId> = match self.names.take() {
            Dirty::Everything => here,
            Dirty::Networks(networks) => {
                let new = here.iter().filter(|network| !self.catalogue.contains_key(network));
                networks.intersection(&here).chain(new).copied().collect()
            }
        };
        let now = crate::agent::now_unix_seconds();
        for network in dirty {
            let names = self.world.read(|world| desired::names(world, network, &self.host.config.host));
            changed |= desired::renew(&mut self.catalogue, network, names, now);
        }
        changed
    }

    async fn converge(&mut self, problems: &mut BTreeMap<Option<NetnsId>, ControlError>) -> Result<(), Error> {
        let records: Vec<Record> = self.journal.lock().records().values().cloned().collect();
        let upstreams = self.resolv_confs.servers(self.config.address);
        let wanted = desired::containers(records.iter(), self.config.address, &upstreams);
        self.sockets.retain(|id, _| wanted.contains_key(id));
        if wanted.is_empty() {
            return self.rest().await;
        }
        let looked = self.known.is_none();
        if looked {
            self.known = Some(self.find(&wanted).await?);
        }
        // Names first: a container that can ask hears of all of them.
        self.tell_names(looked).await?;
        let Some(known) = &mut self.known else { return Ok(()) };
        let gone: Vec<NetnsId> = known.served.keys().filter(|id| !wanted.contains_key(id)).copied().collect();
        for id in gone {
            known.process.forget(id).await?;
            known.served.remove(&id);
        }
        for (id, container) in wanted {
            match serve(known, &mut self.sockets, id, &container, &self.config).await {
                Ok(()) => {}
                // These are the container's; what else goes wrong is the process's.
                Err(
                    error @ (Error::AddressTaken { .. }
                    | Error::Liveness(_)
                    | Error::Netns(_)
                    | Error::NotServed { .. }),
                ) => {
                    let error = shown(&error);
                    tracing::warn!("a container has no DNS server: {}", problem(&error));
                    known.served.remove(&id);
                    problems.insert(Some(id), error);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Without containers no process is needed, and none is left behind.
    async fn rest(&mut self) -> Result<(), Error> {
        (self.known, self.told) = (None, None);
        for dir in self.host.config.dns_dirs() {
            DnsProcess::new(&dir).stop().await?;
        }
        Ok(())
    }

    /// Tells the process what changed, or everything if it is a new one; or, now and then, that nothing did.
    async fn tell_names(&mut self, looked: bool) -> Result<(), Error> {
        let Some(known) = &self.known else { return Ok(()) };
        let told = self.told.take().filter(|(pid, _)| *pid == known.pid);
        let everything = told.is_none();
        let before = told.map(|(_, told)| told).unwrap_or_default();
        if everything || self.changed {
            known.process.tell(everything, Difference::between(&before, &self.catalogue)).await?;
            self.told = Some((known.pid, Arc::new(self.catalogue.clone())));
            self.changed = false;
        } else {
            if looked && self.names.is_current() {
                known.process.confirm().await?;
            }
            self.told = Some((known.pid, before));
        }
        Ok(())
    }

    /// Finds the process, or starts one; one of another build is replaced.
    async fn find(&self, wanted: &BTreeMap<NetnsId, Container>) -> Result<Known, Error> {
        let [first, second] = &self.host.config.dns_dirs();
        let (running, successor, hands_over): (DnsProcess, DnsProcess, bool) =
            match Standing::of([first, second], &self.config.program).await? {
                Standing::Absent(handle) => {
                    let process = DnsProcess::from(handle);
                    process.start(&self.config.process).await?;
                    return known(process).await;
                }
                Standing::Current(handle) => return known(handle.into()).await,
                Standing::Replace { running, successor, hands_over } => (running.into(), successor.into(), hands_over),
            };
        tracing::info!("the DNS process runs another build and is replaced");
        successor.start(&self.config.process).await?;
        successor.tell(true, Difference::between(&Catalogue::new(), &self.catalogue)).await?;
        if hands_over {
            let path = |served: &ServedContainer| path_of(served.container, wanted.get(&served.container)?);
            running.hand_over(&successor, path).await?;
        }
        running.stop().await?;
        known(successor).await
    }
}

async fn known(process: DnsProcess) -> Result<Known, Error> {
    let ending = process.ending()?.ok_or_else(|| process.absent())?;
    let state = process.observe().await?.ok_or_else(|| process.absent())?;
    let served = state.containers.into_iter().map(|served| (served.container, served.client)).collect();
    Ok(Known { process, pid: state.identity.pid, served, ending })
}

/// Returns when the process that serves has ended; never, when none is known.
async fn ended(known: Option<&Known>) {
    match known {
        Some(known) => known.ending.ended().await,
        None => std::future::pending().await,
    }
}

/// Lets one container ask, for what exists for it.
async fn serve(
    known: &mut Known,
    sockets: &mut BTreeMap<NetnsId, Sockets>,
    id: NetnsId,
    container: &Container,
    config: &NamesConfig,
) -> Result<(), Error> {
    match known.served.get(&id) {
        Some(client) if *client == container.client => return Ok(()),
        Some(_) => {
            let own = match &container.client.upstreams[..] {
                [] => Vec::new(),
                servers => open_own(&Netns::open(&known_path(id, container)?)?, servers).await?,
            };
            match known.process.change(id, &container.client, &own).await {
                // It had another container's, which ended, and whose number this one's namespace has now.
                Err(Error::NotServed { .. }) => {
                    known.served.remove(&id);
                    sockets.remove(&id);
                    return Box::pin(serve(known, sockets, id, container, config)).await;
                }
                changed => changed?,
            }
        }
        None => {
            let path = known_path(id, container)?;
            let netns = Netns::open(&path)?;
            let open = match sockets.remove(&id) {
                Some(open) => open,
                None => Sockets::open(&netns, config.address).await?,
            };
            let open = open.with_own(&netns, &container.client.upstreams).await?;
            known.process.serve(id, &path, &container.client, &open).await?;
            sockets.insert(id, open);
        }
    }
    known.served.insert(id, container.client.clone());
    Ok(())
}

fn known_path(id: NetnsId, container: &Container) -> Result<PathBuf, netns::Error> {
    let object = || container.paths.iter().map(|path| path.display().to_string()).collect();
    path_of(id, container).ok_or_else(|| netns::Error::NotFound { object: object() })
}

/// A path that names the container's namespace still.
fn path_of(id: NetnsId, container: &Container) -> Option<PathBuf> {
    container.paths.iter().find(|path| Netns::leads_to(path, id)).cloned()
}
