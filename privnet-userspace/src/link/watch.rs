//! Notifications of links that appear, change and go in a namespace. Changes nothing.

#![expect(clippy::wildcard_enum_match_arm, reason = "the enums of netlink grow with the kernel")]

use std::time::Duration;

use futures::StreamExt;
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::socket::{Message, Notifications, Socket};
use super::{Error, Link, Links, read};
use crate::netns::Netns;

/// `RTNLGRP_LINK` as a bit mask (include/uapi/linux/rtnetlink.h).
const GROUP_LINK: u32 = 1;

/// A notification of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkEvent {
    /// The link appeared or changed, to these values.
    Changed(Link),
    /// The link was deleted, or moved to another namespace.
    Gone {
        /// The index that it had.
        index: u32,
        /// The name that it had.
        name: String,
    },
    /// Events were lost; an observation has to follow.
    Lost,
}

/// The events of one namespace's links from its opening on. It does not hold the namespace's thread.
#[derive(Debug)]
pub struct LinkWatch {
    // Held for its task, which feeds `notifications`.
    _socket: Socket,
    notifications: Notifications,
}

impl LinkWatch {
    /// Listens in `netns`. Open first, then observe, then read the events: so no change is missed.
    ///
    /// # Errors
    /// As [`Links::open`].
    pub async fn open(netns: &Netns) -> Result<Self, Error> {
        let (socket, notifications) = Socket::open(netns, GROUP_LINK).await?;
        Ok(Self { _socket: socket, notifications })
    }

    /// The next event; `None` after the socket was closed. Cancel safe.
    pub async fn next(&mut self) -> Option<LinkEvent> {
        loop {
            let (message, _) = self.notifications.next().await?;
            let event = match message.payload {
                NetlinkPayload::InnerMessage(message) => event(&message),
                // The buffer of the socket was full.
                NetlinkPayload::Overrun(_) => Some(LinkEvent::Lost),
                _ => None,
            };
            if event.is_some() {
                return event;
            }
        }
    }
}

impl Links {
    /// Waits until the link `name` has carrier; false when it has none after `bound`.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the link does not exist at first. `netns` has to be the namespace of these [`Links`].
    pub async fn wait_carrier(&self, netns: &Netns, name: &str, bound: Duration) -> Result<bool, Error> {
        let mut watch = LinkWatch::open(netns).await?;
        if self.link(name).await?.carrier {
            return Ok(true);
        }
        let carrier = async {
            while let Some(event) = watch.next().await {
                let up = match event {
                    LinkEvent::Changed(link) => link.name == name && link.carrier,
                    LinkEvent::Lost => self.link(name).await?.carrier,
                    LinkEvent::Gone { .. } => false,
                };
                if up {
                    return Ok(true);
                }
            }
            Ok(false)
        };
        tokio::time::timeout(bound, carrier).await.unwrap_or(Ok(false))
    }
}

fn event(message: &Message) -> Option<LinkEvent> {
    match message {
        // A notification of a bridge about its port: there RTM_DELLINK means "no longer a port".
        Message::Route(RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link))
            if link.header.interface_family != AddressFamily::Unspec =>
        {
            None
        }
        Message::Route(RouteNetlinkMessage::DelLink(_)) => {
            read::link(message).map(|link| LinkEvent::Gone { index: link.index, name: link.name })
        }
        Message::Route(RouteNetlinkMessage::NewLink(_)) => read::link(message).map(LinkEvent::Changed),
        Message::Route(_) => None,
        // The group has notifications of links only.
        Message::Undecodable { .. } => Some(LinkEvent::Lost),
    }
}
