//! A companion: a process of ours that the agent starts and that outlives it, because it holds what must not stop.
//!
//! What all kinds have in common: the directory by which they are found, how they notice that their container is gone,
//! how open files are passed, how they log, give up privileges and are ended. What they do is their own room's.
//!
//! | module | what it owns |
//! |---|---|
//! | `run_dir` | control socket, locked pid file, log |
//! | `anchor` | by what a companion knows that a container lives |
//! | `channel` | messages with open files over a socket |
//! | `inside` | what a companion does first |
//! | `outside` | what the agent does to one |

mod anchor;
mod channel;
mod inside;
mod outside;
mod run_dir;

pub use anchor::{Anchor, AnchorError, Watched};
pub use channel::{receive, send};
pub use inside::{give_up_privileges, listen, log_to, watch};
pub use outside::{Ending, end};
pub use run_dir::RunDir;
