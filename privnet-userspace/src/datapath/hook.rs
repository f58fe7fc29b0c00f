//! The hooks that programs are attached to.

use aya::programs::TcAttachType;

use super::features;

/// The hook of a program: an interface of the topology, and a direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hook {
    /// Ingress of a member's veth end in the network netns.
    FromMember,
    /// Ingress of `vxlan0` in the network netns.
    FromVtep,
    /// Ingress of a foreign interface of the app netns.
    GuardIngress,
    /// Egress of a foreign interface of the app netns.
    GuardEgress,
}

/// How a program is attached to its hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// A filter of the clsact qdisc.
    Clsact,
    /// A pinned TCX link.
    Tcx,
}

impl Hook {
    /// All hooks.
    pub const ALL: [Self; 4] = [Self::FromMember, Self::FromVtep, Self::GuardIngress, Self::GuardEgress];

    /// The name of its program, in the object, in the kernel and in the pin directory.
    #[must_use]
    pub const fn program(self) -> &'static str {
        match self {
            Self::FromMember => "from_member",
            Self::FromVtep => "from_vtep",
            Self::GuardIngress => "guard_ingress",
            Self::GuardEgress => "guard_egress",
        }
    }

    /// The method of [`super::Network::attach`]: clsact where a container's attach waits for it, and TCX for the VTEP,
    /// once per network, where the kernel has it.
    #[must_use]
    pub fn method(self) -> Method {
        match self {
            Self::FromMember | Self::GuardIngress | Self::GuardEgress => Method::Clsact,
            Self::FromVtep if features::tcx() => Method::Tcx,
            Self::FromVtep => Method::Clsact,
        }
    }

    /// The direction of the hook, for aya.
    pub(super) const fn side(self) -> TcAttachType {
        match self {
            Self::FromMember | Self::FromVtep | Self::GuardIngress => TcAttachType::Ingress,
            Self::GuardEgress => TcAttachType::Egress,
        }
    }
}
