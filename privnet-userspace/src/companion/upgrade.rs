//! The two run dirs of a companion that is replaced by handing over: one process serves, the other run dir is its
//! successor's.

use std::path::Path;

use super::handle::Found;
use super::{Error, Handle, Program, Protocol};

/// What is found in the two run dirs.
#[derive(Debug)]
pub enum Standing<P> {
    /// No process runs; one is to be started here.
    Absent(Handle<P>),
    /// A process runs and is worked with.
    Current(Handle<P>),
    /// A process runs that is to be replaced.
    Replace {
        /// The process.
        running: Handle<P>,
        /// Where its successor is started.
        successor: Handle<P>,
        /// Whether it speaks this agent's version, so that it can hand over.
        hands_over: bool,
    },
}

impl<P: Protocol> Standing<P> {
    /// Looks into both run dirs. Where an agent died in the middle of a replacement both have a process: the second one is
    /// ended.
    ///
    /// # Errors
    /// When a process does not answer in time, or cannot be ended.
    pub async fn of(run_dirs: [&Path; 2], program: &Program) -> Result<Self, Error> {
        let [first, second] = run_dirs.map(Handle::new);
        let (in_first, in_second) = tokio::join!(first.find(program), second.find(program));
        let (running, successor, found) = match (in_first?, in_second?) {
            (Found::Absent, Found::Absent) => return Ok(Self::Absent(first)),
            (Found::Absent, found) => (second, first, found),
            (found, Found::Absent) => (first, second, found),
            (found, _) => {
                second.end().await?;
                (first, second, found)
            }
        };
        Ok(match found {
            Found::Absent | Found::Current => Self::Current(running),
            Found::OtherBuild => Self::Replace { running, successor, hands_over: true },
            Found::OtherVersion => Self::Replace { running, successor, hands_over: false },
        })
    }
}
