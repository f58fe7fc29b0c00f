//! A namespace with its netlink socket.

use std::net::Ipv4Addr;

use anyhow::Result;
use ipnet::Ipv4Net;

use crate::link::{self, AbsentIsDone, Address, Link, Links};
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

    /// How an interface has an address: nothing without it; why not as the kernel makes one, when something of it is missing.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn address(&self, link: &Link, own: Ipv4Addr) -> Result<Option<Result<Ipv4Net, &'static str>>> {
        let there: Vec<Address> =
            self.links.addresses().await?.into_iter().filter(|address| address.index == link.index).collect();
        // A stranger's address beside ours is the stranger's.
        let found = there.iter().find(|address| address.address.addr() == own).or(there.first());
        let Some(Address { address, is_plain, .. }) = found.copied() else { return Ok(None) };
        Ok(Some(if !link.up {
            Err("down")
        } else if !link.plain {
            Err("with a flag that a stranger set")
        } else if !is_plain {
            Err("an address that is not permanent, is deprecated, or is without the route of its prefix")
        } else if self.links.missing_routes(link.index, address).await?.is_empty() {
            Ok(address)
        } else {
            Err("without the routes that the kernel makes for an address")
        }))
    }

    /// Leaves an interface with just this address, as the kernel makes one without options.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn set_address(&self, index: u32, address: Ipv4Net) -> Result<()> {
        let mut there = false;
        for other in self.links.addresses().await?.into_iter().filter(|other| other.index == index) {
            let is_ours = other.address == address && other.is_plain;
            there |= is_ours;
            if !is_ours {
                self.links.del_address(index, other.address).await.absent_is_done()?;
            }
        }
        if !there {
            self.links.add_address(index, address).await?;
        }
        Ok(())
    }

    /// Makes the routes of an address again that a stranger deleted; the link is up.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn repair_routes(&self, index: u32, address: Ipv4Net) -> Result<()> {
        for route in self.links.missing_routes(index, address).await? {
            match self.links.add_address_route(index, address, route).await {
                Ok(()) | Err(link::Error::AlreadyExists(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}
