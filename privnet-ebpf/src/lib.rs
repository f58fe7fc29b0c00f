//! The packet's side of privnet: what crosses between the kernel and the agent, and what decides.
//!
//! Compiled for the host and for BPF. Nothing here can act: no map, no packet pointer, no system call.
//! The programs in `programs/` are shells around [`forward`].
//!
//! | module | what it owns |
//! |---|---|
//! | [`net`] | the identifiers both sides speak: [`net::Vni`], [`net::MacAddr`] |
//! | [`abi`] | every type that crosses in a map, and [`abi::ABI_VERSION`] |
//! | [`maps`] | the table of maps: name, kind, key, value, capacity |
//! | [`packet`] | headers as values, read from a [`packet::Frame`] |
//! | [`verdict`] | what can become of a frame: [`verdict::Verdict`], and the reasons, which are the metrics |
//! | [`forward`] | the whole isolation policy, pure |

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod abi;
pub mod forward;
pub mod maps;
pub mod net;
pub mod packet;
pub mod verdict;
