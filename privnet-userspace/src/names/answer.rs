//! Questions and answers as values.

use std::net::Ipv4Addr;

use super::name::Name;

/// What is asked, in class IN.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// The name, in lower case.
    pub name: &'a Name,
    /// The type.
    pub kind: QueryType,
    /// How many records at most are of use: no more are drawn from a large set.
    pub most: usize,
}

/// A type of record, or `ANY`. The numbers are IANA's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum QueryType {
    /// An IPv4 address.
    A,
    /// A name server.
    Ns,
    /// The start of a zone of authority.
    Soa,
    /// The name of an address.
    Ptr,
    /// Text.
    Txt,
    /// Where a service is (RFC 2782).
    Srv,
    /// Whatever there is; one record set is enough (RFC 8482).
    Any,
    /// A type of which there are no records here.
    Other(u16),
}

impl From<u16> for QueryType {
    fn from(number: u16) -> Self {
        match number {
            1 => Self::A,
            2 => Self::Ns,
            6 => Self::Soa,
            12 => Self::Ptr,
            16 => Self::Txt,
            33 => Self::Srv,
            255 => Self::Any,
            other => Self::Other(other),
        }
    }
}

/// What became of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// It is ours, and this is the answer.
    Answered(Answer),
    /// The name is none of ours: a forwarder may ask for it.
    Elsewhere,
}

/// An answer, authoritative always.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Whether the name exists.
    pub rcode: Rcode,
    /// What was asked for; empty when there is none of that type.
    pub answers: Vec<Record>,
    /// The zone's SOA when there is nothing to answer.
    pub authority: Vec<Record>,
    /// What the client will want next. May be left out.
    pub additional: Vec<Record>,
}

/// Whether a name exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rcode {
    /// It exists, be it without records of the type.
    NoError,
    /// Neither it nor anything below it exists.
    NameError,
}

/// A record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Whose it is.
    pub owner: Owner,
    /// How long it may be kept, in seconds.
    pub ttl_seconds: u32,
    /// What it says.
    pub data: Data,
}

impl Record {
    /// The record as a line, for people; `asked` is the name that it answers.
    #[must_use]
    pub fn line(&self, asked: &Name) -> String {
        let owner = match &self.owner {
            Owner::Asked { skip } => asked.parent(*skip),
            Owner::Name(name) => name.clone(),
        };
        let data = match &self.data {
            Data::A(address) => format!("A {address}"),
            Data::Ns(name) => format!("NS {name}"),
            Data::Soa(soa) => format!("SOA {} {} {}", Soa::primary(), Soa::mailbox(), soa.serial),
            Data::Ptr(name) => format!("PTR {name}"),
            Data::Txt(texts) => format!("TXT {texts:?}"),
            Data::Srv { port, target } => format!("SRV 0 1 {port} {target}"),
        };
        format!("{owner} {} {data}", self.ttl_seconds)
    }
}

/// The name that a record belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The name that was asked for without its first labels, in the letters in which it was asked.
    Asked {
        /// How many labels to leave out.
        skip: usize,
    },
    /// Another one.
    Name(Name),
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// An address.
    A(Ipv4Addr),
    /// A name server's name.
    Ns(Name),
    /// About the zone.
    Soa(Soa),
    /// An address's name.
    Ptr(Name),
    /// Texts, each of at most 255 octets.
    Txt(Vec<String>),
    /// A service's port and host. All are equal: priority 0, weight 1.
    Srv {
        /// The port, host byte order.
        port: u16,
        /// The host.
        target: Name,
    },
}

/// A zone's SOA. Its times are for secondaries, and there are none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Soa {
    /// Grows with each change of the zone.
    pub serial: u32,
    /// How long "there is none" may be kept, in seconds.
    pub minimum_seconds: u32,
}

impl Soa {
    /// The name server that the zone comes from.
    #[must_use]
    pub fn primary() -> Name {
        Name::from_valid(super::SUFFIX)
    }

    /// The mailbox of the zone's administrator, as a name.
    #[must_use]
    pub fn mailbox() -> Name {
        Name::from_valid(&format!("hostmaster.{}", super::SUFFIX))
    }
}

impl Answer {
    /// An answer with these records; where there are none it says so, with the zone's SOA.
    pub(super) fn of(answers: Vec<Record>, soa: impl FnOnce() -> Record) -> Self {
        let authority = if answers.is_empty() { vec![soa()] } else { Vec::new() };
        Self { rcode: Rcode::NoError, answers, authority, additional: Vec::new() }
    }

    /// The name does not exist.
    pub(super) fn name_error(soa: Record) -> Self {
        Self { rcode: Rcode::NameError, answers: Vec::new(), authority: vec![soa], additional: Vec::new() }
    }
}
