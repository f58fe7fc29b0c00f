//! What each refusal of a network or of a member says.

use super::error::{LIST_NETWORKS, MemberError, NetworkError};
use crate::ipam::InvalidAddress;
use crate::model::explain::{Row, rows};
use crate::model::{ContainerRef, Member, NetworkId};
use crate::store::error::{CommitError, StoreError};

impl NetworkError {
    pub(super) fn all_rows() -> Vec<Row<Self>> {
        let id = || "pn-a71da13f-7c70-4c00-a644-eee8558d8053".parse::<NetworkId>().expect("an id");
        let name = "shop".parse().expect("a name");
        rows![
            Self::NameTaken { .. } => Self::NameTaken { name, id: id() }, NetworkExists,
                "network name shop is taken by pn-a71da13f-7c70-4c00-a644-eee8558d8053",
                "choose another name, or delete that network";
            Self::InvalidSubnet(_) => crate::ipam::parse_subnet("10.0.0.1/24").expect_err("host bits").into(), InvalidSubnet,
                "subnet 10.0.0.1/24 has host bits set", "write 10.0.0.0/24";
            Self::NotFound { .. } => Self::NotFound { id: id() }, NetworkNotFound,
                "network pn-a71da13f-7c70-4c00-a644-eee8558d8053 does not exist", LIST_NETWORKS;
            Self::HasMembers { .. } => Self::HasMembers { id: id(), members: vec![member().into(); 7] }, NetworkNotEmpty,
                "network pn-a71da13f-7c70-4c00-a644-eee8558d8053 has 7 members: \
                 1.web.ap-a71da13f-7c70-4c00-a644-eee8558d8053 on host h1, \
                 1.web.ap-a71da13f-7c70-4c00-a644-eee8558d8053 on host h1, \
                 1.web.ap-a71da13f-7c70-4c00-a644-eee8558d8053 on host h1, \
                 1.web.ap-a71da13f-7c70-4c00-a644-eee8558d8053 on host h1, \
                 1.web.ap-a71da13f-7c70-4c00-a644-eee8558d8053 on host h1 and 2 more on host h1",
                "detach them first: `privnet members --network pn-a71da13f-7c70-4c00-a644-eee8558d8053` shows them; \
                 `privnet network delete pn-a71da13f-7c70-4c00-a644-eee8558d8053 --force` ends them too";
            Self::VnisExhausted => Self::VnisExhausted, PoolExhausted, "all 16777215 VNIs are taken", "delete a network";
            Self::Contended => Self::Contended, StoreUnavailable,
                "too many hosts are creating or deleting networks at the same time", "try again";
            Self::Record(_) => StoreError::Closed.into(), StoreUnavailable, "the store is closed", "start the agent again";
            Self::Commit(_) => CommitError::Store(StoreError::Closed).into(), StoreUnavailable,
                "the store is closed", "start the agent again";
        ]
    }
}

impl MemberError {
    pub(super) fn all_rows() -> Vec<Row<Self>> {
        let network = || "pn-a71da13f-7c70-4c00-a644-eee8558d8053".parse::<NetworkId>().expect("an id");
        let container =
            || "1.web.ap-a71da13f-7c70-4c00-a644-eee8558d8053".parse::<ContainerRef>().expect("a container");
        let subnet = "10.0.0.0/24".parse().expect("a subnet");
        let address = std::net::Ipv4Addr::new(10, 0, 0, 1);
        let exhausted = |resting| Self::PoolExhausted { subnet, used: 9, size: 10, resting };
        let closed = || (StoreError::Closed, "the store is closed", "start the agent again");
        rows![
            Self::NetworkNotFound { .. } => Self::NetworkNotFound { id: network() }, NetworkNotFound,
                "network pn-a71da13f-7c70-4c00-a644-eee8558d8053 does not exist",
                "`privnet network list` shows the networks that exist";
            Self::MemberExists(_) => Self::MemberExists(Box::new(member())), MemberExists,
                "container 1.web.ap-a71da13f-7c70-4c00-a644-eee8558d8053 is a member of \
                 pn-a71da13f-7c70-4c00-a644-eee8558d8053 already, at 10.0.0.9 on host h1",
                "detach it first, or choose another number";
            Self::TooManyNames { .. } => Self::TooManyNames { network: network(), holder: container(), most: 32 }, InvalidArgument,
                "the container of 1.web.ap-a71da13f-7c70-4c00-a644-eee8558d8053 has 32 names in \
                 pn-a71da13f-7c70-4c00-a644-eee8558d8053 already", "detach one of them";
            Self::MemberNotFound { .. } => Self::MemberNotFound { network: network(), container: container() }, MemberNotFound,
                "container 1.web.ap-a71da13f-7c70-4c00-a644-eee8558d8053 is not a member of \
                 pn-a71da13f-7c70-4c00-a644-eee8558d8053",
                "`privnet members` shows the containers that are members";
            Self::MemberChanged(_) => Self::MemberChanged(Box::new(member())), MemberNotFound,
                "member 1.web.ap-a71da13f-7c70-4c00-a644-eee8558d8053 of pn-a71da13f-7c70-4c00-a644-eee8558d8053 \
                 was changed or replaced since it was read",
                "try again";
            Self::AddressTaken { .. } => Self::AddressTaken { address, holder: container() }, AddressTaken,
                "address 10.0.0.1 is taken by 1.web.ap-a71da13f-7c70-4c00-a644-eee8558d8053",
                "choose another, or none to get a free one";
            Self::AddressOutsideSubnet(_) => InvalidAddress::OutsideSubnet { address: [10, 1, 0, 1].into(), subnet }.into(), AddressInvalid,
                "address 10.1.0.1 is outside the network's subnet 10.0.0.0/24", "choose 10.0.0.2 to 10.0.0.254";
            Self::AddressReserved(_) => InvalidAddress::Reserved { address, subnet, role: "the first host address" }.into(), AddressInvalid,
                "address 10.0.0.1 is reserved: it is the first host address of 10.0.0.0/24",
                "choose 10.0.0.2 to 10.0.0.254";
            Self::PoolExhausted { .. } => exhausted(0), PoolExhausted,
                "no address of 10.0.0.0/24 is free: members hold 9 of 10, and 0 wait until no name leads to them",
                "detach a member, or create a network with a larger subnet: `privnet network create NAME --subnet PREFIX`";
            Self::PoolExhausted { .. } => exhausted(1), PoolExhausted,
                "no address of 10.0.0.0/24 is free: members hold 9 of 10, and 1 wait until no name leads to them",
                "try again in a few seconds, or create a network with a larger subnet: `privnet network create NAME --subnet PREFIX`";
            Self::NumbersExhausted { .. } => Self::NumbersExhausted { app: container().app, kind: container().kind }, InvalidArgument,
                "all 99999 numbers of type web of ap-a71da13f-7c70-4c00-a644-eee8558d8053 are taken", "detach one of them";
            Self::PublicKeyInUse { .. } => Self::PublicKeyInUse { holder: container() }, Internal,
                "the public key belongs to 1.web.ap-a71da13f-7c70-4c00-a644-eee8558d8053 already",
                "try again: each attach makes a new key pair";
            Self::Contended => Self::Contended, StoreUnavailable,
                "too many hosts are attaching and detaching at the same time", "try again";
            Self::Record(_) => closed().0.into(), StoreUnavailable, closed().1, closed().2;
            Self::Commit(_) => CommitError::Store(closed().0).into(), StoreUnavailable, closed().1, closed().2;
        ]
    }
}

fn member() -> Member {
    let text = r#"{
        "id": "00000000000000a7", "network": "pn-a71da13f-7c70-4c00-a644-eee8558d8053", "app": "ap-a71da13f-7c70-4c00-a644-eee8558d8053",
        "type": "web", "number": 1, "address": "10.0.0.9", "generation": 0, "wireguard_port": 51820, "host": "h1",
        "public_key": "pOCSktkhX8o8ktqS/A4hMa34fRp6YpNGDFd1Ykvy41A=", "state": "ready"
    }"#;
    serde_json::from_str(text).expect("a member")
}
