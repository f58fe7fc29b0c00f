//! Queries to a resolver and replies from it. A query takes only the question of the client's, a reply only the client's
//! id and the letters of its question.

use domain::base::MessageBuilder;
use domain::base::iana::Rcode;

use super::query::Query;
use super::reply::opt;
use super::{Edns, HEADER_OCTETS};

const FLAG_QR: u8 = 0b1000_0000;
const FLAG_TC: u8 = 0b10;

/// The query for a resolver: a new id, the question, and EDNS of this server where the client's query had EDNS.
#[must_use]
pub fn forwarded(query: &Query<'_>, id: u16) -> Vec<u8> {
    let mut builder = MessageBuilder::new_vec();
    let header = builder.header_mut();
    header.set_id(id);
    header.set_rd(query.recursion_desired());
    header.set_cd(query.checking_disabled());
    header.set_ad(query.authentic_data());
    header.set_rcode(Rcode::NOERROR);
    let mut request = builder.finish();
    request.extend_from_slice(query.question());
    request[5] = 1;
    if let Some(Edns { dnssec_ok, size_octets }) = query.edns() {
        request.extend_from_slice(&opt(Edns { dnssec_ok, size_octets }));
        request[11] = 1;
    }
    request
}

/// What tells a question from others, for replies that several clients may share: all of the query but its id and its letters'
/// case; and whether it came by TCP.
#[must_use]
pub fn question_key(query: &Query<'_>, by_tcp: bool) -> Vec<u8> {
    let mut key = forwarded(query, 0);
    // All of the question but type and class; the lengths of its labels are below every letter.
    let name = HEADER_OCTETS..HEADER_OCTETS + query.question().len() - 4;
    key[name].make_ascii_lowercase();
    key.push(u8::from(by_tcp));
    key
}

/// Whether `reply` answers the query with this id: it has the same question, in letters of either case.
#[must_use]
pub fn is_reply(reply: &[u8], query: &Query<'_>, id: u16) -> bool {
    let question = query.question();
    reply.get(..2) == Some(&id.to_be_bytes())
        && reply.get(2).is_some_and(|flags| flags & FLAG_QR != 0)
        && reply.get(4..6) == Some(&[0, 1])
        && reply
            .get(HEADER_OCTETS..HEADER_OCTETS + question.len())
            .is_some_and(|asked| asked.eq_ignore_ascii_case(question))
}

/// Whether a reply is truncated.
#[must_use]
pub fn is_truncated(reply: &[u8]) -> bool {
    reply.get(2).is_some_and(|flags| flags & FLAG_TC != 0)
}

/// Gives a resolver's reply the client's id and the letters of the client's question.
pub fn make_reply_to(query: &Query<'_>, reply: &mut [u8]) {
    let question = query.question();
    reply[..2].copy_from_slice(&query.id().to_be_bytes());
    reply[HEADER_OCTETS..HEADER_OCTETS + question.len()].copy_from_slice(question);
}
