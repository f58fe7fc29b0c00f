//! From figures to rows: ours, the peer's, the ratio, and the target where there is one. Pure.

use std::collections::BTreeMap;

use serde::Serialize;

use super::attach::Times;
use super::contest::Load;
use super::series::Series;

/// What one group was measured to be.
pub enum Figures {
    /// Lines by load.
    Contest {
        /// The group.
        group: &'static str,
        /// The figures.
        figures: BTreeMap<(Load, &'static str), Series>,
    },
    /// Rows that were made where they were measured.
    Told(Vec<Row>),
    /// Attaching and detaching.
    Attach {
        /// The group.
        group: &'static str,
        /// By the agent.
        attach: Box<Times>,
        /// By the agent.
        detach: Box<Times>,
        /// By the script, in milliseconds.
        script_attach: Series,
        /// By the script, in milliseconds.
        script_detach: Series,
    },
}

/// What a figure counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Packets received per second.
    PacketsPerSecond,
    /// A median round trip in nanoseconds.
    Nanoseconds,
    /// Bits per second.
    BitsPerSecond,
    /// Milliseconds.
    Milliseconds,
    /// Questions answered per second.
    QueriesPerSecond,
    /// A number of anything.
    Count,
    /// Bytes.
    Bytes,
}

/// Figures with their middle.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    /// Whose.
    pub name: String,
    /// The median of the figures.
    pub median: f64,
    /// Half the distance of the quartiles, in per cent of the median.
    pub spread_percent: f64,
    /// Half of the figures are between these.
    pub quartiles: (f64, f64),
    /// The figures, in the order in which they were measured; none for what was computed from medians.
    pub figures: Series,
}

/// What a row should show.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// The ratio at least.
    RatioAtLeast(f64),
    /// Our figure at most, in milliseconds.
    AtMost(f64),
    /// Our figure at least, a second.
    AtLeast(f64),
}

/// One line of the table.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The group that it belongs to.
    pub group: String,
    /// What it is about.
    pub name: String,
    /// Of the figures.
    pub unit: Unit,
    /// Ours.
    pub ours: Measured,
    /// What it is compared with; none when it stands alone.
    pub peer: Option<Measured>,
    /// How much better ours is: above 1 is better whatever the unit. The median of the ratios of each round.
    pub ratio: Option<f64>,
    /// What it should be.
    pub target: Option<Target>,
    /// Whether it is.
    pub met: Option<bool>,
}

/// The operations of an attach or detach.
#[derive(Clone, Debug, Serialize)]
pub struct Breakdown {
    /// The group and the request.
    pub name: String,
    /// Median milliseconds by operation.
    pub operations: BTreeMap<String, f64>,
}

/// A comparison of two lines under a load.
struct Comparison {
    load: Load,
    ours: &'static str,
    peer: &'static str,
    at_least: Option<f64>,
}

const fn versus(load: Load, ours: &'static str, peer: &'static str, at_least: Option<f64>) -> Comparison {
    Comparison { load, ours, peer, at_least }
}

/// The comparisons of a group, with the targets of the design.
fn comparisons(group: &str) -> Vec<Comparison> {
    use Load::{Flood, RoundTrip, Stream};
    match group {
        "carrier/same-host" => vec![
            versus(Flood, "ebpf", "bridge", Some(1.30)),
            versus(Flood, "ebpf", "bare-veth", Some(0.93)),
            versus(Flood, "ebpf-tcx", "ebpf", None),
            versus(RoundTrip, "ebpf", "bridge", None),
            versus(RoundTrip, "ebpf", "bare-veth", None),
            versus(RoundTrip, "ebpf-tcx", "ebpf", None),
        ],
        "carrier/two-hosts" => vec![
            versus(Flood, "ebpf", "bridge-vxlan", Some(1.25)),
            versus(Flood, "ebpf", "bare-vxlan", Some(0.88)),
            versus(Flood, "ebpf", "underlay", None),
            versus(Flood, "ebpf-tcx", "ebpf", None),
            versus(RoundTrip, "ebpf", "bridge-vxlan", Some(1.15)),
            versus(RoundTrip, "ebpf", "bare-vxlan", None),
            versus(RoundTrip, "ebpf", "underlay", None),
            versus(RoundTrip, "ebpf-tcx", "ebpf", None),
        ],
        "tunnel/same-host" => [Flood, RoundTrip, Stream]
            .into_iter()
            .flat_map(|load| ["bridge", "wireguard-veth", "clear-veth"].map(|peer| versus(load, "ebpf", peer, None)))
            .collect(),
        "tunnel/two-hosts" => [Flood, RoundTrip, Stream]
            .into_iter()
            .flat_map(|load| {
                ["bridge", "wireguard-underlay", "clear-underlay"].map(|peer| versus(load, "ebpf", peer, None))
            })
            .collect(),
        _ => vec![],
    }
}

impl Figures {
    /// The rows.
    pub fn rows(&self) -> Vec<Row> {
        match self {
            Self::Told(rows) => rows.clone(),
            Self::Contest { group, figures } => {
                let compared = comparisons(group).into_iter().filter_map(|it| compare(group, figures, &it));
                compared.chain(above_the_floor(group, figures)).collect()
            }
            Self::Attach { group, attach, detach, script_attach, script_detach } => {
                let mut rows = Vec::new();
                for (verb, times, script) in [("attach", attach, script_attach), ("detach", detach, script_detach)] {
                    rows.extend(timed(group, &format!("{verb}, whole"), &times.whole, None, target(verb, 20.0)));
                    let name = format!("{verb}, without WireGuard process");
                    rows.extend(timed(group, &name, &times.without_process, Some(script), target(verb, 5.0)));
                    for (way, series) in [("from", &times.from_neighbour), ("to", &times.to_neighbour)] {
                        let name = format!("first packet {way} a neighbour, after the answer");
                        rows.extend(timed(group, &name, series, None, None));
                    }
                }
                rows
            }
        }
    }

    /// Where the time of attaching went.
    pub fn breakdowns(&self) -> Vec<Breakdown> {
        let Self::Attach { group, attach, detach, .. } = self else { return vec![] };
        let medians = |times: &Times| {
            let median = |(name, series): (&String, &Series)| Some((name.clone(), series.median()?));
            times.operations.iter().filter_map(median).collect()
        };
        [("attach", attach), ("detach", detach)]
            .map(|(verb, times)| Breakdown { name: format!("{group} {verb}"), operations: medians(times) })
            .into()
    }
}

fn target(verb: &str, milliseconds: f64) -> Option<Target> {
    (verb == "attach").then_some(Target::AtMost(milliseconds))
}

fn compare(group: &str, figures: &BTreeMap<(Load, &'static str), Series>, it: &Comparison) -> Option<Row> {
    let (ours, peer) = (figures.get(&(it.load, it.ours))?, figures.get(&(it.load, it.peer))?);
    let ratios = match it.load {
        Load::Flood | Load::Stream => ours.divided_by(peer),
        // Of times the shorter is the better.
        Load::RoundTrip => peer.divided_by(ours),
    };
    let unit = match it.load {
        Load::Flood => Unit::PacketsPerSecond,
        Load::RoundTrip => Unit::Nanoseconds,
        Load::Stream => Unit::BitsPerSecond,
    };
    let name = format!("{}: {} to {}", it.load.name(), it.ours, it.peer);
    let target = it.at_least.map(Target::RatioAtLeast);
    let row = Row::new(group, name, unit, measured(it.ours, ours)?);
    Some(row.beside(measured(it.peer, peer), ratios.median()).with_target(target))
}

/// What a packet's way through the host costs beyond a bare veth: the difference of two medians.
fn above_the_floor(group: &str, figures: &BTreeMap<(Load, &'static str), Series>) -> Option<Row> {
    let median = |name| figures.get(&(Load::RoundTrip, name)).and_then(Series::median);
    let floor = median("bare-veth")?;
    let above = |name: &'static str| {
        let median = median(name)? - floor;
        Some(Measured {
            name: format!("{name} above bare-veth"),
            median,
            spread_percent: 0.0,
            quartiles: (median, median),
            figures: Series::default(),
        })
    };
    let (ours, peer) = (above("ebpf")?, above("bridge")?);
    let ratio = (ours.median > 0.0).then(|| peer.median / ours.median);
    let name = "rr above bare-veth: ebpf to bridge".to_owned();
    let row = Row::new(group, name, Unit::Nanoseconds, ours).beside(Some(peer), ratio);
    Some(row.with_target(Some(Target::RatioAtLeast(2.5))))
}

fn timed(group: &str, name: &str, ours: &Series, peer: Option<&Series>, target: Option<Target>) -> Option<Row> {
    let ratio = peer.and_then(|peer| peer.divided_by(ours).median());
    let peer = peer.and_then(|peer| measured("ip script", peer));
    let row = Row::new(group, name.to_owned(), Unit::Milliseconds, measured("agent", ours)?);
    Some(row.beside(peer, ratio).with_target(target))
}

impl Row {
    /// A figure of ours that stands alone.
    pub fn new(group: &str, name: String, unit: Unit, ours: Measured) -> Self {
        Self { group: group.to_owned(), name, unit, ours, peer: None, ratio: None, target: None, met: None }
    }

    /// The same beside a peer's figure.
    pub fn beside(self, peer: Option<Measured>, ratio: Option<f64>) -> Self {
        Self { peer, ratio, ..self }
    }

    /// The same with a target, and whether the figures meet it.
    pub fn with_target(self, target: Option<Target>) -> Self {
        let met = target.and_then(|target| match target {
            Target::RatioAtLeast(least) => self.ratio.map(|ratio| ratio >= least),
            Target::AtMost(most) => Some(self.ours.median <= most),
            Target::AtLeast(least) => Some(self.ours.median >= least),
        });
        Self { target, met, ..self }
    }
}

/// Figures with their middle; nothing of none.
pub fn measured(name: &str, series: &Series) -> Option<Measured> {
    Some(Measured {
        name: name.to_owned(),
        median: series.median()?,
        spread_percent: series.spread_percent().unwrap_or(0.0),
        quartiles: series.quartiles()?,
        figures: series.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(figures: &[f64]) -> Series {
        figures.iter().copied().collect()
    }

    #[test]
    fn of_rates_the_higher_is_better_and_of_times_the_shorter() {
        let figures = BTreeMap::from([
            ((Load::Flood, "ebpf"), series(&[400.0])),
            ((Load::Flood, "bridge-vxlan"), series(&[200.0])),
            ((Load::RoundTrip, "ebpf"), series(&[5.0])),
            ((Load::RoundTrip, "bridge-vxlan"), series(&[10.0])),
        ]);
        let rows = Figures::Contest { group: "carrier/two-hosts", figures }.rows();
        assert_eq!(rows.iter().map(|row| row.ratio).collect::<Vec<_>>(), [Some(2.0), Some(2.0)]);
        assert!(rows.iter().all(|row| row.met == Some(true)));
    }

    #[test]
    fn what_a_path_costs_above_the_floor_is_compared_without_the_floor() {
        let figures = BTreeMap::from([
            ((Load::RoundTrip, "bare-veth"), series(&[4000.0])),
            ((Load::RoundTrip, "bridge"), series(&[5000.0])),
            ((Load::RoundTrip, "ebpf"), series(&[4500.0])),
        ]);
        let rows = Figures::Contest { group: "carrier/same-host", figures }.rows();
        let row = rows.last().expect("the last is above the floor");
        assert_eq!((row.ratio, row.met), (Some(2.0), Some(false)));
    }
}
