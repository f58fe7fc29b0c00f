//! What an agent's log says.

use super::host::Shared;

impl Shared {
    /// The lines of the log of this host's agents that have a text in them, without their times.
    #[must_use]
    pub fn said(&self, text: &str) -> Vec<String> {
        let log = std::fs::read_to_string(&self.paths().log).unwrap_or_default();
        let untimed = log.lines().map(|line| line.split_once(' ').map_or(line, |(_, said)| said.trim_start()));
        untimed.filter(|line| line.contains(text)).map(str::to_owned).collect()
    }
}
