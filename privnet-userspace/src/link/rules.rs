//! The IPv4 rules by which the kernel chooses a table of routes, as far as they are not those of a new namespace.

#![expect(clippy::wildcard_enum_match_arm, reason = "the enums of netlink grow with the kernel")]

use std::fmt;

use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::packet_route::route::RouteProtocol;
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::socket::{Message, Operation};
use super::{AbsentIsDone as _, Error, Links};

/// The rules of a new namespace, by priority: look up the local, the main and the default table.
const OF_A_NEW_NAMESPACE: [(u32, u8); 3] = [(0, 255), (32_766, 254), (32_767, 253)];

/// How the rules of a namespace differ from a new one's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleChanges {
    added: Vec<RuleMessage>,
    missing: Vec<(u32, u8)>,
}

impl RuleChanges {
    /// Whether they do not.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.missing.is_empty()
    }
}

impl fmt::Display for RuleChanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let added = self.added.iter().map(|rule| format!("rule {} is a stranger's", priority(rule)));
        let missing = self.missing.iter().map(|(priority, _)| format!("rule {priority} is missing"));
        f.write_str(&added.chain(missing).collect::<Vec<_>>().join(", "))
    }
}

impl Links {
    /// How the IPv4 rules differ from a new namespace's.
    ///
    /// # Errors
    /// As [`Links::links`].
    pub async fn rule_changes(&self) -> Result<RuleChanges, Error> {
        const WHAT: &str = "rules";
        let mut request = RuleMessage::default();
        request.header.family = AddressFamily::Inet;
        let mut changes = RuleChanges { added: Vec::new(), missing: OF_A_NEW_NAMESPACE.to_vec() };
        for row in self.socket.dump(RouteNetlinkMessage::GetRule(request), WHAT).await? {
            let Message::Route(RouteNetlinkMessage::NewRule(rule)) = row else {
                return Err(self.malformed(WHAT, &row));
            };
            match known(&rule) {
                Some(known) => changes.missing.retain(|missing| *missing != known),
                None => changes.added.push(rule),
            }
        }
        Ok(changes)
    }

    /// Makes the rules those of a new namespace again.
    ///
    /// # Errors
    /// [`Error::Kernel`]; the changes before it are undone.
    pub async fn undo_rule_changes(&self, changes: &RuleChanges) -> Result<(), Error> {
        // First what is missing: a packet in between finds a way.
        for (priority, table) in &changes.missing {
            let mut rule = RuleMessage::default();
            rule.header.family = AddressFamily::Inet;
            rule.header.table = *table;
            rule.header.action = RuleAction::ToTable;
            rule.attributes = vec![
                RuleAttribute::Priority(*priority),
                RuleAttribute::Table((*table).into()),
                RuleAttribute::Protocol(RouteProtocol::Kernel),
            ];
            let operation = Operation::new("add", format!("rule {priority}"));
            let added = self.socket.request(RouteNetlinkMessage::NewRule(rule), NLM_F_CREATE | NLM_F_EXCL, operation);
            match added.await {
                Ok(()) | Err(Error::AlreadyExists(_)) => {}
                Err(error) => return Err(error),
            }
        }
        for rule in &changes.added {
            let operation = Operation::new("delete", format!("rule {}", priority(rule)));
            self.socket.request(RouteNetlinkMessage::DelRule(rule.clone()), 0, operation).await.absent_is_done()?;
        }
        Ok(())
    }
}

/// Whether a rule is one of those that a new namespace has.
pub(super) fn is_of_a_new_namespace(rule: &RuleMessage) -> bool {
    known(rule).is_some()
}

/// The priority and the table of a rule that a new namespace has.
fn known(rule: &RuleMessage) -> Option<(u32, u8)> {
    let header = &rule.header;
    let is_for_all = header.dst_len == 0 && header.src_len == 0 && header.tos == 0;
    let is_plain = is_for_all && header.action == RuleAction::ToTable && !header.flags.contains(RuleFlags::Invert);
    let says_no_more = rule.attributes.iter().all(|attribute| match attribute {
        RuleAttribute::Table(table) => *table == u32::from(header.table),
        RuleAttribute::SuppressPrefixLen(length) => *length == u32::MAX,
        RuleAttribute::Priority(_) | RuleAttribute::Protocol(_) => true,
        _ => false,
    });
    let found = (priority(rule), header.table);
    (is_plain && says_no_more && OF_A_NEW_NAMESPACE.contains(&found)).then_some(found)
}

/// 0 where the kernel does not say it.
fn priority(rule: &RuleMessage) -> u32 {
    let told = rule.attributes.iter().find_map(|attribute| match attribute {
        RuleAttribute::Priority(priority) => Some(*priority),
        _ => None,
    });
    told.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    fn rule(table: u8, attributes: Vec<RuleAttribute>) -> RuleMessage {
        let mut rule = RuleMessage::default();
        rule.header.family = AddressFamily::Inet;
        rule.header.table = table;
        rule.header.action = RuleAction::ToTable;
        rule.attributes = attributes;
        rule
    }

    fn main() -> RuleMessage {
        let attributes = vec![
            RuleAttribute::Table(254),
            RuleAttribute::SuppressPrefixLen(u32::MAX),
            RuleAttribute::Protocol(RouteProtocol::Kernel),
            RuleAttribute::Priority(32_766),
        ];
        rule(254, attributes)
    }

    #[test]
    fn the_rules_of_a_new_namespace_are_known_and_others_are_strangers() {
        assert!(is_of_a_new_namespace(&main()));
        let local = vec![RuleAttribute::Table(255), RuleAttribute::SuppressPrefixLen(u32::MAX)];
        assert!(is_of_a_new_namespace(&rule(255, local)), "of priority 0, which is not said");
        let mut from = main();
        from.header.src_len = 32;
        from.attributes.push(RuleAttribute::Source(IpAddr::V4(Ipv4Addr::LOCALHOST)));
        let mut inverted = main();
        inverted.header.flags = RuleFlags::Invert;
        let mut suppressing = main();
        suppressing.attributes[1] = RuleAttribute::SuppressPrefixLen(0);
        let mut marked = main();
        marked.attributes.push(RuleAttribute::FwMark(51));
        let mut unreachable = main();
        unreachable.header.action = RuleAction::Unreachable;
        let mut earlier = main();
        earlier.attributes[3] = RuleAttribute::Priority(100);
        for stranger in [from, inverted, suppressing, marked, unreachable, earlier] {
            assert!(!is_of_a_new_namespace(&stranger), "{stranger:?}");
        }
    }

    #[test]
    fn what_differs_is_said_by_priority() {
        let mut stranger = main();
        stranger.attributes[3] = RuleAttribute::Priority(100);
        let changes = RuleChanges { added: vec![stranger], missing: vec![(0, 255)] };
        assert_eq!(changes.to_string(), "rule 100 is a stranger's, rule 0 is missing");
        assert!(!changes.is_empty() && RuleChanges::default().is_empty());
    }
}
