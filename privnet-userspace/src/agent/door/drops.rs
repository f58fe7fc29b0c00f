//! The frames that the programs drop, for one who watches.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use tokio::time::{Instant, sleep};

use super::error::{ControlError, ErrorCode};
use super::names::container_of;
use super::reads::look_for_network;
use super::views::{Direction, DropLine, DropReason, DropsQuery};
use crate::agent::drops::{Refused, Sources, Watching};
use crate::agent::host::journal::Record;
use crate::agent::shared::Shared;
use crate::model::{NetworkId, NetworkName};

/// How long a watcher waits until the programs of all networks report each drop.
const UNTIL_COMPLETE: Duration = Duration::from_secs(5);
/// How often it looks whether they do.
const LOOK: Duration = Duration::from_millis(10);

/// What one who watches is told, line by line.
pub type DropLines = BoxStream<'static, DropLine>;

/// What a frame is charged to that can be charged to no member of this host.
const UNKNOWN: &str = "unknown";

/// Which drops are wanted.
struct Filter {
    network: Option<NetworkId>,
    member: Option<String>,
    direction: Option<Direction>,
    reason: Option<DropReason>,
}

/// Watches. The first line says of which networks each drop is reported from then on; the lines end when the agent does.
///
/// # Errors
/// When there is no such network, or no such member on this host, or too many watch.
pub async fn watch(shared: &Shared, query: DropsQuery) -> Result<DropLines, ControlError> {
    let DropsQuery { network, member, direction, reason } = query;
    let network = match network {
        Some(network) => Some(look_for_network(shared, &network).await?.id),
        None => None,
    };
    let member = member.map(|member| member_of(shared, &member)).transpose()?;
    let filter = Filter { network, member, direction, reason };
    let sources = Sources {
        host: Arc::clone(&shared.host),
        world: Arc::clone(&shared.world),
        journal: Arc::clone(&shared.journal),
        workers: Arc::clone(&shared.workers),
    };
    let watching = match shared.drops.watch(sources) {
        Ok(watching) => watching,
        Err(Refused::Ending) => return Ok(stream::empty().boxed()),
        Err(Refused::TooMany(watchers)) => {
            let message = format!("{watchers} watch the drops of this host already");
            return Err(ControlError::new(ErrorCode::InvalidArgument, message, "end one of them"));
        }
        Err(Refused::NoThread(error)) => {
            let message = format!("the thread that reads the drops cannot be started: {error}");
            return Err(ControlError::new(ErrorCode::Internal, message, "look what limits the agent's threads"));
        }
    };
    let networks = until_complete(shared, &filter).await;
    let lines = stream::unfold((watching, filter), next).boxed();
    Ok(stream::iter([DropLine::Watching { networks }]).chain(lines).boxed())
}

/// The name under which frames are charged to the member that a text means: its address, `<number>.<type>`, one of its names.
fn member_of(shared: &Shared, text: &str) -> Result<String, ControlError> {
    if text == UNKNOWN {
        return Ok(text.to_owned());
    }
    let container = container_of(text);
    let is_meant = |record: &&Record| {
        let has_name = |meant| record.each_name().any(|(name, _)| *name == meant);
        container.clone().is_some_and(has_name) || is_charged((&record.container.to_string(), record.address), text)
    };
    let journal = shared.journal();
    let meant = journal.records().values().find(is_meant).ok_or_else(|| {
        let remedy = "give its address, `<number>.<type>` or `<number>.<type>.<app>`; `privnet members` shows them and \
            their hosts";
        ControlError::new(ErrorCode::MemberNotFound, format!("no member of this host is {text}"), remedy)
    })?;
    Ok(if container.is_some() { meant.container.to_string() } else { text.to_owned() })
}

/// Waits until the programs of all networks that have members here report each drop; those that do.
async fn until_complete(shared: &Shared, filter: &Filter) -> Vec<NetworkName> {
    let begun = Instant::now();
    loop {
        let with_members: BTreeSet<NetworkId> =
            shared.journal().records().values().map(|record| record.network).collect();
        let complete = shared.drops.complete();
        let mut wanted = with_members.iter().filter(|network| filter.network.is_none_or(|only| only == **network));
        if begun.elapsed() > UNTIL_COMPLETE || wanted.all(|network| complete.contains(network)) {
            let wanted = complete.iter().filter(|network| filter.network.is_none_or(|only| only == **network));
            return shared.world(|world| {
                wanted.filter_map(|network| world.networks().get(network)).map(|network| network.name.clone()).collect()
            });
        }
        sleep(LOOK).await;
    }
}

/// The next line that is wanted.
async fn next((mut watching, filter): (Watching, Filter)) -> Option<(DropLine, (Watching, Filter))> {
    loop {
        let line = watching.next().await?;
        if filter.wants(&line) {
            return Some((Arc::unwrap_or_clone(line), (watching, filter)));
        }
    }
}

impl Filter {
    fn wants(&self, line: &DropLine) -> bool {
        match line {
            DropLine::Watching { .. } | DropLine::Missed { .. } => true,
            DropLine::NotShown { network, .. } => self.network.is_none_or(|only| only == *network),
            DropLine::Drop(frame) => {
                self.network.is_none_or(|only| only == frame.network)
                    && self.member.as_deref().is_none_or(|member| is_charged((&frame.member, frame.address), member))
                    && self.direction.is_none_or(|only| only == frame.direction)
                    && self.reason.is_none_or(|only| only == frame.reason)
            }
        }
    }
}

/// Whether a member, by its oldest name and address, is the one that a text means: an address, that name, or its first parts.
fn is_charged((name, address): (&str, Ipv4Addr), text: &str) -> bool {
    let is_its_name = || name.strip_prefix(text).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    is_its_name() || text.parse() == Ok(address)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::door::views::DroppedFrame;

    const WEB: (&str, Ipv4Addr) = ("1.web.ap-a71da13f-7c70-4c00-a644-eee8558d8053", Ipv4Addr::new(10, 0, 0, 2));

    fn id(number: u128) -> NetworkId {
        NetworkId::from_uuid(uuid::Uuid::from_u128(number))
    }

    fn dropped() -> DroppedFrame {
        DroppedFrame {
            unix_microseconds: 0,
            network: id(1),
            network_name: "shop".parse().expect("a name"),
            member: WEB.0.to_owned(),
            address: WEB.1,
            direction: Direction::Out,
            reason: DropReason::SpoofedMac,
            protocol: "udp".to_owned(),
            from: String::new(),
            to: String::new(),
            bytes: 60,
            is_ethernet: true,
            headers: String::new(),
        }
    }

    fn is_shown(change: impl FnOnce(&mut Filter)) -> bool {
        let mut filter = Filter { network: None, member: None, direction: None, reason: None };
        change(&mut filter);
        filter.wants(&DropLine::Drop(dropped()))
    }

    #[test]
    fn a_drop_is_shown_when_every_part_of_the_filter_wants_it() {
        assert!(is_shown(|_| {}));
        let network = |number| move |filter: &mut Filter| filter.network = Some(id(number));
        assert_eq!([is_shown(network(1)), is_shown(network(2))], [true, false]);
        let direction = |only| move |filter: &mut Filter| filter.direction = Some(only);
        assert_eq!([is_shown(direction(Direction::Out)), is_shown(direction(Direction::In))], [true, false]);
        let reason = |only| move |filter: &mut Filter| filter.reason = Some(only);
        assert_eq!([is_shown(reason(DropReason::SpoofedMac)), is_shown(reason(DropReason::Ipv6))], [true, false]);
    }

    #[test]
    fn a_member_is_meant_by_its_address_and_by_the_first_parts_of_its_name() {
        for member in ["10.0.0.2", "1.web", "1.web.ap-a71da13f-7c70-4c00-a644-eee8558d8053"] {
            assert!(is_charged(WEB, member), "{member}");
        }
        for member in ["10.0.0.3", "1.we", "web", "", "1.web.", "unknown"] {
            assert!(!is_charged(WEB, member), "{member}");
        }
    }
}
