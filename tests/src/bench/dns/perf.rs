//! `dnsperf`, and what it says.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;

use super::super::options::Options;
use super::super::place::Workspace;
use super::super::tell;
use super::servers::{self, Server};

/// How often each name is in the file of questions: it is read again and again, so in no order that a cache could like.
const REPEATS: usize = 4;
/// The same questions in every run.
const SEED: u64 = 82;
/// How many sockets `dnsperf` asks from, and how many questions it leaves open: as many as everybody's socket can hold.
const CLIENTS: u32 = 4;
const OUTSTANDING: u32 = 100;
/// Most that may be lost, in parts of one.
const MOST_LOST: f64 = 0.001;

/// Asks the same questions of everybody, from a core of its own.
pub struct Perf {
    queries: PathBuf,
    seconds: u32,
    core: usize,
}

/// What one run came to.
pub struct Run {
    /// Answers a second.
    pub per_second: f64,
    /// Answers.
    pub completed: f64,
    /// Questions without an answer.
    lost: f64,
    /// In milliseconds, sorted; of a paced run only.
    latencies: Vec<f64>,
}

impl Run {
    /// The time within which this part of the answers came.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "few answers"
    )]
    pub fn percentile_ms(&self, part: f64) -> Option<f64> {
        let last = self.latencies.len().checked_sub(1)?;
        self.latencies.get((last as f64 * part).ceil() as usize).copied()
    }
}

impl Perf {
    /// Writes the questions.
    pub fn new(workspace: &Workspace, options: &Options, core: usize) -> Result<Self> {
        let mut lines: Vec<String> = servers::names().map(|(_, name, _)| format!("{name} A\n")).collect();
        let mut text = String::new();
        let mut random = StdRng::seed_from_u64(SEED);
        for _ in 0..REPEATS {
            lines.shuffle(&mut random);
            text.extend(lines.iter().map(String::as_str));
        }
        let queries = workspace.files().join("queries");
        fs::write(&queries, text).context("cannot write the questions")?;
        Ok(Self { queries, seconds: if options.quick { 1 } else { 4 }, core })
    }

    /// As many questions as are answered.
    pub fn flood(&self, server: &Server) -> Result<Run> {
        self.run(server, &[])
    }

    /// So many questions a second, and how soon each was answered.
    pub fn paced(&self, server: &Server, per_second: u32) -> Result<Run> {
        self.run(server, &["-v".to_owned(), "-Q".to_owned(), per_second.to_string()])
    }

    fn run(&self, server: &Server, more: &[String]) -> Result<Run> {
        let mut command = Command::new("taskset");
        command.arg("-c").arg(self.core.to_string());
        command.args(["dnsperf", "-s", &server.address.to_string(), "-l", &self.seconds.to_string(), "-d"]);
        command.arg(&self.queries).args(["-c", &CLIENTS.to_string(), "-q", &OUTSTANDING.to_string()]).args(more);
        command.stdin(Stdio::null());
        // A process is born in the namespace of the thread that starts it.
        let output =
            server.netns.run_blocking(move || command.output())?.context("cannot start taskset and dnsperf")?;
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "dnsperf failed: {}", String::from_utf8_lossy(&output.stderr).trim());
        let run = read(&text).with_context(|| format!("dnsperf said of {}: {text}", server.name))?;
        if run.lost > 0.0 {
            tell(&format!("dns: {} lost {} questions and answered {}", server.name, run.lost, run.completed));
        }
        Ok(run)
    }
}

/// Reads what dnsperf prints; nothing when more than a few questions were lost, or one was answered otherwise
/// than by an address.
fn read(text: &str) -> Option<Run> {
    let fact = |name: &str| text.lines().find_map(|line| line.trim().strip_prefix(name)).map(str::trim);
    let number = |name: &str| fact(name)?.split_whitespace().next()?.parse::<f64>().ok();
    let lost = number("Queries lost:")?;
    let clean = lost <= number("Queries sent:")? * MOST_LOST
        && fact("Response codes:")?.ends_with("(100.00%)")
        && fact("Response codes:")?.starts_with("NOERROR");
    // `> NOERROR <name> <type> <seconds>`
    let latency = |line: &str| line.strip_prefix("> NOERROR ")?.rsplit(' ').next()?.parse::<f64>().ok();
    let mut latencies: Vec<f64> = text.lines().filter_map(latency).map(|seconds| seconds * 1000.0).collect();
    latencies.sort_by(f64::total_cmp);
    clean.then_some(Run {
        per_second: number("Queries per second:")?,
        completed: number("Queries completed:")?,
        lost,
        latencies,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_dnsperf_prints_is_read_and_a_lost_question_is_no_figure() {
        let text = "> NOERROR a A 0.000300\n> NOERROR b A 0.000100\nStatistics:\n\n  Queries sent:         2\n  Queries completed:    2 (100.00%)\n  \
                    Queries lost:         0 (0.00%)\n\n  Response codes:       NOERROR 2 (100.00%)\n  Queries per second:   1000.5\n";
        let run = read(text).expect("figures");
        assert_eq!((run.completed, run.per_second), (2.0, 1000.5));
        assert_eq!((run.percentile_ms(0.0), run.percentile_ms(0.99)), (Some(0.1), Some(0.3)));
        assert!(read(&text.replace("lost:         0", "lost:         1")).is_none());
        assert!(read(&text.replace("NOERROR 2 (100.00%)", "NOERROR 1 (50.00%), NXDOMAIN 1 (50.00%)")).is_none());
    }
}
