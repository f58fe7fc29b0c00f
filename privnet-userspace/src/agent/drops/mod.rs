//! The frames that the programs drop, for those who watch.
//!
//! ```text
//!  ring of each network ─▶ the follower's thread ─▶ Drops ─▶ Watching, one per watcher
//! ```
//!
//! While nobody watches there is no thread, and the programs report nothing: the workers tell them what [`Drops::sample`] says.
//! A watcher that does not read loses lines, and hears how many; neither the programs nor the other watchers wait for it.

mod follow;
mod frame;

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use super::door::views::DropLine;
use super::host::facts::Host;
use super::host::journal::SharedJournal;
use super::network::handle::Workers;
use super::world::SharedWorld;
use crate::model::NetworkId;

/// How many lines a watcher may be behind.
const LINES: usize = 4096;
/// How many may watch at a time: each holds a connection for as long as it likes.
const WATCHERS: usize = 32;

/// The drops of all networks of this host.
pub struct Drops {
    state: Mutex<State>,
}

struct State {
    /// Gone once the agent ends, which ends every watcher's lines.
    lines: Option<broadcast::Sender<Arc<DropLine>>>,
    watchers: usize,
    /// How often somebody began to watch while nobody did.
    begun: u64,
    /// Whether the follower's thread runs.
    is_followed: bool,
    /// The networks whose programs report each drop, as the follower has seen.
    complete: BTreeSet<NetworkId>,
}

/// Where the rings are, and what their frames are called.
pub struct Sources {
    pub host: Arc<Host>,
    pub world: Arc<SharedWorld>,
    pub journal: Arc<SharedJournal>,
    pub workers: Arc<Workers>,
}

/// Why nobody more can watch.
pub enum Refused {
    /// The agent ends.
    Ending,
    /// So many watch already.
    TooMany(usize),
    /// The thread cannot be started.
    NoThread(io::Error),
}

/// One who watches, until it is dropped.
pub struct Watching {
    drops: Arc<Drops>,
    workers: Arc<Workers>,
    lines: broadcast::Receiver<Arc<DropLine>>,
}

impl Default for Drops {
    fn default() -> Self {
        let (lines, _) = broadcast::channel(LINES);
        let state = State { lines: Some(lines), watchers: 0, begun: 0, is_followed: false, complete: BTreeSet::new() };
        Self { state: Mutex::new(state) }
    }
}

impl Drops {
    /// From how many drops of a kind the programs are to report one; 0 for none.
    pub fn sample(&self) -> u32 {
        u32::from(self.lock().watchers > 0)
    }

    /// Watches from now on.
    ///
    /// # Errors
    /// Why not.
    pub fn watch(self: &Arc<Self>, sources: Sources) -> Result<Watching, Refused> {
        let mut state = self.lock();
        if state.watchers >= WATCHERS {
            return Err(Refused::TooMany(state.watchers));
        }
        let lines = state.lines.as_ref().ok_or(Refused::Ending)?.subscribe();
        let workers = Arc::clone(&sources.workers);
        if !state.is_followed {
            let drops = Arc::clone(self);
            let follower = move || follow::follow(&drops, &sources);
            thread::Builder::new().name("drops".to_owned()).spawn(follower).map_err(Refused::NoThread)?;
            state.is_followed = true;
        }
        if state.watchers == 0 {
            state.begun += 1;
            state.complete.clear();
        }
        state.watchers += 1;
        drop(state);
        wake(&workers);
        Ok(Watching { drops: Arc::clone(self), workers, lines })
    }

    /// The networks whose programs report each drop.
    pub fn complete(&self) -> BTreeSet<NetworkId> {
        self.lock().complete.clone()
    }

    /// Tells every watcher.
    fn tell(&self, line: DropLine) {
        if let Some(lines) = &self.lock().lines {
            // Nobody may be left to hear it.
            let _ = lines.send(Arc::new(line));
        }
    }

    /// Ends every watcher's lines, since their thread has failed. The next watcher starts another one.
    fn start_anew(&self) {
        let mut state = self.lock();
        state.is_followed = false;
        state.complete.clear();
        if state.lines.is_some() {
            state.lines = Some(broadcast::channel(LINES).0);
        }
    }

    /// Ends every watcher's lines, since the agent ends.
    pub fn end(&self) {
        self.lock().lines = None;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watching {
    /// The next line; nothing once the agent ends.
    pub async fn next(&mut self) -> Option<Arc<DropLine>> {
        match self.lines.recv().await {
            Ok(line) => Some(line),
            Err(RecvError::Lagged(lines)) => Some(Arc::new(DropLine::Missed { lines })),
            Err(RecvError::Closed) => None,
        }
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let mut state = self.drops.lock();
        state.watchers -= 1;
        let is_last = state.watchers == 0;
        drop(state);
        if is_last {
            wake(&self.workers);
        }
    }
}

/// Has the workers tell the programs whether to report.
fn wake(workers: &Workers) {
    workers.all().values().for_each(|worker| worker.wake());
}
