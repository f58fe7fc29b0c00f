//! The packet's side of privnet: what crosses between the kernel and the agent, and what decides.
//!
//! Compiled for the host and for BPF. Nothing here can act: no map, no packet pointer, no system call.
//! The programs in `programs/` are shells around [`forward`](crate::forward).
//!
//! | module | what it owns |
//! |---|---|
//! | [`net`] | the identifiers both sides speak: [`net::Vni`], [`net::MacAddr`] |

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod net;
