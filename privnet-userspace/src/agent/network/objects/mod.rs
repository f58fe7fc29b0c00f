//! The kinds of objects of one network, one file each: how an object is observed, made, changed and removed.
//!
//! The kinds, their order and their relations are the table in `topology/table.rs`; a kind of the table without its
//! [`Managed`] does not compile.

mod attachment;
pub mod backstop;
pub mod binding_netns;
mod binding_settings;
pub mod bridge;
mod bridge_fdb;
mod bridge_port;
mod carrier;
pub mod departed;
mod device;
mod fdb;
pub(in crate::agent) mod guard;
mod local_row;
mod member_program;
mod neighbours;
mod network_netns;
mod network_settings;
mod orphan_port;
mod orphan_veth;
mod peers;
mod port;
mod programs;
mod remote_row;
mod tunnel;
mod veth;
pub mod vtep;
mod vtep_program;

use anyhow::{Context, Result};

use super::local::LocalNetwork;
use super::scan::{MemberScan, NetworkScan};
use crate::failpoint::{self, Step};
use crate::topology::table::object_table;
use crate::topology::{Before, Key, Kind, Object, Op, Seen, State, kind};

/// What the agent does with the objects of one kind.
trait Managed: Kind {
    /// Notes the objects of this kind that belong to the network, or to no member of this host.
    ///
    /// # Errors
    /// When one of them could not be read.
    async fn observe(_: &NetworkScan<'_>, _: &mut State) -> Result<()> {
        Ok(())
    }

    /// Notes the object of this kind that belongs to a member of this host.
    ///
    /// # Errors
    /// When it could not be read.
    async fn observe_member(_: &MemberScan<'_>, _: &mut State) -> Result<()> {
        Ok(())
    }

    /// Makes an object, or changes the one that was there `before`. Can be done again after it failed half way.
    ///
    /// # Errors
    /// The object may be half made; the next observation shows it as it is.
    async fn make(net: &LocalNetwork, id: Self::Id, before: Before<'_, Self::Spec>, to: &Self::Spec) -> Result<()>;

    /// Removes the object that was there `before`. Can be done again after it failed half way.
    ///
    /// # Errors
    /// The object may still be there.
    async fn remove(net: &LocalNetwork, id: Self::Id, before: Before<'_, Self::Spec>) -> Result<()>;
}

/// Carries out one operation.
///
/// # Errors
/// The object may be half made; the next observation shows it as it is.
pub async fn apply(net: &LocalNetwork, op: &Op) -> Result<()> {
    let step = match op {
        Op::Create(_) | Op::Replace(..) => Step::Make(op.key().kind()),
        Op::Remove(_) => Step::Remove(op.key().kind()),
    };
    let carry_out = async {
        failpoint::refused(step)?;
        match op {
            Op::Create(object) => make(net, None, object).await,
            Op::Replace(seen, object) => make(net, Some(seen), object).await,
            Op::Remove(seen) => remove(net, seen).await,
        }
    };
    carry_out.await.with_context(|| format!("cannot {} {}", op.verb(), net.describe(op.key())))?;
    failpoint::passed(step);
    Ok(())
}

macro_rules! dispatch_objects {
    ($(
        $(#[doc = $doc:literal])+
        $name:ident $(($id:ident: $of:ty))? { $($fields:tt)* }
        $change:ident, $place:ident, $text:literal { $($relations:tt)* }
    )+) => {
        async fn make(net: &LocalNetwork, seen: Option<&Seen>, object: &Object) -> Result<()> {
            match object {
                $(Object::$name($($id,)? to) => {
                    let before = seen.map_or(Before::Absent, Seen::before::<kind::$name>);
                    kind::$name::make(net, ($(*$id)?), before, to).await
                })+
            }
        }

        async fn remove(net: &LocalNetwork, seen: &Seen) -> Result<()> {
            match seen.key() {
                $(Key::$name $(($id))? => kind::$name::remove(net, ($($id)?), seen.before::<kind::$name>()).await,)+
            }
        }

        /// Notes what belongs to the network, or to no member of this host.
        ///
        /// # Errors
        /// When something could not be read.
        pub async fn observe_network(scan: &NetworkScan<'_>, state: &mut State) -> Result<()> {
            $(kind::$name::observe(scan, state).await?;)+
            Ok(())
        }

        /// Notes what a member of this host has outside of its container.
        ///
        /// # Errors
        /// When something could not be read.
        pub async fn observe_member(scan: &MemberScan<'_>, state: &mut State) -> Result<()> {
            $(if !kind::$name::IS_IN_CONTAINER { kind::$name::observe_member(scan, state).await?; })+
            Ok(())
        }

        /// Notes what a member of this host has in its container.
        ///
        /// # Errors
        /// When something could not be read.
        pub async fn observe_container(scan: &MemberScan<'_>, state: &mut State) -> Result<()> {
            $(if kind::$name::IS_IN_CONTAINER { kind::$name::observe_member(scan, state).await?; })+
            Ok(())
        }
    };
}

object_table!(dispatch_objects);

#[cfg(test)]
pub(in crate::agent) mod tests {
    use privnet_ebpf::net::MacAddr;

    use crate::link::{Link, LinkKind};

    /// A link as the kernel shows it: up, with the MAC of the VTEP 192.0.2.1, and no port of anything.
    pub(in crate::agent) fn link(index: u32, name: &str, kind: LinkKind) -> Link {
        Link {
            index,
            name: name.to_owned(),
            kind,
            mac: Some(MacAddr::of_vtep([192, 0, 2, 1])),
            mtu: 1450,
            up: true,
            carrier: true,
            plain: true,
            alias: None,
            controller: None,
            bridge_port: None,
            lower: None,
            lower_nsid: None,
        }
    }
}
