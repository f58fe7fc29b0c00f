//! The datapath's counters, as `privnet metrics` prints them.

use std::collections::BTreeMap;

use privnet::agent::views::CounterRow;

/// Packets by member, direction and reason; all networks of a host together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters(BTreeMap<(String, String, String), u64>);

impl Counters {
    /// From the rows of the agent's door.
    pub fn of_rows<'a>(rows: impl IntoIterator<Item = &'a CounterRow>) -> Self {
        let mut counters = Self::default();
        for row in rows {
            counters.add(&row.member, row.direction.name(), row.outcome.name(), row.packets);
        }
        counters
    }

    /// From the Prometheus text.
    ///
    /// # Panics
    /// When a line of a packet counter is not of its form.
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
            counters.add(&label("member"), &label("direction"), &label("reason"), value.parse().expect("a number"));
        }
        counters
    }

    fn add(&mut self, member: &str, direction: &str, reason: &str, packets: u64) {
        *self.0.entry((member.to_owned(), direction.to_owned(), reason.to_owned())).or_default() += packets;
    }

    /// Packets of one reason, of all members and both directions.
    #[must_use]
    pub fn of_reason(&self, reason: &str) -> u64 {
        self.0.iter().filter(|((_, _, of), _)| of == reason).map(|(_, packets)| packets).sum()
    }

    /// What rose since `before`, one line per counter, reasons that are no drop left out.
    #[must_use]
    pub fn drops_since(&self, before: &Self) -> BTreeMap<String, u64> {
        let mut risen = BTreeMap::new();
        for ((member, direction, reason), packets) in &self.0 {
            let was = before.0.get(&(member.clone(), direction.clone(), reason.clone())).copied().unwrap_or(0);
            let is_drop = !["forwarded_local", "forwarded_remote", "arp_answered"].contains(&reason.as_str());
            if is_drop && *packets != was {
                *risen.entry(reason.clone()).or_default() += packets - was;
            }
        }
        risen
    }
}
