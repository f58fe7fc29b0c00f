//! Queries: which are answered, which are refused, and which get no reply.

use domain::base::iana::{Class, Opcode, Rtype};
use domain::base::message::ShortMessage;
use domain::base::name::ToLabelIter as _;
use domain::base::opt::{Opt, OptRecord};
use domain::base::{Message, Name};

use super::{HEADER_OCTETS, UDP_MOST_OCTETS, UDP_PLAIN_OCTETS};

/// A message that arrived.
#[derive(Debug)]
pub enum Incoming<'a> {
    /// No query: a response, or a message without a whole header. It gets no reply: two servers that answered each
    /// other's responses would go on for ever.
    Silence,
    /// A query that is answered with an error.
    Wrong(Head<'a>, Problem),
    /// A question in class IN.
    Query(Query<'a>),
}

/// Why a query is answered with an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// It is malformed.
    Malformed,
    /// An operation or a type that is not served.
    NotImplemented,
    /// A class that is not served, or a transfer.
    Refused,
    /// A version of EDNS other than 0.
    EdnsVersion,
}

/// The parts of a query that an error reply needs.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    /// The whole query.
    pub(super) message: &'a Message<[u8]>,
    /// Its EDNS, if it could be read.
    pub(super) edns: Option<Edns>,
    /// Whether its question can be repeated.
    pub(super) has_question: bool,
}

/// A query.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    pub(super) head: Head<'a>,
    /// The name as it was asked, uncompressed.
    pub(super) name: &'a Name<[u8]>,
    /// The type's number.
    pub kind: u16,
}

/// The EDNS of a query: the abilities of the client. Its options are ignored, since none is known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edns {
    /// The largest reply by UDP that the client takes, in octets.
    pub size_octets: u16,
    /// Whether the client wants DNSSEC records.
    pub dnssec_ok: bool,
}

impl<'a> Query<'a> {
    /// The labels of the name in the letters asked, from the left.
    pub fn labels(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        self.name.iter_labels().map(domain::base::name::Label::as_slice).filter(|label| !label.is_empty())
    }

    /// Its EDNS.
    #[must_use]
    pub fn edns(&self) -> Option<Edns> {
        self.head.edns
    }

    /// Whether the client asks for recursion.
    #[must_use]
    pub fn recursion_desired(&self) -> bool {
        self.head.message.header().rd()
    }

    /// Whether the client does its own DNSSEC checks.
    #[must_use]
    pub fn checking_disabled(&self) -> bool {
        self.head.message.header().cd()
    }

    /// Whether the client asks whether the data was checked.
    #[must_use]
    pub fn authentic_data(&self) -> bool {
        self.head.message.header().ad()
    }

    /// The id, as in the first two octets.
    #[must_use]
    pub fn id(&self) -> u16 {
        self.head.message.header().id()
    }

    /// The question section, as it came.
    #[must_use]
    pub fn question(&self) -> &'a [u8] {
        let end = HEADER_OCTETS + self.name.as_slice().len() + 4;
        &self.head.message.as_slice()[HEADER_OCTETS..end]
    }

    /// The largest reply by UDP, in octets.
    #[must_use]
    pub fn udp_octets(&self) -> usize {
        self.head.udp_octets()
    }
}

impl Head<'_> {
    pub(super) fn udp_octets(&self) -> usize {
        self.edns
            .map_or(UDP_PLAIN_OCTETS, |edns| usize::from(edns.size_octets).clamp(UDP_PLAIN_OCTETS, UDP_MOST_OCTETS))
    }
}

/// Reads a query. Never fails: each of the three outcomes has a treatment.
#[must_use]
pub fn read(bytes: &[u8]) -> Incoming<'_> {
    let message = match Message::from_slice(bytes) {
        Ok(message) if !message.header().qr() => message,
        Ok(_) | Err(ShortMessage { .. }) => return Incoming::Silence,
    };
    let mut head = Head { message, edns: None, has_question: false };
    match examine(&mut head) {
        Ok((name, kind)) => Incoming::Query(Query { head, name, kind }),
        Err(problem) => Incoming::Wrong(head, problem),
    }
}

/// Fills in the readable parts of the query, and returns name and type when the whole query is valid.
fn examine<'a>(head: &mut Head<'a>) -> Result<(&'a Name<[u8]>, u16), Problem> {
    let message = head.message;
    if message.header().opcode() != Opcode::QUERY {
        return Err(Problem::NotImplemented);
    }
    if message.header_counts().ancount() != 0 {
        return Err(Problem::Malformed);
    }
    let question = message.sole_question().map_err(|_| Problem::Malformed)?;
    // No name precedes it that a pointer could lead to.
    if question.qname().is_compressed() {
        return Err(Problem::Malformed);
    }
    let end = HEADER_OCTETS + usize::from(question.qname().compose_len());
    let name = message.as_slice().get(HEADER_OCTETS..end).and_then(|octets| Name::from_slice(octets).ok());
    let name = name.ok_or(Problem::Malformed)?;
    let edns = edns(message)?;
    head.has_question = true;
    head.edns = edns.map(|(edns, _)| edns);
    if edns.is_some_and(|(_, version)| version != 0) {
        return Err(Problem::EdnsVersion);
    }
    if question.qclass() != Class::IN {
        return Err(Problem::Refused);
    }
    match question.qtype() {
        Rtype::OPT => Err(Problem::Malformed),
        Rtype::AXFR | Rtype::IXFR => Err(Problem::Refused),
        Rtype::ANY => Ok((name, Rtype::ANY.to_int())),
        // The range of the types that only queries have (RFC 6895 section 3.1).
        kind if (128..=255).contains(&kind.to_int()) => Err(Problem::NotImplemented),
        kind => Ok((name, kind.to_int())),
    }
}

/// The EDNS of a query and its version. Reads every record, so that a query that is cut off is malformed.
fn edns(message: &Message<[u8]>) -> Result<Option<(Edns, u8)>, Problem> {
    let malformed = |_| Problem::Malformed;
    let mut found = None;
    let mut section = message.authority().map_err(malformed)?;
    for record in &mut section {
        record.map_err(malformed)?;
    }
    let additional = section.next_section().map_err(malformed)?.ok_or(Problem::Malformed)?;
    for record in additional {
        let record = record.map_err(malformed)?;
        if record.rtype() != Rtype::OPT {
            continue;
        }
        let record = record.to_record::<Opt<_>>().map_err(malformed)?.ok_or(Problem::Malformed)?;
        // At most one record, at the root (RFC 6891 section 6.1.1).
        if found.is_some() || !record.owner().is_root() {
            return Err(Problem::Malformed);
        }
        let opt = OptRecord::from(record);
        let edns = Edns { size_octets: opt.udp_payload_size(), dnssec_ok: opt.dnssec_ok() };
        found = Some((edns, opt.version()));
    }
    Ok(found)
}
