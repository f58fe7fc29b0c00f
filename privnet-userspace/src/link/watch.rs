//! Hearing of links: what appears, changes and goes in a namespace. Changes nothing.

#![expect(clippy::wildcard_enum_match_arm, reason = "the enums of netlink grow with the kernel")]

use std::time::Duration;

use futures::StreamExt;
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::wire::{Message, Notifications, Wire};
use super::{Error, Link, Links, read};
use crate::netns::Netns;

/// `RTNLGRP_LINK` as a bit mask (include/uapi/linux/rtnetlink.h).
const GROUP_LINK: u32 = 1;

/// Something happened to a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkEvent {
    /// It appeared, or is as it is given.
    Changed(Link),
    /// It is gone, or was moved to another namespace.
    Gone {
        /// The index that it had.
        index: u32,
        /// The name that it had.
        name: String,
    },
    /// Events were lost; only an observation says what is there.
    Lost,
}

/// The events of one namespace's links, from when it was opened. Does not keep the namespace's thread.
#[derive(Debug)]
pub struct LinkWatch {
    // Held for its task, which feeds `notifications`.
    _wire: Wire,
    notifications: Notifications,
}

impl LinkWatch {
    /// Listens in `netns`. To miss nothing: open, then observe, then read events.
    ///
    /// # Errors
    /// As [`Links::open`].
    pub async fn open(netns: &Netns) -> Result<Self, Error> {
        let (wire, notifications) = Wire::open(netns, GROUP_LINK).await?;
        Ok(Self { _wire: wire, notifications })
    }

    /// The next event; `None` when the socket was closed, after which there are no more. Cancel safe.
    pub async fn next(&mut self) -> Option<LinkEvent> {
        loop {
            let (message, _) = self.notifications.next().await?;
            let event = match message.payload {
                NetlinkPayload::InnerMessage(message) => event(&message),
                // The kernel had more to say than the socket's buffer holds.
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
    /// Waits until the link of that name has carrier; false when it has none after `bound`.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is no such link at first; `netns` must be the one of these [`Links`].
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
        // A bridge speaks of its ports in the same words: there "gone" means "no longer a port".
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
        // Whatever it was, it was about a link.
        Message::Undecodable { .. } => Some(LinkEvent::Lost),
    }
}
