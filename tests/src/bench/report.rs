//! Rows to a table for people and to JSON for programs.

use std::fs;
use std::io::Write as _;

use anyhow::{Context as _, Result};
use comfy_table::{Table, presets};
use serde::Serialize;

use super::load::{Cores, FLOOD_BYTES, ROUND_TRIP_BYTES};
use super::options::{Options, Output};
use super::rows::{Breakdown, Figures, Measured, Row, Target, Unit};
use super::tunnel;

/// Everything that was measured, and on what.
#[derive(Debug, Serialize)]
pub struct Report {
    machine: Machine,
    method: Method,
    rows: Vec<Row>,
    breakdowns: Vec<Breakdown>,
}

#[derive(Debug, Serialize)]
struct Machine {
    kernel: String,
    cores: usize,
    wireguard: String,
    load_average_at_start: String,
}

#[derive(Debug, Serialize)]
struct Method {
    quick: bool,
    rounds: u32,
    window_seconds: f64,
    round_trips: usize,
    attachments: usize,
    near_core: usize,
    far_core: usize,
    flood_payload_bytes: usize,
    round_trip_payload_bytes: usize,
}

impl Report {
    /// An empty report of this machine.
    pub fn new(options: &Options, cores: &Cores) -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let machine = Machine {
            kernel: read("/proc/sys/kernel/osrelease"),
            cores: std::thread::available_parallelism().map_or(0, Into::into),
            wireguard: tunnel::backend().to_string(),
            load_average_at_start: read("/proc/loadavg"),
        };
        let method = Method {
            quick: options.quick,
            rounds: options.rounds(),
            window_seconds: options.window().as_secs_f64(),
            round_trips: options.round_trips(),
            attachments: options.attachments(),
            near_core: cores.near,
            far_core: cores.far,
            flood_payload_bytes: FLOOD_BYTES,
            round_trip_payload_bytes: ROUND_TRIP_BYTES,
        };
        Self { machine, method, rows: Vec::new(), breakdowns: Vec::new() }
    }

    /// Takes what a group gave.
    pub fn add(&mut self, figures: &Figures) {
        self.rows.extend(figures.rows());
        self.breakdowns.extend(figures.breakdowns());
    }

    /// Writes what the options ask for.
    pub fn print(&self, options: &Options) -> Result<()> {
        let json = serde_json::to_string_pretty(self).context("cannot write the figures as JSON")?;
        if let Some(path) = &options.json {
            fs::write(path, format!("{json}\n")).with_context(|| format!("cannot write {}", path.display()))?;
        }
        let text = match options.output {
            Output::Table => self.table(),
            Output::Json => json,
        };
        writeln!(std::io::stdout(), "{text}").context("cannot print")
    }

    fn table(&self) -> String {
        let (machine, method) = (&self.machine, &self.method);
        let mut text = format!(
            "Linux {}, {} cores, {} WireGuard, load {}; {} rounds in turns, medians, ± half the quartile distance\n",
            machine.kernel, machine.cores, machine.wireguard, machine.load_average_at_start, method.rounds
        );
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_header(["group", "row", "ours", "peer", "ratio", "target", "met"]);
        for row in &self.rows {
            table.add_row(cells(row));
        }
        text.push_str(&table.to_string());
        if !self.breakdowns.is_empty() {
            text.push_str("\n\nwhere the time goes, median milliseconds by operation\n");
        }
        for breakdown in &self.breakdowns {
            let mut operations: Vec<_> = breakdown.operations.iter().collect();
            operations.sort_by(|a, b| b.1.total_cmp(a.1));
            let shown: Vec<String> = operations.iter().map(|(name, time)| format!("{name} {time:.2}")).collect();
            text.push_str(&format!("{}: {}\n", breakdown.name, shown.join(", ")));
        }
        text
    }
}

fn cells(row: &Row) -> [String; 7] {
    let shown = |measured: &Measured| shown(row.unit, measured);
    let target = row.target.map(|target| match target {
        Target::RatioAtLeast(least) => format!("≥ {least:.2}"),
        Target::AtMost(most) => format!("≤ {most} ms"),
        Target::AtLeast(least) => format!("≥ {:.0} k/s", least / 1e3),
    });
    [
        row.group.clone(),
        row.name.clone(),
        shown(&row.ours),
        row.peer.as_ref().map(shown).unwrap_or_default(),
        row.ratio.map(|ratio| format!("{ratio:.2}")).unwrap_or_default(),
        target.unwrap_or_default(),
        row.met.map(|met| if met { "yes" } else { "NO" }.to_owned()).unwrap_or_default(),
    ]
}

fn shown(unit: Unit, measured: &Measured) -> String {
    let figure = match unit {
        Unit::PacketsPerSecond | Unit::QueriesPerSecond => format!("{:.0} k/s", measured.median / 1e3),
        Unit::Nanoseconds => format!("{:.2} µs", measured.median / 1e3),
        Unit::BitsPerSecond => format!("{:.2} Gbit/s", measured.median / 1e9),
        Unit::Count => format!("{:.1}", measured.median),
        Unit::Bytes => format!("{:.1} kB", measured.median / 1e3),
        Unit::Milliseconds if measured.median < 10.0 => format!("{:.2} ms", measured.median),
        Unit::Milliseconds => format!("{:.1} ms", measured.median),
    };
    if measured.spread_percent == 0.0 { figure } else { format!("{figure} ±{:.0}%", measured.spread_percent) }
}
