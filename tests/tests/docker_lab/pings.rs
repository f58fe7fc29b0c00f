//! Numbered questions to the kernel of a container: it needs no server, and so the container may be another one each time.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use privnet_tests::lab::{Space, say, wait_until};

/// How many answers show that it flows.
const FLOWS: usize = 10;

/// One question each 20 ms, until it is dropped.
pub struct Pings {
    process: Child,
    to: Ipv4Addr,
    file: PathBuf,
}

impl Pings {
    pub fn start(from: &Space, to: Ipv4Addr, directory: &Path) -> Self {
        let file = directory.join(format!("pings-{to}"));
        let answers = File::create(&file).expect("a file");
        let mut ping = from.command(&format!("ping -n -i 0.02 {to}"));
        let process = ping.stdout(answers).stderr(Stdio::null()).spawn().expect("ping starts");
        let pings = Self { process, to, file };
        pings.flow();
        pings
    }

    /// Waits until more are answered.
    pub fn flow(&self) {
        let before = self.answered().len();
        wait_until(format!("{} answers", self.to), || self.answered().len() >= before + FLOWS);
    }

    /// Ends it once it flows; each question before the last answer was answered.
    pub fn finish_whole(self) {
        self.flow();
        let answered = self.answered();
        let last = answered.last().copied().expect("it flows");
        let lost: Vec<u32> = (1..last).filter(|number| !answered.contains(number)).collect();
        say(&format!("{} has answered {} of {last} questions", self.to, answered.len()));
        assert!(lost.is_empty(), "{} of {last} questions to {} were lost: {lost:?}", lost.len(), self.to);
    }

    /// The numbers of the questions that were answered.
    fn answered(&self) -> BTreeSet<u32> {
        let text = fs::read_to_string(&self.file).expect("its file");
        let number = |line: &str| line.split_once("icmp_seq=")?.1.split(' ').next()?.parse().ok();
        text.lines().filter(|line| line.contains(" bytes from ")).filter_map(number).collect()
    }
}

impl Drop for Pings {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
