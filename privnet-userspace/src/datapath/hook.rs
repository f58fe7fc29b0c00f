//! The places of the programs: which program runs there, and how it is attached.

use aya::programs::TcAttachType;

use super::features;

/// Where a program belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hook {
    /// Ingress of a member's veth end in the network netns.
    FromMember,
    /// Ingress of `vxlan0` in the network netns.
    FromVtep,
    /// Ingress of an interface of the app netns that is not ours.
    GuardIngress,
    /// Egress of an interface of the app netns that is not ours.
    GuardEgress,
}

/// How a program gets onto its hook.
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

    /// The method that is used unless another is asked for.
    ///
    /// The hooks that a container's attach waits for use clsact; the VTEP, once per network, uses TCX where the kernel has it.
    #[must_use]
    pub fn method(self) -> Method {
        match self {
            Self::FromMember | Self::GuardIngress | Self::GuardEgress => Method::Clsact,
            Self::FromVtep if features::tcx() => Method::Tcx,
            Self::FromVtep => Method::Clsact,
        }
    }

    /// The direction of the packets that it sees.
    pub(super) const fn side(self) -> TcAttachType {
        match self {
            Self::FromMember | Self::FromVtep | Self::GuardIngress => TcAttachType::Ingress,
            Self::GuardEgress => TcAttachType::Egress,
        }
    }
}
