//! The packet path of privnet: the data that programs and agent share in maps, and the isolation policy.
//!
//! Compiled for the host and for BPF. It has no map, no packet pointer and no system call; the programs in `programs/`
//! have them, and are shells around [`forward`].
//!
//! | module | what it owns |
//! |---|---|
//! | [`net`] | identifiers of both sides: [`net::Vni`], [`net::MacAddr`] |
//! | [`abi`] | the types of the maps' keys and values, and [`abi::ABI_VERSION`] |
//! | [`maps`] | the table of maps: name, kind, key, value, capacity |
//! | [`packet`] | headers as values, read from a [`packet::Frame`] |
//! | [`verdict`] | the decisions about a frame, and the outcomes and reasons that the metrics are labelled with |
//! | [`account`] | which counters a frame is charged to |
//! | [`forward`] | the whole isolation policy, pure |

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod abi;
pub mod account;
pub mod forward;
pub mod maps;
pub mod net;
pub mod packet;
pub mod verdict;
