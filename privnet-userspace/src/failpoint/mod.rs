//! Failpoints: the steps at which a test kills the agent, refuses what it asks for, or holds a task of it.
//!
//! A step is one change that outlives the agent: a commit, a file, a namespace, a link, a pin, a process. The doors through
//! which all changes go call [`passed`] behind each one, and [`refused`] before those whose failure a test wants to see. A
//! change that goes through a door has its step by that; `agent/network/objects` has one for each kind of the table.
//!
//! An agent listens where it is started with [`VARIABLE`], and in a build with debug assertions only: in any other build
//! these functions are empty, and nothing reads the variable.

#[cfg(debug_assertions)]
mod armed;

use std::fmt;
use std::io;

/// The variable that names the file by which a test arms a step of the agent, `<file>`; the agent adds the steps that it
/// passes to `<file>.passed` where that exists.
pub const VARIABLE: &str = "PRIVNET_FAILPOINTS";

macro_rules! steps {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal, $can_be_refused:literal;)+) => {
        /// One change that outlives the agent.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Step {
            $($(#[doc = $doc])+ $name,)+
            /// A pass made or changed an object of this kind.
            Make(&'static str),
            /// A pass removed an object of this kind.
            Remove(&'static str),
        }

        impl Step {
            /// The steps that are not those of a kind of objects.
            pub const PLAIN: &'static [Self] = &[$(Self::$name),+];

            /// Whether a test can refuse it: the others only end the agent.
            #[must_use]
            pub const fn can_be_refused(self) -> bool {
                match self {
                    $(Self::$name => $can_be_refused,)+
                    Self::Make(_) | Self::Remove(_) => true,
                }
            }
        }

        impl fmt::Display for Step {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Self::$name => f.write_str($text),)+
                    Self::Make(kind) => write!(f, "make {kind}"),
                    Self::Remove(kind) => write!(f, "remove {kind}"),
                }
            }
        }
    };
}

steps! {
    /// A transaction was committed.
    Commit = "commit", true;
    /// A lease was granted.
    Lease = "lease", true;
    /// The new content of a file of the state directory was written, beside the file.
    Write = "write file", true;
    /// It took the file's name.
    Rename = "rename file", false;
    /// A file of the state directory was removed.
    Unlink = "unlink file", false;
    /// The text of a container's `resolv.conf` was written, and its length not yet set.
    ResolvConf = "write resolv.conf", false;
    /// The mount point of a namespace was made.
    MountPoint = "make mount point", false;
    /// A namespace was pinned.
    Pin = "pin namespace", false;
    /// A namespace was unpinned, and its mount point is there.
    Unpin = "unpin namespace", false;
    /// A netlink request that changes something was carried out.
    Netlink = "netlink request", false;
    /// The directory of a network's programs was made.
    PinDirectory = "make directory of pins", false;
    /// The maps of a network's programs were made and pinned.
    PinMaps = "pin maps", false;
    /// A program was pinned under its name.
    PinProgram = "pin program", false;
    /// The programs were marked as whole.
    MarkPrograms = "mark programs", false;
    /// A program was attached to an interface.
    Attach = "attach program", false;
    /// A program was detached from an interface.
    Detach = "detach program", false;
    /// A pin of a network's programs was removed.
    RemovePin = "remove pin", false;
    /// The directory of a DNS or WireGuard process was made.
    RunDirectory = "make run directory", false;
    /// A DNS or WireGuard process was started, and does not know yet what for.
    Spawn = "spawn process", false;
    /// It was told, and is ready.
    Ready = "ready process", false;
    /// A running process carried out a request.
    Request = "ask process", false;
    /// A process was ended, and its files are there.
    EndProcess = "end process", false;
}

/// Has this process, an agent, listen for what a test arms.
pub fn listen() {
    #[cfg(debug_assertions)]
    armed::listen();
}

/// To be called before a step. Returns late where a test has the task wait.
///
/// # Errors
/// A test refuses the step.
pub fn refused(step: Step) -> io::Result<()> {
    #[cfg(debug_assertions)]
    armed::refused(step)?;
    let _ = step;
    Ok(())
}

/// To be called behind a step. Does not return where a test has the agent end there, and late where it has the task wait.
pub fn passed(step: Step) {
    #[cfg(debug_assertions)]
    armed::passed(step);
    let _ = step;
}
