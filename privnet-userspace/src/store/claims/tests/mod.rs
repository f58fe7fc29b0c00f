//! The claims against the memory store, and the races against both.

mod cost;
mod members;
mod names;
mod networks;
mod races;
mod revival;
mod vxlan_port;

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::*;
use crate::model::{ContainerRef, Member, MemberId, MemberState, NameOptions, Network, PublicKey};
use crate::store::records::{self, AddressRecord, EndedBy, Envelope, MemberPointer, NetworkMark};
use crate::store::{Memory, Store, Transaction, keys};

const NOW: u64 = 1_700_000_000;

async fn network(store: &dyn Store, name: &str) -> Network {
    create(store, name, None).await.expect("created")
}

async fn create(store: &dyn Store, name: &str, subnet: Option<&str>) -> Result<Network, NetworkError> {
    let subnet = subnet.map(|text| text.parse::<Ipv4Net>().expect("a prefix"));
    let mut rng = StdRng::from_os_rng();
    let (name, names) = (name.parse().expect("a name"), NameOptions::default());
    create_network(
        store,
        &NewNetwork { name, subnet, avoided: Vec::new(), mtu: 1390, names, held: Vec::new(), now_unix_seconds: NOW },
        &mut rng,
    )
    .await
}

/// Claims as an agent does that has seen nothing of the store.
async fn claim_member(store: &dyn Store, claim: &MemberClaim) -> Result<Member, MemberError> {
    super::claim_member(store, claim, &NothingSeen).await.map(|written| written.member)
}

async fn update_member(store: &dyn Store, member: &Member) -> Result<Member, MemberError> {
    super::update_member(store, member).await.map(|written| written.member)
}

async fn set_member_state(store: &dyn Store, member: &Member, state: MemberState) -> Result<Member, MemberError> {
    super::set_member_state(store, member, state).await.map(|written| written.member)
}

/// Claims a further name of the next free number of `kind`, as an agent does that has seen nothing of the store.
async fn add_name(store: &dyn Store, of: &Member, kind: &str, number: Option<u32>) -> Result<Member, MemberError> {
    let claim = name_claim(of, kind, number);
    super::add_name(store, &claim, &NothingSeen).await.map(|written| written.member)
}

fn name_claim(of: &Member, kind: &str, number: Option<u32>) -> NameClaim {
    NameClaim { network: of.network, member: of.id, known_as: of.container.clone(), name: wish(kind, number) }
}

fn wish(kind: &str, number: Option<u32>) -> NameWish {
    NameWish {
        app: "ap-a71da13f-7c70-4c00-a644-eee8558d8053".parse().expect("an app"),
        app_name: None,
        kind: kind.parse().expect("a type"),
        number: number.map(self::number),
        own: [].into(),
        elsewhere: [].into(),
        ports: [].into(),
    }
}

/// A claim of the next `web`, with a key made of `key`.
fn claim(network: &Network, key: u32) -> MemberClaim {
    let mut bytes = [0; 32];
    bytes[..4].copy_from_slice(&key.to_be_bytes());
    MemberClaim {
        id: MemberId::new(key.into()),
        network: network.id,
        name: wish("web", None),
        address: None,
        host: "host-1".parse().expect("a host"),
        instance: None,
        public_key: PublicKey::new(bytes),
        wireguard_port: 51820,
        // Whatever was released has rested.
        now_unix_seconds: NOW + 1_000_000,
    }
}

fn container(text: &str) -> ContainerRef {
    format!("{text}.ap-a71da13f-7c70-4c00-a644-eee8558d8053").parse().expect("a container")
}

fn number(value: u32) -> crate::model::ids::ContainerNumber {
    value.try_into().expect("in range")
}

/// Everything that must hold between the records of a store, whatever happened to it.
async fn assert_consistent(store: &dyn Store) {
    let networks = records::list_networks(store).await.expect("networks").records;
    let members = records::list_members(store, None).await.expect("members").records;
    let vnis = store.list(&keys::vnis()).await.expect("vnis").entries;
    assert_eq!(vnis.len(), networks.len());
    for network in &networks {
        let found = records::find_network(store, &network.name).await.expect("read").expect("its name leads to it");
        assert_eq!(found.record, *network);
        assert!(store.get(&keys::vni(network.vni)).await.expect("read").is_some());
    }
    for member in &members {
        let network =
            networks.iter().find(|network| network.id == member.network).expect("no member without a network");
        crate::ipam::check_address(network.subnet, member.address).expect("an address for members");
        let record = address_record(store, member.network, member.address).await.expect("a record of its address");
        let expected = (Some(member.container.clone()), Some(member.id), member.generation, None);
        assert_eq!((record.holder.clone(), record.member, record.generation(), record.released_unix_seconds), expected);
        let key = keys::public_key(member.network, member.public_key);
        assert!(store.get(&key).await.expect("read").is_some());
    }
    let pointers = store.list(&"member-names/".parse().expect("a prefix")).await.expect("listed").entries;
    assert_eq!(pointers.len(), members.iter().map(|member| member.names.len()).sum::<usize>());
    for (member, further) in members.iter().flat_map(|member| member.names.iter().map(move |further| (member, further)))
    {
        let pointer = store.get(&keys::member_name(member.network, &further.container)).await.expect("read");
        let pointer: MemberPointer = records::read(&pointer.expect("a pointer")).expect("a record").record;
        assert_eq!(pointer, MemberPointer { holder: member.container.clone(), member: Some(member.id) });
    }
    let mut names: Vec<_> =
        members.iter().flat_map(|m| m.each_name().map(|name| (m.network, name.container))).collect();
    let all = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), all, "a name that two memberships have");
    let public_keys = store.list(&"public-keys/".parse().expect("a prefix")).await.expect("listed").entries;
    assert_eq!(public_keys.len(), members.len());
    let mut held = 0;
    for entry in store.list(&keys::all_addresses()).await.expect("listed").entries {
        let record: AddressRecord = records::decode(&entry.key, &entry.value).expect("a record");
        held += usize::from(record.holder.is_some());
        assert_eq!(record.holder.is_none(), record.released_unix_seconds.is_some(), "{}", entry.key);
        assert_eq!(record.holder.is_none(), record.ended_by.is_some(), "{}", entry.key);
    }
    assert_eq!(held, members.len());
}

async fn address_record(
    store: &dyn Store,
    network: crate::model::NetworkId,
    address: Ipv4Addr,
) -> Option<AddressRecord> {
    let entry = store.get(&keys::address(network, address)).await.expect("read")?;
    Some(records::decode(&entry.key, &entry.value).expect("a record"))
}
