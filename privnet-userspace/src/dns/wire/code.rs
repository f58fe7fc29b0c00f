//! The code of a reply: its number in a message, and its published name.

use domain::base::iana::OptRcode;

use super::query::Problem;
use crate::model::published;
use crate::names::Rcode;

published! {
    /// The code of a reply (RFC 1035 section 4.1.1, RFC 6891 section 9).
    ResponseCode {
        /// 0: no error.
        NoError "noerror",
        /// 1: the query is malformed.
        FormatError "formerr",
        /// 2: the server cannot answer now.
        ServerFailure "servfail",
        /// 3: the name does not exist.
        NameError "nxdomain",
        /// 4: the kind of query is not supported.
        NotImplemented "notimp",
        /// 5: the server does not answer this.
        Refused "refused",
        /// 16: the version of EDNS is not supported.
        BadVersion "badvers",
        /// Any other; only forwarded replies have it.
        Other "other",
    }
}

impl ResponseCode {
    /// The code in the header of a reply of another server.
    #[must_use]
    pub fn of(reply: &[u8]) -> Self {
        match reply.get(3).map(|octet| octet & 0b1111) {
            Some(0) => Self::NoError,
            Some(1) => Self::FormatError,
            Some(2) => Self::ServerFailure,
            Some(3) => Self::NameError,
            Some(4) => Self::NotImplemented,
            Some(5) => Self::Refused,
            Some(_) | None => Self::Other,
        }
    }

    pub(super) fn wire(self) -> OptRcode {
        match self {
            Self::NoError => OptRcode::NOERROR,
            Self::FormatError => OptRcode::FORMERR,
            Self::ServerFailure | Self::Other => OptRcode::SERVFAIL,
            Self::NameError => OptRcode::NXDOMAIN,
            Self::NotImplemented => OptRcode::NOTIMP,
            Self::Refused => OptRcode::REFUSED,
            Self::BadVersion => OptRcode::BADVERS,
        }
    }
}

impl From<Problem> for ResponseCode {
    fn from(problem: Problem) -> Self {
        match problem {
            Problem::Malformed => Self::FormatError,
            Problem::NotImplemented => Self::NotImplemented,
            Problem::Refused => Self::Refused,
            Problem::EdnsVersion => Self::BadVersion,
        }
    }
}

impl From<Rcode> for ResponseCode {
    fn from(code: Rcode) -> Self {
        match code {
            Rcode::NoError => Self::NoError,
            Rcode::NameError => Self::NameError,
        }
    }
}
