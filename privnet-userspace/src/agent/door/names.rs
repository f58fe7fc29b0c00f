//! What the surfaces may ask about names.

use std::net::Ipv4Addr;

use super::error::{ControlError, ErrorCode};
use super::reads::store_age_seconds;
use super::views::{AnswerSource, DomainNameView, NamesView, ResolveQuery, ResolveView, ResponseCode};
use crate::agent::host::journal::Record;
use crate::agent::names::reason::reason;
use crate::agent::names::{self, desired};
use crate::agent::shared::Shared;
use crate::dns::{DnsProcess, ProcessState, Resolved, Source};
use crate::model::ids::ContainerNumber;
use crate::model::{App, AppId, ContainerRef, ContainerType, Forwarding, Network, NetworkId};
use crate::names::{Name, NetworkNames, SUFFIX};
use crate::netns::NetnsId;

/// The types that can be asked for by name, with their numbers (IANA).
pub(super) const TYPES: [(&str, u16); 9] =
    [("A", 1), ("NS", 2), ("SOA", 6), ("PTR", 12), ("TXT", 16), ("AAAA", 28), ("SRV", 33), ("HTTPS", 65), ("ANY", 255)];

/// Every name of an app's ready containers, in these networks.
pub(super) fn names_of_app(shared: &Shared, app: AppId, networks: &[Network]) -> Vec<DomainNameView> {
    let views = networks.iter().flat_map(|network| {
        let names = shared.world(|world| desired::names(world, network.id, &shared.host.config.host));
        names.map(|names| names_of(network, app, &names)).unwrap_or_default()
    });
    let store_age_seconds = store_age_seconds(shared);
    views.map(|view| DomainNameView { store_age_seconds, ..view }).collect()
}

/// What a container of this host is told about a name. `asker` is its name, or its address in a network.
///
/// # Errors
/// When the container is none of this host's, or this host answers no names.
pub(super) async fn ask_for_name(shared: &Shared, query: ResolveQuery) -> Result<ResolveView, ControlError> {
    let (record, name) = find_asker(shared, &query.asker)?;
    let typed: Name = query.name.parse()?;
    let (kind, number) = parse_type(query.kind.as_deref().unwrap_or("A"))?;
    let process = process(shared)?;
    let (asked, told) = search(shared, &process, record.netns, (&query.name, &typed), number).await?;
    let networks = desired::networks(shared.journal().records().values(), record.netns);
    let own = &shared.host.config.host;
    let reason = shared.world(|world| reason(world, own, &networks, &asked, &kind, &told));
    let (source, rcode) = match (&told.source, told.rcode) {
        (Source::Forwarded(Forwarding::Off), _) => (AnswerSource::Refused, Some(ResponseCode::Refused)),
        (Source::Forwarded(Forwarding::Host | Forwarding::Servers(_)), _) => (AnswerSource::Forwarded, None),
        (Source::Snapshot, _) if told.is_stale => (AnswerSource::Snapshot, Some(ResponseCode::ServerFailure)),
        (Source::Snapshot, rcode) => {
            let code = rcode.map(|name| ResponseCode::from_name(&name).unwrap_or(ResponseCode::Other));
            (AnswerSource::Snapshot, code)
        }
    };
    Ok(ResolveView {
        name: typed.to_string(),
        asked_as: asked.to_string(),
        kind,
        asker: name.to_string(),
        source,
        rcode,
        records: if told.is_stale { Vec::new() } else { told.records },
        age_seconds: told.age_seconds.map(whole),
        reason,
    })
}

/// The addresses that a name of its networks has for a container of this host, in an order that is drawn anew each time;
/// none when no container of these networks has the name.
///
/// # Errors
/// When the name cannot be one, or this host answers no names, or not at present.
pub(super) async fn addresses_of(shared: &Shared, netns: NetnsId, host: &str) -> Result<Vec<Ipv4Addr>, ControlError> {
    let typed: Name = host.parse()?;
    let (_, a) = parse_type("A")?;
    let (_, told) = search(shared, &process(shared)?, netns, (host, &typed), a).await?;
    if told.source != Source::Snapshot {
        return Ok(Vec::new());
    }
    if told.is_stale {
        let message = format!("cannot look {host} up: what this host knows of the names is too old");
        let remedy = "`privnet status` says since when the store does not answer; give the container's address";
        return Err(ControlError::new(ErrorCode::StoreUnavailable, message, remedy));
    }
    Ok(told.records.iter().filter_map(|record| address_in(record)).collect())
}

/// The address of a record, `<owner> <ttl> A <address>`.
fn address_in(record: &str) -> Option<Ipv4Addr> {
    let mut words = record.split_whitespace().skip(2);
    words.next().filter(|kind| *kind == "A").and(words.next())?.parse().ok()
}

/// Asks as libc does: for one name of the search list after the other, until one has what is asked for. Returns what was
/// told, and under which name; where none has it, what is told about the name as it is, or that a name has none of the type.
async fn search(
    shared: &Shared,
    process: &DnsProcess,
    netns: NetnsId,
    (text, typed): (&str, &Name),
    kind: u16,
) -> Result<(Name, Resolved), ControlError> {
    let mut empty = None;
    let mut as_it_is = None;
    for name in names::wait::search(shared, netns).tries(text) {
        // A search domain may make it too long: libc goes on with the next.
        let Ok(asked) = name.parse::<Name>() else { continue };
        let told = process.resolve(netns, &name, kind).await?;
        let is_told = told.source == Source::Snapshot && !told.is_stale;
        if !is_told || !told.records.is_empty() {
            return Ok((asked, told));
        }
        if told.rcode.as_deref() == Some("noerror") {
            empty.get_or_insert((asked, told));
        } else if asked == *typed {
            as_it_is = Some((asked, told));
        }
    }
    match empty.or(as_it_is) {
        Some(found) => Ok(found),
        None => Ok((typed.clone(), process.resolve(netns, &typed.to_string(), kind).await?)),
    }
}

/// How names are answered on this host; nothing when they are not, or the process is not there to ask.
///
/// # Errors
/// When the process that answers them cannot be asked.
pub(super) async fn observe_names(shared: &Shared) -> Result<Option<NamesView>, ControlError> {
    let (Some(config), Ok(process)) = (&shared.host.config.names, process(shared)) else { return Ok(None) };
    let state: Option<ProcessState> = process.observe().await?;
    Ok(state.map(|state| NamesView {
        address: config.address,
        containers: state.containers.len(),
        networks: state.networks,
        members: state.members,
        age_seconds: state.age_seconds.map(whole),
        is_stale: state.is_stale,
        counted: state.counted.into(),
    }))
}

fn process(shared: &Shared) -> Result<DnsProcess, ControlError> {
    let process = shared.names.reports().borrow().process.clone();
    process.ok_or_else(|| {
        let message = "no DNS process runs on this host";
        let remedy = "attach a container, and start the agent without `--dns-address off`; `privnet status` shows the state of names";
        ControlError::new(ErrorCode::Unsupported, message, remedy)
    })
}

/// The container that a person means by `<number>.<type>.<app>`; the app by its name or its id.
pub(super) fn container_of(text: &str) -> Option<ContainerRef> {
    let mut labels = text.split('.');
    let mut next = || labels.next().unwrap_or_default();
    let (number, kind, app) = (next().parse(), next().parse(), next().parse::<App>());
    Some(ContainerRef { number: number.ok()?, kind: kind.ok()?, app: app.ok()?.id })
}

/// The record of the container that `asker` means, and the name by which it means it.
fn find_asker(shared: &Shared, asker: &str) -> Result<(Record, ContainerRef), ControlError> {
    let text = asker.trim_end_matches('.').trim_end_matches(SUFFIX.trim_end_matches('.')).trim_end_matches('.');
    let container = container_of(text);
    let address: Option<Ipv4Addr> = text.parse().ok();
    let journal = shared.journal();
    let name_of = |record: &Record| {
        let has_name = |name: &ContainerRef| record.each_name().any(|(known, _)| known == name);
        let by_address = || (Some(record.address) == address).then(|| record.container.clone());
        container.clone().filter(has_name).or_else(by_address)
    };
    let staying = journal.records().values().filter(|record| !record.leaving);
    let mut meant: Vec<(&Record, ContainerRef)> =
        staying.filter_map(|record| Some((record, name_of(record)?))).collect();
    meant.sort_by_key(|(record, _)| record.netns);
    meant.dedup_by_key(|(record, _)| record.netns);
    match &meant[..] {
        [(record, name)] => Ok(((*record).clone(), name.clone())),
        [] => Err(ControlError::new(
            ErrorCode::MemberNotFound,
            format!("no container of this host is {asker}"),
            "give it as `<number>.<type>.<app>` or by its address; `privnet members` shows them and their hosts",
        )),
        [_, ..] => Err(ControlError::new(
            ErrorCode::InvalidArgument,
            format!("{asker} is an address of {} containers, in different networks", meant.len()),
            "give the container as `<number>.<type>.<app>`",
        )),
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an age is positive and far below 2^64")]
const fn whole(seconds: f64) -> u64 {
    seconds as u64
}

pub(super) fn parse_type(text: &str) -> Result<(String, u16), ControlError> {
    let upper = text.to_ascii_uppercase();
    if let Some((name, number)) = TYPES.iter().find(|(name, _)| *name == upper) {
        return Ok(((*name).to_owned(), *number));
    }
    text.parse().map(|number| (format!("TYPE{number}"), number)).map_err(|_| {
        let known = TYPES.map(|(name, _)| name).join(", ");
        let message = format!("{text:?} is no type of record");
        ControlError::new(ErrorCode::InvalidArgument, message, format!("give one of {known}, or a number"))
    })
}

/// The names of an app in one network: without a type, of each type, of each container.
fn names_of(network: &Network, app: AppId, names: &NetworkNames) -> Vec<DomainNameView> {
    let members: Vec<_> = names.members.values().filter(|member| member.container.app == app).collect();
    let view = |kind: Option<&ContainerType>, number: Option<ContainerNumber>| {
        let is_of = |container: &ContainerRef| {
            container.kind == *kind.unwrap_or(&ContainerType::web()) && number.is_none_or(|n| n == container.number)
        };
        let addresses = members.iter().filter(|member| is_of(&member.container)).map(|member| member.address);
        DomainNameView {
            name: domain_name(network.id, app, kind, number),
            network: network.id,
            network_name: network.name.clone(),
            kind: kind.cloned(),
            number,
            addresses: addresses.collect(),
            store_age_seconds: None,
        }
    };
    let mut kinds: Vec<&ContainerType> = members.iter().map(|member| &member.container.kind).collect();
    kinds.dedup();
    let of_app = kinds.contains(&&ContainerType::web()).then(|| view(None, None));
    let of_kinds = kinds.iter().flat_map(|kind| {
        let numbers = members.iter().filter(|member| member.container.kind == **kind);
        let of_one = numbers.map(|member| view(Some(kind), Some(member.container.number)));
        std::iter::once(view(Some(kind), None)).chain(of_one).collect::<Vec<_>>()
    });
    of_app.into_iter().chain(of_kinds).collect()
}

fn domain_name(
    network: NetworkId,
    app: AppId,
    kind: Option<&ContainerType>,
    number: Option<ContainerNumber>,
) -> String {
    let prefix = [number.map(|number| number.to_string()), kind.map(ToString::to_string)];
    let labels: Vec<String> = prefix.into_iter().flatten().chain([app.to_string(), network.to_string()]).collect();
    format!("{}.{}", labels.join("."), SUFFIX.trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::names::desired::tests::{APP, SHOP, own, world};

    #[test]
    fn an_apps_names_are_those_of_the_product() {
        let world = world(&["ready", "attaching", "ready"]);
        let network = world.networks()[&SHOP.parse().expect("an id")].clone();
        let names = desired::names(&world, network.id, &own()).expect("it exists");
        let listed = names_of(&network, APP.parse().expect("an app"), &names);
        let lines: Vec<String> = listed.iter().map(|view| format!("{} {:?}", view.name, view.addresses)).collect();
        let apex = format!("{APP}.{SHOP}.private-network.internal");
        assert_eq!(
            lines,
            [
                format!("{apex} [10.240.0.2, 10.240.0.4]"),
                format!("web.{apex} [10.240.0.2, 10.240.0.4]"),
                format!("1.web.{apex} [10.240.0.2]"),
                format!("3.web.{apex} [10.240.0.4]"),
            ]
        );
        let stranger = APP.replace("ap-a7", "ap-b7").parse().expect("an app");
        assert_eq!(names_of(&network, stranger, &names), []);
    }

    #[test]
    fn an_address_is_that_of_a_record_of_its_type() {
        assert_eq!(address_in("web.shop. 5 A 10.240.0.2"), Some([10, 240, 0, 2].into()));
        for other in ["web.shop. 5 TXT 10.240.0.2", "web.shop. 5 A", "", "web.shop. 5 A a"] {
            assert_eq!(address_in(other), None, "{other}");
        }
    }

    #[test]
    fn a_type_is_named_or_numbered() {
        assert_eq!(parse_type("srv").expect("known"), ("SRV".to_owned(), 33));
        assert_eq!(parse_type("64").expect("a number"), ("TYPE64".to_owned(), 64));
        for bad in ["", "MX!", "65536", "-1"] {
            assert!(parse_type(bad).is_err(), "{bad}");
        }
    }
}
