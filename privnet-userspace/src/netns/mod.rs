//! Network namespaces: create, pin, enter, run, remove. A namespace is a thread.
//!
//! A [`Netns`] is a handle on an OS thread that entered the namespace and never leaves it. All work that depends on the
//! namespace of the calling thread (opening a netlink socket, requests of WireGuard, attaching a program,
//! `/proc/sys/net`) is a closure that [`Netns::run`] sends there. Never decides which namespace is privnet's, never
//! changes an interface.
//!
//! | file | what it owns |
//! |---|---|
//! | `id` | [`NetnsId`]: the identity of a namespace |
//! | `kind` | of which kind a namespace is |
//! | `file` | opening and identifying namespace files |
//! | `enter` | the only calls of `setns` and `unshare` |
//! | `thread` | [`Netns`]: the handle, its thread, its closures |
//! | `pin` | pins, as `ip netns` makes them |
//! | `cookie` | the cookie of a namespace, and the boot id |
//! | `sysctl` | kernel settings of a namespace |

mod cookie;
mod enter;
mod error;
mod file;
mod id;
mod kind;
mod pin;
mod sysctl;
mod thread;

pub use cookie::boot_id;
pub use enter::enter_new_for_exec;
pub use error::Error;
pub use id::NetnsId;
pub use pin::Pin;
pub use thread::Netns;

/// The directory where iproute2 pins namespaces (`NETNS_RUN_DIR`), so that `ip netns` lists those of privnet.
pub const DEFAULT_DIR: &str = "/run/netns";
