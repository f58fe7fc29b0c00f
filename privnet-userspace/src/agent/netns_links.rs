//! A namespace with its netlink socket.

use anyhow::Result;
use ipnet::Ipv4Net;

use crate::link::{self, AbsentIsDone, Link, Links};
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

    /// The index of the link of that name, which must be there.
    ///
    /// # Errors
    /// When it is not, or the kernel refuses.
    pub async fn index_of(&self, name: &str) -> Result<u32> {
        Ok(self.links.link(name).await?.index)
    }

    /// Leaves an interface with just this address.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn set_address(&self, index: u32, address: Ipv4Net) -> Result<()> {
        let mut there = false;
        for other in self.links.addresses().await?.into_iter().filter(|other| other.index == index) {
            there |= other.address == address;
            if other.address != address {
                self.links.del_address(index, other.address).await.absent_is_done()?;
            }
        }
        if !there {
            self.links.add_address(index, address).await?;
        }
        Ok(())
    }
}
