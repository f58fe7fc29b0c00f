//! From a question to its answer.

use std::net::Ipv4Addr;

use rand::RngCore;
use rand::seq::SliceRandom as _;

use super::answer::{Answer, Data, Owner, QueryType, Question, Record, Resolution, Soa};
use super::catalogue::MemberNames;
use super::forward::{Found, Place, Set};
use super::short::{self, Short};
use super::zone::{DnsClient, Zone, Zones};
use super::{SUFFIX_LABELS, forward, of_member, reverse};
use crate::model::naming::{DEFAULT_NEGATIVE_TTL_SECONDS, DEFAULT_TTL_SECONDS};
use crate::model::{AppId, NetworkId, Protocol};

/// Most labels that a name can have: 127 of one octet, and the root.
const MAX_LABELS: usize = 128;
const REVERSE_LABELS: [&[u8]; 2] = [b"in-addr", b"arpa"];
/// Members per TXT record of an inventory, so that no record outgrows its 65,535 octets.
const INVENTORY_CHUNK: usize = 100;

impl Zones {
    /// Answers `question` as it is for `client`. Addresses come in an order that `random` draws.
    #[must_use]
    pub fn resolve(&self, client: &DnsClient, question: Question<'_>, random: &mut impl RngCore) -> Resolution {
        let mut labels: [&[u8]; MAX_LABELS] = [&[]; MAX_LABELS];
        let mut count = 0;
        for (slot, label) in labels.iter_mut().zip(question.name.labels()) {
            *slot = label;
            count += 1;
        }
        let labels = &labels[..count];
        let mut query = Query { zones: self, client, kind: question.kind, most: question.most, random };
        if let Some(rest) = labels.strip_suffix(&SUFFIX_LABELS) {
            return Resolution::Answered(query.below_suffix(rest));
        }
        let answer = match labels.strip_suffix(&REVERSE_LABELS) {
            Some(rest) => reverse::find(self, client, rest).map(|found| query.of_address(&found)),
            None => query.without_suffix(labels),
        };
        answer.map_or(Resolution::Elsewhere, Resolution::Answered)
    }
}

/// The zone that an answer comes from, as records need it.
#[derive(Clone, Copy)]
struct Authority<'a> {
    /// Labels of the asked name left of the zone's apex.
    skip: usize,
    zone: Option<&'a Zone>,
}

impl Authority<'_> {
    fn ttl_seconds(self) -> u32 {
        self.zone.map_or(DEFAULT_TTL_SECONDS, |zone| zone.head.options.ttl_seconds)
    }

    fn soa(self) -> Record {
        let minimum_seconds =
            self.zone.map_or(DEFAULT_NEGATIVE_TTL_SECONDS, |zone| zone.head.options.negative_ttl_seconds);
        let serial = self.zone.map_or(1, |zone| zone.head.serial);
        let data = Data::Soa(Soa { serial, minimum_seconds });
        Record { owner: Owner::Asked { skip: self.skip }, ttl_seconds: minimum_seconds, data }
    }

    /// A record of the asked name.
    fn record(self, data: Data) -> Record {
        Record { owner: Owner::Asked { skip: 0 }, ttl_seconds: self.ttl_seconds(), data }
    }
}

struct Query<'a, R> {
    zones: &'a Zones,
    client: &'a DnsClient,
    kind: QueryType,
    most: usize,
    random: &'a mut R,
}

impl<'a, R: RngCore> Query<'a, R> {
    /// An answer where there are records of one type only.
    fn of_one_type(
        &mut self,
        authority: Authority<'_>,
        kind: QueryType,
        records: impl FnOnce(&mut Self) -> Vec<Record>,
    ) -> Answer {
        let wanted = self.kind == kind || self.kind == QueryType::Any;
        let answers = if wanted { records(self) } else { Vec::new() };
        Answer::of(answers, || authority.soa())
    }

    fn at_apex(&self, authority: Authority<'_>, server: Option<Ipv4Addr>) -> Answer {
        let answers = match (self.kind, server) {
            (QueryType::A | QueryType::Any, Some(server)) => vec![authority.record(Data::A(server))],
            (QueryType::Soa | QueryType::Any, _) => {
                vec![Record { ttl_seconds: authority.ttl_seconds(), ..authority.soa() }]
            }
            (QueryType::Ns, _) => vec![authority.record(Data::Ns(Soa::primary()))],
            (QueryType::A | QueryType::Ptr | QueryType::Txt | QueryType::Srv | QueryType::Other(_), _) => Vec::new(),
        };
        Answer::of(answers, || authority.soa())
    }

    fn below_suffix(&mut self, labels: &[&'a [u8]]) -> Answer {
        let root = Authority { skip: labels.len(), zone: None };
        match forward::find(self.zones, self.client, labels) {
            Found::NoNetwork => Answer::name_error(root.soa()),
            Found::Apex => self.at_apex(root, self.client.server),
            Found::InNetwork { network, zone, skip, place } => {
                self.in_network(Authority { skip, zone: Some(zone) }, (network, zone), &place)
            }
        }
    }

    /// Answers a name that has no suffix; nothing when others may be asked for it.
    fn without_suffix(&mut self, labels: &[&'a [u8]]) -> Option<Answer> {
        let (_, rest) = labels.split_last()?;
        let (skip, zones, client) = (rest.len(), self.zones, self.client);
        let Short { in_app, in_own_apps, in_network, is_ours } = short::read(zones, client, labels, self.kind)?;
        let own_types = in_own_apps.then(|| zones.of(client)).into_iter().flatten().flat_map(|(network, zone)| {
            client.apps.iter().map(move |app| (network, zone, forward::in_own_app(zone, *app, labels)))
        });
        let places = in_app
            .then(|| zones.of(client))
            .into_iter()
            .flatten()
            .map(|(network, zone)| (network, zone, forward::in_network(zone, labels)))
            .chain(in_network.map(|(network, zone)| (network, zone, forward::in_network(zone, rest))))
            .chain(own_types);
        let mut empty = None;
        for (network, zone, place) in places.filter(|(.., place)| !matches!(place, Place::Nothing)) {
            let answer = self.in_network(Authority { skip, zone: Some(zone) }, (network, zone), &place);
            // As libc does with a search list: it goes on from a name without a record of the type to one that has it.
            if !answer.answers.is_empty() {
                return Some(answer);
            }
            empty.get_or_insert(answer);
        }
        let nothing = || Answer::name_error(Authority { skip, zone: in_network.map(|(_, zone)| zone) }.soa());
        empty.or_else(|| is_ours.then(nothing))
    }

    fn in_network(
        &mut self,
        authority: Authority<'a>,
        (network, zone): (NetworkId, &'a Zone),
        place: &Place<'a>,
    ) -> Answer {
        match *place {
            Place::Nothing => Answer::name_error(authority.soa()),
            Place::Bare => Answer::of(Vec::new(), || authority.soa()),
            Place::Network => self.at_apex(authority, None),
            Place::Containers(set) => {
                self.of_one_type(authority, QueryType::A, |query| query.addresses(authority, set))
            }
            Place::Inventory(app) => self.of_one_type(authority, QueryType::Txt, |_| {
                inventory(zone, app).map(|texts| authority.record(Data::Txt(texts))).collect()
            }),
            Place::Service { of, name, protocol } => {
                let mut additional = Vec::new();
                let answer = self.of_one_type(authority, QueryType::Srv, |query| {
                    query.services(authority, network, of, (name, protocol), &mut additional)
                });
                Answer { additional, ..answer }
            }
        }
    }

    fn of_address(&mut self, found: &reverse::Reverse<'a>) -> Answer {
        let authority = Authority { skip: found.skip, zone: Some(found.zone) };
        match found.place {
            reverse::Place::Nothing => Answer::name_error(authority.soa()),
            reverse::Place::Bare => Answer::of(Vec::new(), || authority.soa()),
            reverse::Place::Apex => self.at_apex(authority, None),
            reverse::Place::Member(container) => self.of_one_type(authority, QueryType::Ptr, |_| {
                vec![authority.record(Data::Ptr(of_member(found.network, container)))]
            }),
        }
    }

    fn addresses(&mut self, authority: Authority<'_>, set: Set<'_>) -> Vec<Record> {
        let mut addresses: Vec<Ipv4Addr> = set.iter().map(|member| member.address).collect();
        let (drawn, _) = addresses.partial_shuffle(self.random, self.most);
        drawn.iter().map(|address| authority.record(Data::A(*address))).collect()
    }

    fn services(
        &mut self,
        authority: Authority<'_>,
        network: NetworkId,
        set: Set<'_>,
        (name, protocol): (&str, Protocol),
        additional: &mut Vec<Record>,
    ) -> Vec<Record> {
        let mut offers: Vec<(&MemberNames, u16)> = set
            .iter()
            .flat_map(|member| member.ports.iter().map(move |port| (member, port)))
            .filter(|(_, port)| port.protocol == protocol && port.name.as_str() == name)
            .map(|(member, port)| (member, port.number))
            .collect();
        let (drawn, _) = offers.partial_shuffle(self.random, self.most);
        let mut records = Vec::with_capacity(drawn.len());
        for (member, port) in drawn {
            let target = of_member(network, &member.container);
            additional.push(Record {
                owner: Owner::Name(target.clone()),
                ttl_seconds: authority.ttl_seconds(),
                data: Data::A(member.address),
            });
            records.push(authority.record(Data::Srv { port: *port, target }));
        }
        records
    }
}

/// One list of texts per app and type (and hundred members): `<type>.<app>`, then `<number> <address> [<port>…]`.
fn inventory(zone: &Zone, app: Option<AppId>) -> impl Iterator<Item = Vec<String>> {
    let apps = zone.apps.iter().filter(move |(id, _)| app.is_none_or(|app| app == **id));
    let kinds =
        apps.flat_map(|(app, kinds)| kinds.iter().map(move |(kind, members)| (format!("{kind}.{app}"), members)));
    kinds.flat_map(|(title, members)| {
        let lines: Vec<String> = members.values().map(line).collect();
        let chunks: Vec<_> =
            lines.chunks(INVENTORY_CHUNK).map(|chunk| [std::slice::from_ref(&title), chunk].concat()).collect();
        chunks
    })
}

/// A member in an inventory, cut off where a text ends.
fn line(member: &MemberNames) -> String {
    const MOST: usize = 255;
    let mut line = format!("{} {}", member.container.number, member.address);
    for port in &member.ports {
        let port = format!(" {port}");
        if line.len() + port.len() > MOST {
            break;
        }
        line.push_str(&port);
    }
    line
}
