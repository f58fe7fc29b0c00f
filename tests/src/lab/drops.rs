//! `privnet monitor` beside a test: the drops of a host as they happen.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use privnet::agent::views::{DropLine, DroppedFrame};
use privnet::datapath::Events;
use rustix::process::Signal;

use super::host::Host;
use super::leak::pins_below;
use super::process;
use super::wait::wait_until;

/// One who watches a host's drops, until it is dropped.
pub struct DropWatch {
    child: Child,
    lines: Arc<Mutex<Vec<DropLine>>>,
    reading: Option<JoinHandle<()>>,
}

impl DropWatch {
    /// Starts to watch, and waits until each drop of a network is reported.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start(host: &Host, arguments: &[&str]) -> Self {
        let mut command = host.cli().command(&[&["monitor", "-o", "json"], arguments].concat());
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the binary starts");
        let lines: Arc<Mutex<Vec<DropLine>>> = Arc::default();
        let (stdout, read) = (child.stdout.take().expect("a pipe"), Arc::clone(&lines));
        let reading = thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let line = serde_json::from_str(&line).expect("a line");
                read.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            }
        });
        let watch = Self { child, lines, reading: Some(reading) };
        wait_until("drops are watched", || !watch.lines().is_empty());
        match watch.lines().first() {
            // On a busy machine the programs may not have been told yet.
            Some(DropLine::Watching { networks }) if networks.is_empty() => Self::start(host, arguments),
            first => {
                assert!(matches!(first, Some(DropLine::Watching { .. })), "{first:?}");
                watch
            }
        }
    }

    /// All lines until now.
    #[must_use]
    pub fn lines(&self) -> Vec<DropLine> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The frames that were shown until now.
    #[must_use]
    pub fn frames(&self) -> Vec<DroppedFrame> {
        let frames = self.lines().into_iter().filter_map(|line| match line {
            DropLine::Drop(frame) => Some(frame),
            DropLine::Watching { .. } | DropLine::NotShown { .. } | DropLine::Missed { .. } => None,
        });
        frames.collect()
    }

    /// How many packets were said to be dropped beyond the frames that were shown.
    #[must_use]
    pub fn not_shown(&self) -> u64 {
        let more = self.lines().into_iter().map(|line| match line {
            DropLine::NotShown { packets, .. } => packets,
            DropLine::Missed { lines } => lines,
            DropLine::Watching { .. } | DropLine::Drop(_) => 0,
        });
        more.sum()
    }

    /// Stops the process, which reads nothing then.
    pub fn pause(&self) {
        process::kill(self.pid(), Signal::STOP);
    }

    /// Lets it go on.
    pub fn go_on(&self) {
        process::kill(self.pid(), Signal::CONT);
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a process id")
    }

    /// Whether the programs of a network of the host report each drop.
    #[must_use]
    pub fn is_fed(host: &Host) -> bool {
        let pins = pins_below(&host.paths().bpffs);
        pins.iter().filter_map(|pin| pin.parent()).any(Events::are_complete)
    }
}

impl Drop for DropWatch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(reading) = self.reading.take() {
            let _ = reading.join();
        }
    }
}
