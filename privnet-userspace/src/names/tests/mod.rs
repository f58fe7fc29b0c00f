//! The zone, question by question, and against a plain model of it.

mod answers;
mod model;
mod property;
mod short;
mod text;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use rand::SeedableRng as _;
use rand::rngs::SmallRng;

use super::{
    Answer, Catalogue, Data, Difference, DnsClient, MemberNames, Name, NetworkHead, NetworkNames, Owner, QueryType,
    Question, Record, Resolution, Zones,
};
use crate::model::NetworkId;

pub const SHOP: &str = "pn-ad0fd6a1-d05e-40ea-bf63-c4f8a75a9d8c";
pub const BANK: &str = "pn-bd0fd6a1-d05e-40ea-bf63-c4f8a75a9d8c";
pub const APP: &str = "ap-a71da13f-7c70-4c00-a644-eee8558d8053";
pub const OTHER_APP: &str = "ap-b71da13f-7c70-4c00-a644-eee8558d8053";
pub const SERVER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 82);

pub fn network(text: &str) -> NetworkId {
    text.parse().expect("a network's id")
}

pub fn member(container: &str, address: &str, ports: &[&str]) -> MemberNames {
    MemberNames {
        container: container.parse().expect("a container"),
        address: address.parse().expect("an address"),
        ports: ports.iter().map(|port| port.parse().expect("a port")).collect(),
        further: false,
    }
}

pub fn names(name: &str, subnet: &str, members: Vec<MemberNames>) -> NetworkNames {
    NetworkNames {
        head: NetworkHead::new(name.parse().expect("a network's name"), subnet.parse().expect("a subnet")),
        members: members.into_iter().map(|member| (member.container.clone(), member)).collect(),
    }
}

pub fn zones(catalogue: &Catalogue) -> Zones {
    let mut zones = Zones::new();
    zones.apply(Difference::between(&Catalogue::new(), catalogue));
    zones
}

pub fn client(networks: &[&str]) -> DnsClient {
    DnsClient {
        networks: networks.iter().map(|id| network(id)).collect(),
        server: Some(SERVER),
        ..DnsClient::default()
    }
}

pub fn random() -> SmallRng {
    SmallRng::seed_from_u64(1)
}

pub fn ask(zones: &Zones, client: &DnsClient, name: &str, kind: QueryType) -> Resolution {
    let name: Name = name.parse().expect("a name");
    zones.resolve(client, Question { name: &name.to_lowercase(), kind, most: usize::MAX }, &mut random())
}

/// The full name of the owner of a record of an answer to `asked`.
pub fn owner(asked: &Name, record: &Record) -> Name {
    match &record.owner {
        Owner::Asked { skip } => asked.parent(*skip),
        Owner::Name(name) => name.clone(),
    }
}

/// The addresses of an answer, in order.
pub fn addresses(answer: &Answer) -> Vec<Ipv4Addr> {
    let mut addresses: Vec<Ipv4Addr> = answer
        .answers
        .iter()
        .filter_map(|record| match record.data {
            Data::A(address) => Some(address),
            Data::Ns(_) | Data::Soa(_) | Data::Ptr(_) | Data::Txt(_) | Data::Srv { .. } => None,
        })
        .collect();
    addresses.sort();
    addresses
}
