//! One netlink socket: requests, acknowledgements, and dumps that are whole or an error.
//!
//! Never knows what a message is about. What it guards against in the crates below: a message that cannot be decoded is
//! dropped there with a log line, the end of a dump is not told from the end of the connection, and a dump that the
//! kernel marks as inconsistent is passed on like any other.

#![expect(clippy::wildcard_enum_match_arm, reason = "the enums of netlink grow with the kernel")]

use std::time::Duration;

use futures::StreamExt;
use futures::channel::mpsc::UnboundedReceiver;
use rtnetlink::packet_core::{
    DecodeError, ErrorMessage, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkDeserializable,
    NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable, NlaBuffer, NlasIterator,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::proto::{Connection, ConnectionHandle, new_connection};
use rtnetlink::sys::{AsyncSocket, SocketAddr, protocols::NETLINK_ROUTE};
use rustix::io::Errno;
use tokio::task::AbortHandle;

use super::error::{Error, Refusal};
use crate::netns::{Netns, NetnsId};

/// How long the kernel may think about one message. Creating and deleting links waits for the kernel's global lock.
const ANSWER_BOUND: Duration = Duration::from_secs(30);

/// How often a dump is asked for again when the tables changed under it.
const DUMP_ATTEMPTS: usize = 10;

/// What a request is about, for its errors.
#[derive(Clone, Debug)]
pub(super) struct Doing {
    pub op: &'static str,
    pub object: String,
}

impl Doing {
    pub(super) fn new(op: &'static str, object: impl Into<String>) -> Self {
        Self { op, object: object.into() }
    }
}

/// What the kernel sent. Decoding never fails, so that nothing is lost without a trace.
#[derive(Debug)]
pub(super) enum Message {
    Route(RouteNetlinkMessage),
    Undecodable { message_type: u16, payload: Vec<u8>, reason: String },
}

impl NetlinkDeserializable for Message {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        Ok(RouteNetlinkMessage::deserialize(header, payload).map_or_else(
            |error| Self::Undecodable {
                message_type: header.message_type,
                payload: payload.to_vec(),
                reason: error.to_string(),
            },
            Self::Route,
        ))
    }
}

impl NetlinkSerializable for Message {
    fn message_type(&self) -> u16 {
        match self {
            Self::Route(message) => message.message_type(),
            Self::Undecodable { message_type, .. } => *message_type,
        }
    }

    fn buffer_len(&self) -> usize {
        match self {
            Self::Route(message) => message.buffer_len(),
            Self::Undecodable { payload, .. } => payload.len(),
        }
    }

    fn serialize(&self, buffer: &mut [u8]) {
        match self {
            Self::Route(message) => message.serialize(buffer),
            Self::Undecodable { payload, .. } => buffer.copy_from_slice(payload),
        }
    }
}

/// A netlink socket in a namespace, served by a task on the runtime. Dropping it ends the task and closes the socket.
#[derive(Debug)]
pub(super) struct Wire {
    netns: NetnsId,
    requests: ConnectionHandle<Message>,
    task: AbortHandle,
}

/// What the kernel sends unasked.
pub(super) type Notifications = UnboundedReceiver<(NetlinkMessage<Message>, SocketAddr)>;

impl Wire {
    /// Opens a socket on the namespace's thread and serves it on the calling task's runtime; `groups` is a bit mask of
    /// multicast groups (bit n - 1 for `RTNLGRP` n).
    pub(super) async fn open(netns: &Netns, groups: u32) -> Result<(Self, Notifications), Error> {
        let runtime = tokio::runtime::Handle::current();
        let opened = netns
            .run(move || {
                let _runtime = runtime.enter();
                open_here(groups)
            })
            .await?;
        let (connection, requests, notifications) =
            opened.map_err(|source| Error::Socket { netns: netns.id(), source })?;
        let task = tokio::spawn(connection).abort_handle();
        Ok((Self { netns: netns.id(), requests, task }, notifications))
    }

    /// The namespace of the socket.
    pub(super) fn netns(&self) -> NetnsId {
        self.netns
    }

    /// Sends one request and waits until the kernel acknowledges it.
    pub(super) async fn request(&self, message: RouteNetlinkMessage, flags: u16, doing: Doing) -> Result<(), Error> {
        self.get(message, flags, doing).await.map(drop)
    }

    /// Sends one request and returns what the kernel answers before it acknowledges.
    pub(super) async fn get(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
        doing: Doing,
    ) -> Result<Vec<Message>, Error> {
        let mut answers = Vec::new();
        let replies = self.exchange(message, NLM_F_REQUEST | NLM_F_ACK | flags, &doing).await?;
        for reply in replies {
            match reply.payload {
                NetlinkPayload::InnerMessage(message) => answers.push(message),
                NetlinkPayload::Error(answer) if answer.code.is_none() => return Ok(answers),
                NetlinkPayload::Error(answer) => return Err(self.refused(&answer, &doing)),
                _ => {}
            }
        }
        Err(self.no_answer(&doing))
    }

    /// Asks for a whole table.
    ///
    /// Returns everything the kernel has, or an error: when the answer has no end, when the kernel reports one at its
    /// end, or when the table changed under the dump every time it was asked for.
    pub(super) async fn dump(&self, message: RouteNetlinkMessage, what: &'static str) -> Result<Vec<Message>, Error> {
        let doing = Doing::new("observe", what);
        for _ in 0..DUMP_ATTEMPTS {
            let replies = self.exchange(message.clone(), NLM_F_REQUEST | NLM_F_DUMP, &doing).await?;
            let interrupted = replies.iter().any(|reply| reply.header.flags & NLM_F_DUMP_INTR != 0);
            if !interrupted {
                return self.whole(replies, &doing);
            }
            tracing::debug!(netns = %self.netns, what, "a dump was interrupted by a change, asking again");
        }
        let reason = format!("it changed during each of {DUMP_ATTEMPTS} attempts");
        Err(Error::Incomplete { what, netns: self.netns, reason })
    }

    fn whole(&self, replies: Vec<NetlinkMessage<Message>>, doing: &Doing) -> Result<Vec<Message>, Error> {
        let mut rows = Vec::new();
        for reply in replies {
            match reply.payload {
                NetlinkPayload::InnerMessage(message) => rows.push(message),
                NetlinkPayload::Done(end) if end.code == 0 => return Ok(rows),
                NetlinkPayload::Done(end) => {
                    return Err(self.refusal(end.code, extended_ack(&end.extended_ack), doing));
                }
                NetlinkPayload::Error(answer) => return Err(self.refused(&answer, doing)),
                _ => {}
            }
        }
        Err(self.no_answer(doing))
    }

    async fn exchange(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
        doing: &Doing,
    ) -> Result<Vec<NetlinkMessage<Message>>, Error> {
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        let message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(Message::Route(message)));
        let replies = self.requests.request(message, SocketAddr::new(0, 0)).map_err(|_| self.no_answer(doing))?;
        tokio::time::timeout(ANSWER_BOUND, replies.collect()).await.map_err(|_| self.no_answer(doing))
    }

    /// A request that this room does not send.
    pub(super) fn unsupported(&self, doing: &Doing) -> Error {
        self.refusal(Errno::OPNOTSUPP.raw_os_error(), None, doing)
    }

    pub(super) fn no_answer(&self, doing: &Doing) -> Error {
        Error::NoAnswer { op: doing.op, object: doing.object.clone(), netns: self.netns }
    }

    fn refused(&self, answer: &ErrorMessage, doing: &Doing) -> Error {
        // NETLINK_CAP_ACK: of the request only its header is repeated, then come the attributes.
        let attributes = answer.header.get(REQUEST_HEADER_BYTES..).unwrap_or_default();
        self.refusal(answer.raw_code(), extended_ack(attributes), doing)
    }

    /// `code` is a negated error number.
    fn refusal(&self, code: i32, ack: Option<String>, doing: &Doing) -> Error {
        let errno = Errno::from_raw_os_error(code.saturating_abs().clamp(1, 4095));
        Error::refused(Refusal { op: doing.op, object: doing.object.clone(), netns: self.netns, errno, ack })
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// `struct nlmsghdr`, include/uapi/linux/netlink.h.
const REQUEST_HEADER_BYTES: usize = 16;

/// `NLMSGERR_ATTR_MSG`, the kernel's message in words.
const ACK_MESSAGE: u16 = 1;

type Opened = (Connection<Message>, ConnectionHandle<Message>, Notifications);

/// Opens a socket in the calling thread's namespace.
fn open_here(groups: u32) -> std::io::Result<Opened> {
    let (mut connection, requests, notifications) = new_connection::<Message>(NETLINK_ROUTE)?;
    connection.set_forward_ack(true);
    connection.set_forward_done(true);
    let socket = connection.socket_mut().socket_mut();
    socket.set_ext_ack(true)?;
    socket.set_cap_ack(true)?;
    // Lets the kernel filter dumps, and refuse what it does not know.
    socket.set_netlink_get_strict_chk(true)?;
    if groups != 0 {
        socket.bind(&SocketAddr::new(0, groups))?;
    }
    Ok((connection, requests, notifications))
}

fn extended_ack(attributes: &[u8]) -> Option<String> {
    let found = NlasIterator::new(attributes)
        .map_while(|attribute: Result<NlaBuffer<&[u8]>, DecodeError>| attribute.ok())
        .find(|attribute| attribute.kind() == ACK_MESSAGE)?;
    let text = String::from_utf8_lossy(found.value()).trim_end_matches('\0').to_owned();
    Some(text)
}
