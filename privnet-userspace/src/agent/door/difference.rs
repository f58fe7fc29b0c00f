//! What an attach asks for and the membership that is there does not have.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use super::views::Attachment;
use super::wish::MemberWish;
use crate::agent::host::journal::Record;
#[cfg(test)]
use crate::model::explain::{Row, rows};
use crate::model::ids::ContainerNumber;
use crate::model::{
    AttachmentName, ContainerRef, ErrorCode, Explain, Member, MemberState, NameOf, Network, NetworkName, Port,
};

/// The namespace is a member already, and not as it was asked for.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Difference {
    /// It has another number.
    #[error("the container is {standing} in network {network} already, and not number {wanted}")]
    Number {
        /// The name that it has.
        standing: ContainerRef,
        /// The network.
        network: NetworkName,
        /// The number that was asked for.
        wanted: ContainerNumber,
    },
    /// It has another address.
    #[error("the container has address {address} in network {network} already, as {standing}, and not {wanted}")]
    Address {
        /// Its oldest name.
        standing: ContainerRef,
        /// The network.
        network: NetworkName,
        /// The address that it has.
        address: Ipv4Addr,
        /// The address that was asked for.
        wanted: Ipv4Addr,
    },
    /// Its name was attached with other ports.
    #[error("{standing} is in network {network} already with {}, and not with {}", text(.ports), text(.wanted))]
    Ports {
        /// The name.
        standing: ContainerRef,
        /// The network.
        network: NetworkName,
        /// The ports that it declared.
        ports: BTreeSet<Port>,
        /// The ports that were asked for.
        wanted: BTreeSet<Port>,
    },
    /// It was not attached by the runtime's attachment that is asked for.
    #[error("the container is {standing} in network {network} already, {}, and not by {wanted}", by(.attachment.as_ref()))]
    Attachment {
        /// Its oldest name.
        standing: ContainerRef,
        /// The network.
        network: NetworkName,
        /// The attachment that made it.
        attachment: Option<AttachmentName>,
        /// The attachment that was asked for.
        wanted: AttachmentName,
    },
    /// Its name is being drained.
    #[error("{standing} is about to leave network {network}, and has no name there any more")]
    Draining {
        /// The name.
        standing: ContainerRef,
        /// The network.
        network: NetworkName,
    },
}

/// Refuses an address that is not the one that the membership has.
pub(super) fn refuse_address(network: &Network, member: &Member, wanted: &MemberWish) -> Result<(), Difference> {
    match wanted.address {
        Some(wanted) if wanted != member.address => Err(Difference::Address {
            standing: member.container.clone(),
            network: network.name.clone(),
            address: member.address,
            wanted,
        }),
        Some(_) | None => Ok(()),
    }
}

/// Refuses a number and ports that are not those of the name that is there. No ports are those that are there.
pub(super) fn refuse_name(network: &Network, stands: &NameOf<'_>, wanted: &MemberWish) -> Result<(), Difference> {
    let (standing, network) = (stands.container.clone(), network.name.clone());
    match wanted.number {
        Some(wanted) if wanted != standing.number => Err(Difference::Number { standing, network, wanted }),
        _ if stands.state == MemberState::Draining => Err(Difference::Draining { standing, network }),
        _ if wanted.ports.is_empty() || wanted.ports == *stands.ports => Ok(()),
        _ => Err(Difference::Ports { standing, network, ports: stands.ports.clone(), wanted: wanted.ports.clone() }),
    }
}

/// Refuses an attachment of a runtime that is not the one that made the membership: each would end the other's.
pub(super) fn refuse_attachment(network: &Network, record: &Record, wanted: &MemberWish) -> Result<(), Difference> {
    match &wanted.attachment {
        Some(Attachment { name, .. }) if record.attachment.as_ref() != Some(name) => Err(Difference::Attachment {
            standing: record.container.clone(),
            network: network.name.clone(),
            attachment: record.attachment.clone(),
            wanted: name.clone(),
        }),
        Some(_) | None => Ok(()),
    }
}

fn by(attachment: Option<&AttachmentName>) -> String {
    attachment.map_or_else(|| "attached by hand".to_owned(), |name| format!("by {name}"))
}

fn text(ports: &BTreeSet<Port>) -> String {
    if ports.is_empty() {
        return "no ports".to_owned();
    }
    let ports: Vec<String> = ports.iter().map(ToString::to_string).collect();
    format!("the ports {}", ports.join(", "))
}

impl Explain for Difference {
    fn code(&self) -> ErrorCode {
        ErrorCode::MemberExists
    }

    fn remedy(&self) -> Option<String> {
        let text = match self {
            Self::Number { .. } => "attach it without --number to get what is there, or detach it first",
            Self::Address { .. } => "attach it without --address to get what is there, or detach it first",
            Self::Ports { .. } => "attach it without --port to get what is there, or detach it first",
            Self::Attachment { .. } => {
                "a container is in a network once: end the other attachment, or use another network"
            }
            Self::Draining { .. } => "attach it again when `privnet members` does not show it any more",
        };
        Some(text.to_owned())
    }

    #[cfg(test)]
    fn rows() -> Vec<Row<Self>> {
        let standing = || "1.web.ap-a71da13f-7c70-4c00-a644-eee8558d8053".parse::<ContainerRef>().expect("a container");
        let network = || "shop".parse::<NetworkName>().expect("a name");
        let (address, other) = (Ipv4Addr::new(10, 240, 0, 2), Ipv4Addr::new(10, 240, 0, 9));
        let ports = |text: &[&str]| text.iter().map(|port| port.parse().expect("a port")).collect::<BTreeSet<Port>>();
        rows![
            Self::Number { .. } => Self::Number { standing: standing(), network: network(), wanted: 2.try_into().expect("a number") },
                MemberExists,
                "the container is 1.web.ap-a71da13f-7c70-4c00-a644-eee8558d8053 in network shop already, and not number 2",
                "attach it without --number to get what is there, or detach it first";
            Self::Address { .. } => Self::Address { standing: standing(), network: network(), address, wanted: other },
                MemberExists,
                "the container has address 10.240.0.2 in network shop already, as \
                 1.web.ap-a71da13f-7c70-4c00-a644-eee8558d8053, and not 10.240.0.9",
                "attach it without --address to get what is there, or detach it first";
            Self::Ports { .. } => Self::Ports {
                    standing: standing(), network: network(), ports: ports(&[]), wanted: ports(&["dns=53/udp", "http=80"]),
                }, MemberExists,
                "1.web.ap-a71da13f-7c70-4c00-a644-eee8558d8053 is in network shop already with no ports, and not with \
                 the ports dns=53/udp, http=80",
                "attach it without --port to get what is there, or detach it first";
            Self::Attachment { .. } => Self::Attachment {
                    standing: standing(), network: network(),
                    attachment: None, wanted: "cni/shop/0123/eth0".parse().expect("a name"),
                }, MemberExists,
                "the container is 1.web.ap-a71da13f-7c70-4c00-a644-eee8558d8053 in network shop already, attached by hand, \
                 and not by cni/shop/0123/eth0",
                "a container is in a network once: end the other attachment, or use another network";
            Self::Draining { .. } => Self::Draining { standing: standing(), network: network() }, MemberExists,
                "1.web.ap-a71da13f-7c70-4c00-a644-eee8558d8053 is about to leave network shop, and has no name there any more",
                "attach it again when `privnet members` does not show it any more";
        ]
    }
}
