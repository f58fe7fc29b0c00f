//! A namespace with its netlink socket.

use anyhow::Result;

use crate::link::{self, Link, Links};
use crate::netns::Netns;

/// A namespace with its netlink socket.
pub struct NetnsLinks {
    /// The namespace.
    pub netns: Netns,
    /// The socket in it.
    pub links: Links,
}

impl NetnsLinks {
    /// Opens a socket in the namespace.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn enter(netns: Netns) -> Result<Self> {
        let links = Links::open(&netns).await?;
        Ok(Self { netns, links })
    }

    /// The link of that name, when it is there.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn find(&self, name: &str) -> Result<Option<Link>> {
        match self.links.link(name).await {
            Ok(link) => Ok(Some(link)),
            Err(link::Error::NotFound(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}
