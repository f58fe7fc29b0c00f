//! One netlink socket: requests, acknowledgements, and dumps that are complete or an error.
//!
//! It does not interpret messages. It makes up for three gaps of the netlink crates: they drop a message that they
//! cannot decode, with a log line only; they end a dump in the same way when the connection ends; and they return a
//! dump that the kernel marks as inconsistent (`NLM_F_DUMP_INTR`) like any other.

#![expect(clippy::wildcard_enum_match_arm, reason = "the enums of netlink grow with the kernel")]

use std::time::Duration;

use futures::StreamExt;
use rtnetlink::packet_core::{
    DecodeError, ErrorMessage, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkDeserializable,
    NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable, NlaBuffer, NlasIterator,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::proto::{Connection, ConnectionHandle, new_connection};
use rtnetlink::sys::{AsyncSocket, SocketAddr, protocols::NETLINK_ROUTE};
use rustix::io::Errno;
use tokio::sync::Mutex;
use tokio::task::AbortHandle;

use super::error::{Error, Refusal};
use crate::failpoint::{self, Step};
use crate::netns::{Netns, NetnsId};

/// The bound of an answer. Creating and deleting links waits for the kernel's global lock (RTNL).
const ANSWER_BOUND: Duration = Duration::from_secs(30);

/// The attempts for one dump: the kernel interrupts a dump when its table changes.
const DUMP_ATTEMPTS: usize = 10;

/// The operation and object of a request, for its errors.
#[derive(Clone, Debug)]
pub(super) struct Operation {
    pub op: &'static str,
    pub object: String,
}

impl Operation {
    pub(super) fn new(op: &'static str, object: impl Into<String>) -> Self {
        Self { op, object: object.into() }
    }
}

/// A message of the kernel. Decoding does not fail, so that no message is lost.
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

/// A netlink socket in a namespace, and the task on the runtime that serves it. A drop ends the task and closes the
/// socket.
#[derive(Debug)]
pub(super) struct Socket {
    netns: NetnsId,
    requests: ConnectionHandle<Message>,
    /// Held while a dump is under way: the kernel refuses a second one on the same socket (`EBUSY`, `netlink_dump_start`) until
    /// all of the first has been read.
    dumping: Mutex<()>,
    task: AbortHandle,
}

impl Socket {
    /// Opens a socket on the namespace's thread and serves it on the calling task's runtime.
    pub(super) async fn open(netns: &Netns) -> Result<Self, Error> {
        let (connection, requests) = opened_in(netns, open_here).await?;
        let task = tokio::spawn(connection).abort_handle();
        Ok(Self { netns: netns.id(), requests, dumping: Mutex::new(()), task })
    }

    /// The namespace of the socket.
    pub(super) fn netns(&self) -> NetnsId {
        self.netns
    }

    /// Sends one request and waits for the acknowledgement.
    pub(super) async fn request(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
        operation: Operation,
    ) -> Result<(), Error> {
        self.get(message, flags, operation).await?;
        failpoint::passed(Step::Netlink);
        Ok(())
    }

    /// Sends one request and returns the messages before the acknowledgement.
    pub(super) async fn get(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
        operation: Operation,
    ) -> Result<Vec<Message>, Error> {
        let mut answers = Vec::new();
        let replies = self.exchange(message, NLM_F_REQUEST | NLM_F_ACK | flags, &operation).await?;
        for reply in replies {
            match reply.payload {
                NetlinkPayload::InnerMessage(message) => answers.push(message),
                NetlinkPayload::Error(answer) if answer.code.is_none() => return Ok(answers),
                NetlinkPayload::Error(answer) => return Err(self.refused(&answer, &operation)),
                _ => {}
            }
        }
        Err(self.no_answer(&operation))
    }

    /// Dumps a whole table.
    ///
    /// An error when the answer has no end, when the kernel reports an error at the end, or when the table changed
    /// during each attempt. Dumps that are asked for at the same time are made one after another.
    pub(super) async fn dump(&self, message: RouteNetlinkMessage, what: &'static str) -> Result<Vec<Message>, Error> {
        let operation = Operation::new("observe", what);
        let _one = self.dumping.lock().await;
        for _ in 0..DUMP_ATTEMPTS {
            let replies = self.exchange(message.clone(), NLM_F_REQUEST | NLM_F_DUMP, &operation).await?;
            let interrupted = replies.iter().any(|reply| reply.header.flags & NLM_F_DUMP_INTR != 0);
            if !interrupted {
                return self.complete(replies, &operation);
            }
            tracing::debug!(netns = %self.netns, what, "a change interrupted a dump, dumping again");
        }
        let reason = format!("it changed during each of {DUMP_ATTEMPTS} attempts");
        Err(Error::Incomplete { what, netns: self.netns, reason })
    }

    fn complete(&self, replies: Vec<NetlinkMessage<Message>>, operation: &Operation) -> Result<Vec<Message>, Error> {
        let mut rows = Vec::new();
        for reply in replies {
            match reply.payload {
                NetlinkPayload::InnerMessage(message) => rows.push(message),
                NetlinkPayload::Done(end) if end.code == 0 => return Ok(rows),
                NetlinkPayload::Done(end) => {
                    return Err(self.refusal(end.code, extended_ack(&end.extended_ack), operation));
                }
                NetlinkPayload::Error(answer) => return Err(self.refused(&answer, operation)),
                _ => {}
            }
        }
        Err(self.no_answer(operation))
    }

    async fn exchange(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
        operation: &Operation,
    ) -> Result<Vec<NetlinkMessage<Message>>, Error> {
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        let message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(Message::Route(message)));
        let replies = self.requests.request(message, SocketAddr::new(0, 0)).map_err(|_| self.no_answer(operation))?;
        tokio::time::timeout(ANSWER_BOUND, replies.collect()).await.map_err(|_| self.no_answer(operation))
    }

    /// The error for a request that this room does not send.
    pub(super) fn unsupported(&self, operation: &Operation) -> Error {
        self.refusal(Errno::OPNOTSUPP.raw_os_error(), None, operation)
    }

    pub(super) fn no_answer(&self, operation: &Operation) -> Error {
        Error::NoAnswer { op: operation.op, object: operation.object.clone(), netns: self.netns }
    }

    fn refused(&self, answer: &ErrorMessage, operation: &Operation) -> Error {
        // NETLINK_CAP_ACK: the answer repeats the header of the request only, and the attributes follow.
        let attributes = answer.header.get(REQUEST_HEADER_BYTES..).unwrap_or_default();
        self.refusal(answer.raw_code(), extended_ack(attributes), operation)
    }

    /// `code` is a negated error number.
    fn refusal(&self, code: i32, ack: Option<String>, operation: &Operation) -> Error {
        let errno = Errno::from_raw_os_error(code.saturating_abs().clamp(1, 4095));
        Error::refused(Refusal { op: operation.op, object: operation.object.clone(), netns: self.netns, errno, ack })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// `struct nlmsghdr`, include/uapi/linux/netlink.h.
const REQUEST_HEADER_BYTES: usize = 16;

/// `NLMSGERR_ATTR_MSG`, the kernel's message as text.
const ACK_MESSAGE: u16 = 1;

/// Opens something on the namespace's thread, for the calling task's runtime.
pub(super) async fn opened_in<T: Send + 'static>(
    netns: &Netns,
    open_here: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, Error> {
    let runtime = tokio::runtime::Handle::current();
    let opened = netns
        .run(move || {
            let _runtime = runtime.enter();
            open_here()
        })
        .await?;
    opened.map_err(|source| Error::Socket { netns: netns.id(), source })
}

/// Opens a socket in the calling thread's namespace.
fn open_here() -> std::io::Result<(Connection<Message>, ConnectionHandle<Message>)> {
    // Without groups there are no notifications.
    let (mut connection, requests, _notifications) = new_connection::<Message>(NETLINK_ROUTE)?;
    connection.set_forward_ack(true);
    connection.set_forward_done(true);
    let socket = connection.socket_mut().socket_mut();
    socket.set_ext_ack(true)?;
    socket.set_cap_ack(true)?;
    // Strict checking: the kernel filters dumps, and refuses attributes that it does not know.
    socket.set_netlink_get_strict_chk(true)?;
    Ok((connection, requests))
}

fn extended_ack(attributes: &[u8]) -> Option<String> {
    let found = NlasIterator::new(attributes)
        .map_while(|attribute: Result<NlaBuffer<&[u8]>, DecodeError>| attribute.ok())
        .find(|attribute| attribute.kind() == ACK_MESSAGE)?;
    let text = String::from_utf8_lossy(found.value()).trim_end_matches('\0').to_owned();
    Some(text)
}
