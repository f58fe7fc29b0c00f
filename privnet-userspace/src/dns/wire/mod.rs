//! DNS messages: queries are read, replies are written. Bytes in, bytes out; no decision about names.
//!
//! The parser and the writer are those of NLnet Labs' `domain`; this room decides which queries are answered, and how
//! (RFC 1035, 6891, 7766, 8482, 9619).

mod code;
mod query;
mod relay;
mod reply;

pub use code::ResponseCode;
pub use query::{Edns, Head, Incoming, Problem, Query, read};
pub use relay::{forwarded, is_reply, is_truncated, make_reply_to, question_key};
pub use reply::{Limits, Written, cut_off, write_answer, write_error, write_problem};

/// The largest reply by UDP, in octets, also to a client that takes more: it fits every path (DNS flag day 2020).
pub const UDP_MOST_OCTETS: usize = 1232;
/// The largest reply by UDP that a client without EDNS takes, in octets (RFC 1035 section 2.3.4).
pub const UDP_PLAIN_OCTETS: usize = 512;
/// Largest message by TCP, in octets.
pub const TCP_MOST_OCTETS: usize = 65_535;
/// The header of every message, in octets.
pub const HEADER_OCTETS: usize = 12;
