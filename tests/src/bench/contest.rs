//! Paths that are measured in turns: A, B, C, A, B, C, so that what changes on the machine meets them all.

use std::any::Any;
use std::collections::BTreeMap;

use anyhow::{Context as _, Result};

use super::load::{self, Cores, End, Pair};
use super::options::Options;
use super::rows::Figures;
use super::series::Series;
use super::tell;

/// What is measured of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Load {
    /// Packets received per second.
    Flood,
    /// The median round trip in nanoseconds.
    RoundTrip,
    /// Bits per second of one TCP connection.
    Stream,
}

impl Load {
    /// As in the names of rows.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Flood => "flood",
            Self::RoundTrip => "rr",
            Self::Stream => "tcp",
        }
    }
}

/// One way from one end to another.
pub struct Line {
    /// What it is called in the rows.
    pub name: &'static str,
    /// Where the load comes from.
    pub near: End,
    /// Where it goes.
    pub far: End,
    /// The UDP port of both ends.
    pub port: u16,
    /// Processes on the way that have to be on the ends' cores: the near one's and the far one's.
    pub helpers: [Vec<rustix::process::Pid>; 2],
}

/// The lines of one group, and what they are made of.
pub struct Contest {
    /// Its name.
    pub group: &'static str,
    /// What is measured.
    pub loads: Vec<Load>,
    /// The paths that are compared.
    pub lines: Vec<Line>,
    /// Namespaces, agents and programs, which live as long as the contest.
    pub _held: Box<dyn Any>,
}

impl Contest {
    /// Measures every line by every load, in turns.
    pub fn measure(self, options: &Options, cores: &Cores) -> Result<Figures> {
        let mut pairs = Vec::new();
        for line in &self.lines {
            let pair = Pair::open(&line.near, &line.far, line.port);
            pairs.push(pair.with_context(|| format!("{} carries nothing", line.name))?);
        }
        let mut figures: BTreeMap<(Load, &'static str), Series> = BTreeMap::new();
        for load in &self.loads {
            tell(&format!(
                "{}: {}, {} rounds of {} paths",
                self.group,
                load.name(),
                options.rounds(),
                self.lines.len()
            ));
            for _ in 0..options.rounds() {
                for (line, pair) in self.lines.iter().zip(&pairs) {
                    let figure = line.measure(*load, pair, options, cores);
                    let figure = figure.with_context(|| format!("{} of {}", load.name(), line.name))?;
                    figures.entry((*load, line.name)).or_default().push(figure);
                }
            }
        }
        Ok(Figures::Contest { group: self.group, figures })
    }
}

impl Line {
    fn measure(&self, load: Load, pair: &Pair, options: &Options, cores: &Cores) -> Result<f64> {
        let far = if load == Load::RoundTrip { cores.near } else { cores.far };
        for (helpers, core) in self.helpers.iter().zip([cores.near, far]) {
            for helper in helpers {
                load::pin_thread(Some(*helper), core)?;
            }
        }
        match load {
            Load::Flood => pair.flood(cores, options.window()),
            Load::RoundTrip => pair.round_trip(cores, options.round_trips()),
            Load::Stream => load::stream(&self.near, &self.far, cores, options.window()),
        }
    }
}
