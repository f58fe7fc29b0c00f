//! The counters of the programs, as `privnet metrics` prints them.

use std::collections::BTreeMap;

use privnet::agent::views::CounterRow;
use privnet::datapath::{Direction, DropReason, Outcome};

/// Packets by member, direction and outcome; all networks of a host together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters(BTreeMap<(String, Direction, Outcome), u64>);

impl Counters {
    /// From the rows of the agent's view.
    pub fn of_rows<'a>(rows: impl IntoIterator<Item = &'a CounterRow>) -> Self {
        let mut counters = Self::default();
        for row in rows {
            counters.add(row.member.clone(), row.direction, row.outcome, row.packets);
        }
        counters
    }

    /// From the Prometheus text.
    ///
    /// # Panics
    /// When a line of a packet counter is not of its form, or has a direction or reason that the programs do not count.
    #[must_use]
    pub fn of_text(text: &str) -> Self {
        let mut counters = Self::default();
        for line in text.lines() {
            let Some(rest) = ["privnet_forwarded_packets_total{", "privnet_dropped_packets_total{"]
                .iter()
                .find_map(|name| line.strip_prefix(name))
            else {
                continue;
            };
            let (labels, value) = rest.split_once("} ").unwrap_or_else(|| panic!("a sample: {line}"));
            let label = |name: &str| {
                let find =
                    |pair: &str| pair.strip_prefix(name)?.strip_prefix("=\"")?.strip_suffix('"').map(str::to_owned);
                labels.split(',').find_map(find).unwrap_or_else(|| panic!("a label {name}: {line}"))
            };
            let (direction, reason) = (label("direction"), label("reason"));
            let direction = Direction::ALL.into_iter().find(|known| known.name() == direction);
            let outcome = Outcome::all().find(|known| known.name() == reason);
            let (Some(direction), Some(outcome)) = (direction, outcome) else { panic!("of the programs: {line}") };
            counters.add(label("member"), direction, outcome, value.parse().expect("a number"));
        }
        counters
    }

    fn add(&mut self, member: String, direction: Direction, outcome: Outcome, packets: u64) {
        *self.0.entry((member, direction, outcome)).or_default() += packets;
    }

    /// Packets of one outcome, of all members and in both directions.
    #[must_use]
    pub fn of_outcome(&self, outcome: Outcome) -> u64 {
        self.0.iter().filter(|((_, _, of), _)| *of == outcome).map(|(_, packets)| packets).sum()
    }

    /// The drops since `before`, by reason.
    #[must_use]
    pub fn drops_since(&self, before: &Self) -> BTreeMap<DropReason, u64> {
        let mut risen = BTreeMap::new();
        for (key, packets) in &self.0 {
            let was = before.0.get(key).copied().unwrap_or(0);
            if let Outcome::Dropped(reason) = key.2
                && *packets != was
            {
                *risen.entry(reason).or_default() += packets - was;
            }
        }
        risen
    }
}
