//! What the surfaces may see of names.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::dns::engine::Counted;
use crate::dns::{ResponseCode, Transport};
use crate::model::ids::ContainerNumber;
use crate::model::{ContainerType, NetworkId, NetworkName, published};

/// Says whose names are asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct DomainNamesQuery {
    /// The app's id or name.
    #[cfg_attr(test, schemars(with = "super::schemas::AppIdOrName"))]
    pub app: String,
    /// The network's id or name; all networks when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Option<super::schemas::NetworkIdOrName>"))]
    pub network: Option<String>,
}

/// Asks what a container is told about a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ResolveQuery {
    /// The name.
    #[cfg_attr(test, schemars(with = "super::schemas::DomainName"))]
    pub name: String,
    /// The type of record; A when absent.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Option<super::schemas::RecordType>"))]
    pub kind: Option<String>,
    /// The container, `<number>.<type>.<app>`, or its address.
    #[serde(rename = "as")]
    pub asker: String,
}

/// One name of an app's containers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(rename = "DomainName"))]
pub struct DomainNameView {
    /// The name, without a final dot.
    pub name: String,
    /// The network.
    pub network: NetworkId,
    /// The network's name.
    pub network_name: NetworkName,
    /// The type in the name; without one it is `web`.
    #[serde(rename = "type")]
    pub kind: Option<ContainerType>,
    /// The number in the name; without one it is all of the type.
    pub number: Option<ContainerNumber>,
    /// The addresses of the ready containers, in order.
    pub addresses: Vec<Ipv4Addr>,
    /// How old what is known of the store is, in seconds; absent while it is current.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store_age_seconds: Option<u64>,
}

/// What a container is told about a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(rename = "Resolution"))]
pub struct ResolveView {
    /// The name, with the final dot.
    pub name: String,
    /// The name that has the answer: itself, or with a domain of the container's search list appended.
    #[serde(default)]
    pub asked_as: String,
    /// The type of record.
    #[serde(rename = "type")]
    pub kind: String,
    /// The container, `<number>.<type>.<app>`.
    pub asker: String,
    /// Where the answer comes from.
    pub source: AnswerSource,
    /// The code of the answer; nothing, in JSON the empty string, when others are asked.
    #[serde(with = "empty_when_none")]
    #[cfg_attr(test, schemars(with = "super::schemas::ResponseCodeOrEmpty"))]
    pub rcode: Option<ResponseCode>,
    /// The records, `<owner> <ttl> <type> <data>`.
    pub records: Vec<String>,
    /// How long ago the names were last known to be current, in seconds.
    pub age_seconds: Option<u64>,
    /// Why it is told that.
    pub reason: String,
}

/// How names are answered on a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(rename = "Names"))]
pub struct NamesView {
    /// Where in each container.
    pub address: Ipv4Addr,
    /// How many containers can ask.
    pub containers: usize,
    /// How many networks' names are known.
    pub networks: usize,
    /// How many members' names are known.
    pub members: usize,
    /// How long ago the names were last known to be current, in seconds; nothing when none were told.
    pub age_seconds: Option<u64>,
    /// Whether they are too old to be answered from.
    pub is_stale: bool,
    /// What was counted since the DNS process began.
    pub counted: NamesCounted,
}

/// What a DNS process counted since it began.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct NamesCounted {
    /// Replies by transport and code.
    pub replies: Vec<RepliesCounted>,
    /// Packets that were no queries, and were not answered.
    pub silence: u64,
    /// Replies by UDP that left something out.
    pub truncated: u64,
    /// Queries that were not answered because the names were too old.
    pub stale: u64,
    /// Queries for names of others that were answered.
    pub forwarded: u64,
    /// Queries for names of others that their resolvers did not answer.
    pub unanswered: u64,
    /// Queries for names of others that were not forwarded because too many were under way.
    pub over_budget: u64,
    /// Replies that could not be sent.
    pub send_failures: u64,
    /// Connections that were refused because there were too many.
    pub connections_refused: u64,
}

/// How many replies of one kind were sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct RepliesCounted {
    /// How they were sent.
    pub transport: Transport,
    /// Their code.
    pub rcode: ResponseCode,
    /// How many.
    pub count: u64,
}

published! {
    /// Where an answer comes from.
    AnswerSource {
        /// The names that the agent told the DNS process.
        Snapshot "snapshot",
        /// The servers that the container asked before, the resolvers of the host, or those that the network names.
        Forwarded "forwarded",
        /// Nowhere: the name belongs to others, and the network forwards nothing.
        Refused "refused",
    }
}

impl From<Counted> for NamesCounted {
    fn from(counted: Counted) -> Self {
        let replies = counted.replies.iter().map(|replies| RepliesCounted {
            transport: Transport::from_name(&replies.transport).unwrap_or(Transport::Udp),
            rcode: ResponseCode::from_name(&replies.rcode).unwrap_or(ResponseCode::Other),
            count: replies.count,
        });
        Self {
            replies: replies.collect(),
            silence: counted.silence,
            truncated: counted.truncated,
            stale: counted.stale,
            forwarded: counted.forwarded,
            unanswered: counted.unanswered,
            over_budget: counted.over_budget,
            send_failures: counted.send_failures,
            connections_refused: counted.connections_refused,
        }
    }
}

/// A code that is not there, as the empty string that was published for it.
mod empty_when_none {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    use super::ResponseCode;

    #[expect(clippy::ref_option, reason = "serde hands the field over by reference")]
    pub(super) fn serialize<S: Serializer>(code: &Option<ResponseCode>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(code.map_or("", ResponseCode::name))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<ResponseCode>, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.is_empty() {
            return Ok(None);
        }
        ResponseCode::from_name(&text).map(Some).ok_or_else(|| D::Error::custom(format!("{text:?} is no code")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_published_by_its_name_and_its_absence_as_the_empty_string() {
        let view = |rcode| ResolveView {
            name: "a.".to_owned(),
            asked_as: "a.".to_owned(),
            kind: "A".to_owned(),
            asker: "1.web.ap-x".to_owned(),
            source: AnswerSource::Snapshot,
            rcode,
            records: Vec::new(),
            age_seconds: None,
            reason: String::new(),
        };
        for (rcode, text) in [(Some(ResponseCode::NameError), "nxdomain"), (None, "")] {
            let json = serde_json::to_value(view(rcode)).expect("serializable");
            assert_eq!((&json["source"], &json["rcode"]), (&"snapshot".into(), &text.into()));
            assert_eq!(serde_json::from_value::<ResolveView>(json).expect("readable"), view(rcode));
        }
    }

    /// In text, since the process's build may be another one.
    #[test]
    fn every_code_that_the_process_counts_arrives_in_the_view() {
        let counted = NamesCounted::from(crate::dns::engine::Counters::default().read());
        let expected: Vec<_> = Transport::ALL
            .iter()
            .flat_map(|transport| ResponseCode::ALL.iter().map(move |rcode| (*transport, *rcode)))
            .collect();
        let found: Vec<_> = counted.replies.iter().map(|replies| (replies.transport, replies.rcode)).collect();
        assert_eq!(found, expected);
    }
}
