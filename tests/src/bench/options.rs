//! The command line of the benchmark.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};

/// Measures privnet's paths and attach times beside those of others, on this machine.
#[derive(Clone, Debug, Parser)]
#[command(name = "privnet-bench", version, about)]
pub struct Options {
    /// Short rounds: to see that it works, not to quote.
    #[arg(long)]
    pub quick: bool,
    /// Only the groups whose name contains this, for example `carrier` or `attach/100`; may be repeated.
    #[arg(long, value_name = "ROW")]
    pub only: Vec<String>,
    /// As `--only`; `dns`, `fleet` and `runtimes` are measured only when they are named.
    #[arg(value_name = "ROW")]
    pub rows: Vec<String>,
    /// How often each path is measured; 5 or more.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: Option<u32>,
    /// What goes to standard output.
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Output,
    /// Writes the JSON to a file as well.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// What goes to standard output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
}

impl Options {
    /// Whether a group is to be measured.
    pub fn wants(&self, group: &str) -> bool {
        self.named().next().is_none() || self.asks_for(group)
    }

    /// Whether a group is named.
    pub fn asks_for(&self, group: &str) -> bool {
        self.named().any(|part| group.contains(part.as_str()))
    }

    fn named(&self) -> impl Iterator<Item = &String> {
        self.only.iter().chain(&self.rows)
    }

    /// How often each path is measured.
    pub fn rounds(&self) -> u32 {
        self.rounds.unwrap_or(if self.quick { 5 } else { 11 })
    }

    /// How long one flood or stream is counted.
    pub fn window(&self) -> Duration {
        if self.quick { Duration::from_millis(150) } else { Duration::from_millis(800) }
    }

    /// How many round trips make one figure.
    pub fn round_trips(&self) -> usize {
        if self.quick { 4_000 } else { 30_000 }
    }

    /// How often a container is run in each network.
    pub fn runs(&self) -> usize {
        if self.quick { 5 } else { 20 }
    }

    /// How many containers are attached and detached for one figure.
    pub fn attachments(&self) -> usize {
        if self.quick { 10 } else { 40 }
    }
}
