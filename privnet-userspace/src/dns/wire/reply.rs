//! Replies: answers, errors, and replies of others that are too long for the client.

use domain::base::iana::Rcode as WireRcode;
use domain::base::message_builder::{MessageBuilder, PushError, RecordSectionBuilder, StaticCompressor};
use domain::base::name::ToLabelIter as _;
use domain::base::{Name as WireName, Serial, Ttl};
use domain::rdata::rfc1035::TxtBuilder;
use domain::rdata::{A, Ns, Ptr, Soa, Srv, Txt};

use super::code::ResponseCode;
use super::query::{Edns, Head, Problem, Query};
use super::{HEADER_OCTETS, UDP_MOST_OCTETS};
use crate::names::answer;
use crate::names::{Answer, Data, Name, Owner, Record};

/// An OPT record without options, in octets (RFC 6891 section 6.1.2).
const OPT_OCTETS: usize = 11;
/// Refresh, retry and expire, which only secondary servers use, and there are none.
const SOA_TIMES_SECONDS: [u32; 3] = [3600, 600, 86_400];
/// Where the flags TC and RA are: the third and fourth octet of the header.
const FLAG_TC: u8 = 0b10;

/// The limit of a reply, and its statement about this server.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The largest reply, in octets.
    pub octets: usize,
    /// Whether this server also answers names of others.
    pub recursion_available: bool,
}

/// A reply that was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Its code.
    pub code: ResponseCode,
    /// Whether records are missing that the client can have by TCP.
    pub truncated: bool,
}

type Target = StaticCompressor<Vec<u8>>;

/// Writes the answer to `query` into `out`, which it empties first.
///
/// Records that do not fit are left out, and the reply is marked as truncated: the client then asks by TCP. A client that
/// does not has at least some of the addresses.
pub fn write_answer(query: &Query<'_>, answer: &Answer, limits: Limits, out: &mut Vec<u8>) -> Written {
    let code = ResponseCode::from(answer.rcode);
    let mut truncated = false;
    write(&query.head, code, limits, out, |mut builder| {
        builder.header_mut().set_aa(true);
        let mut section = builder.answer();
        let mut fits = push_all(&mut section, query, &answer.answers);
        let mut section = section.authority();
        fits = fits && push_all(&mut section, query, &answer.authority);
        let mut section = section.additional();
        // The additional records may be missing: the client did not ask for them.
        if fits {
            push_all(&mut section, query, &answer.additional);
        }
        truncated = !fits;
        section.header_mut().set_tc(truncated);
        section
    });
    Written { code, truncated }
}

/// Writes that `query` cannot be answered.
pub fn write_error(query: &Query<'_>, code: ResponseCode, limits: Limits, out: &mut Vec<u8>) -> Written {
    write(&query.head, code, limits, out, |builder| builder.additional());
    Written { code, truncated: false }
}

/// Writes the error reply to a query with a problem.
pub fn write_problem(head: &Head<'_>, problem: Problem, limits: Limits, out: &mut Vec<u8>) -> Written {
    let code = ResponseCode::from(problem);
    write(head, code, limits, out, |builder| builder.additional());
    Written { code, truncated: false }
}

type Question = domain::base::message_builder::QuestionBuilder<Target>;
type Additional = domain::base::message_builder::AdditionalBuilder<Target>;

/// Header and question, then what `records` adds, then EDNS if the query had it.
fn write(
    head: &Head<'_>,
    code: ResponseCode,
    limits: Limits,
    out: &mut Vec<u8>,
    records: impl FnOnce(Question) -> Additional,
) {
    let limit = limits.octets;
    // A Vec grows: neither this nor the pushes below fail but for the limit.
    let Ok(mut builder) = MessageBuilder::from_target(StaticCompressor::new(std::mem::take(out)));
    let asked = head.message.header();
    let header = builder.header_mut();
    header.set_id(asked.id());
    header.set_qr(true);
    header.set_opcode(asked.opcode());
    header.set_rd(asked.rd());
    header.set_cd(asked.cd());
    header.set_ra(limits.recursion_available);
    header.set_rcode(WireRcode::checked_from_int(code.wire().rcode().to_int()).unwrap_or(WireRcode::SERVFAIL));
    // The builder's limit is the first length that is too much.
    builder.set_push_limit(limit - head.edns.map_or(0, |_| OPT_OCTETS) + 1);
    let mut builder = builder.question();
    if head.has_question {
        for question in head.message.question().flatten() {
            let _ = builder.push(question);
        }
    }
    let mut builder = records(builder);
    builder.set_push_limit(limit + 1);
    if let Some(edns) = head.edns {
        let _ = builder.opt(|opt| {
            opt.set_udp_payload_size(UDP_MOST);
            opt.set_dnssec_ok(edns.dnssec_ok);
            opt.set_rcode(code.wire());
            Ok(())
        });
    }
    *out = builder.finish().into_target();
}

/// The largest message that this server takes by UDP, in octets; no query comes near it.
#[expect(clippy::cast_possible_truncation, reason = "1232 fits")]
const UDP_MOST: u16 = UDP_MOST_OCTETS as u16;

/// Appends records as long as they fit; false when one did not.
fn push_all(section: &mut impl RecordSectionBuilder<Target>, query: &Query<'_>, records: &[Record]) -> bool {
    records.iter().all(|record| {
        let owner = match &record.owner {
            Owner::Asked { skip } => suffix(query.name, *skip),
            Owner::Name(name) => wire(name),
        };
        push(section, owner, record).is_ok()
    })
}

fn push(
    section: &mut impl RecordSectionBuilder<Target>,
    owner: &WireName<[u8]>,
    record: &Record,
) -> Result<(), PushError> {
    let ttl = Ttl::from_secs(record.ttl_seconds);
    match &record.data {
        Data::A(address) => section.push((owner, ttl, A::new(*address))),
        Data::Ns(name) => section.push((owner, ttl, Ns::new(wire(name)))),
        Data::Ptr(name) => section.push((owner, ttl, Ptr::new(wire(name)))),
        Data::Srv { port, target } => section.push((owner, ttl, Srv::new(0, 1, *port, wire(target)))),
        Data::Txt(texts) => section.push((owner, ttl, txt(texts))),
        Data::Soa(soa) => {
            let [refresh, retry, expire] = SOA_TIMES_SECONDS.map(Ttl::from_secs);
            let minimum = Ttl::from_secs(soa.minimum_seconds);
            let (primary, mailbox) = (answer::Soa::primary(), answer::Soa::mailbox());
            let serial = Serial(soa.serial);
            section.push((
                owner,
                ttl,
                Soa::new(wire(&primary), wire(&mailbox), serial, refresh, retry, expire, minimum),
            ))
        }
    }
}

fn txt(texts: &[String]) -> Txt<Vec<u8>> {
    let mut builder = TxtBuilder::<Vec<u8>>::new();
    for text in texts {
        // Neither too long for a text nor all together too long for a record: the inventory is cut accordingly.
        let _ = builder.append_slice(text.as_bytes());
        builder.close_charstr();
    }
    builder.finish().unwrap_or_else(|_| Txt::build_from_slice(b"").unwrap_or_else(|error| unreachable!("{error}")))
}

/// A name of ours as the library's; both are the same octets.
fn wire(name: &Name) -> &WireName<[u8]> {
    WireName::from_slice(name.octets()).unwrap_or_else(|_| WireName::root_slice())
}

/// A name without its first labels.
fn suffix(name: &WireName<[u8]>, skip: usize) -> &WireName<[u8]> {
    let skipped: usize = name.iter_labels().take(skip).map(|label| usize::from(label.compose_len())).sum();
    let octets = name.as_slice().get(skipped..);
    octets.and_then(|octets| WireName::from_slice(octets).ok()).unwrap_or_else(|| WireName::root_slice())
}

/// Cuts a resolver's reply that is too long for `query` down to its header and question, and marks it as truncated.
pub fn cut_off(query: &Query<'_>, octets: usize, reply: &mut Vec<u8>) -> bool {
    if reply.len() <= octets {
        return false;
    }
    reply.truncate(HEADER_OCTETS + query.question().len());
    reply[2] |= FLAG_TC;
    reply[6..HEADER_OCTETS].fill(0);
    if let Some(edns) = query.edns() {
        reply.extend_from_slice(&opt(edns));
        reply[11] = 1;
    }
    true
}

/// An OPT record without options (RFC 6891 section 6.1.2): root, type 41, size, extended code and version, flags, length.
pub(super) fn opt(edns: Edns) -> [u8; OPT_OCTETS] {
    let [high, low] = UDP_MOST.to_be_bytes();
    [0, 0, 41, high, low, 0, 0, if edns.dnssec_ok { 0b1000_0000 } else { 0 }, 0, 0, 0]
}
