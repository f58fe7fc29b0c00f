//! What can go wrong with a companion. Every error names the process and its run dir. Never acts.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::model::explain::file_system_remedy;
#[cfg(test)]
use crate::model::explain::{Row, rows};
use crate::model::{ErrorCode, Explain};

/// Why a companion did not do what it was asked to.
#[derive(Debug)]
pub struct Error {
    /// The process, with its article: "the DNS process".
    pub process: &'static str,
    /// The run dir by which it is found.
    pub run_dir: PathBuf,
    /// What happened.
    pub cause: Cause,
}

/// What happened to a companion, or what it did; reads on from its name.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// No process has the run dir.
    #[error("is not running")]
    Absent,
    /// A process has the run dir already.
    #[error("runs already, with pid {pid}")]
    AlreadyRunning {
        /// Its process id.
        pid: i32,
    },
    /// It was started by a build of privnet whose messages differ.
    #[error("speaks version {spoken} of its protocol, this agent version {expected}")]
    OtherVersion {
        /// Its version.
        spoken: u32,
        /// The agent's version.
        expected: u32,
    },
    /// It accepted a connection, or would have, and sent no answer in time.
    #[error("did not answer within {} s", patience.as_secs())]
    Silent {
        /// How long the agent waited.
        patience: Duration,
    },
    /// It was started and did not become ready in time. It was killed.
    #[error("was not ready within {} s", patience.as_secs())]
    NotReady {
        /// How long the agent waited.
        patience: Duration,
    },
    /// It was started and failed.
    #[error("did not start: {problem}")]
    NotStarted {
        /// Its own words.
        problem: String,
    },
    /// It was started and ended without a word.
    #[error("ended before it was ready")]
    EndedEarly,
    /// It answered that it did not do it.
    #[error("refused: {problem}")]
    Refused {
        /// Its own words.
        problem: String,
    },
    /// Its answer is not a message of its protocol.
    #[error("sent an answer that cannot be read")]
    Unreadable,
    /// Its answer belongs to another request.
    #[error("sent the answer to another request")]
    OtherAnswer,
    /// The kernel refused.
    #[error("cannot be {done}")]
    Kernel {
        /// What could not be done to it: "asked", "started".
        done: &'static str,
        /// The kernel's reason.
        source: io::Error,
    },
}

impl Error {
    /// Whether no process runs.
    #[must_use]
    pub const fn is_absent(&self) -> bool {
        matches!(self.cause, Cause::Absent)
    }

    /// Whether a process runs that cannot be worked with, so that only a new one in its place helps.
    #[must_use]
    pub const fn needs_restart(&self) -> bool {
        match self.cause {
            Cause::OtherVersion { .. }
            | Cause::Silent { .. }
            | Cause::Refused { .. }
            | Cause::Unreadable
            | Cause::OtherAnswer => true,
            Cause::Absent
            | Cause::AlreadyRunning { .. }
            | Cause::NotReady { .. }
            | Cause::NotStarted { .. }
            | Cause::EndedEarly
            | Cause::Kernel { .. } => false,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {} {}", self.process, self.run_dir.display(), self.cause)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.cause.source()
    }
}

impl Explain for Error {
    fn code(&self) -> ErrorCode {
        ErrorCode::Internal
    }

    fn remedy(&self) -> Option<String> {
        let Cause::Kernel { source, .. } = &self.cause else { return None };
        file_system_remedy(source, &self.run_dir.display().to_string())
    }

    /// The agent starts or replaces the process by itself.
    fn can_retry(&self) -> bool {
        matches!(self.cause, Cause::Absent | Cause::OtherVersion { .. })
    }

    #[cfg(test)]
    fn rows() -> Vec<Row<Self>> {
        let because = |cause| Self { process: "the DNS process", run_dir: "/run/privnet/dns".into(), cause };
        let patience = Duration::from_secs(5);
        let problem = || "another process has the directory".to_owned();
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        rows![
            Self { cause: Cause::Absent, .. } => because(Cause::Absent), Internal,
                "the DNS process in /run/privnet/dns is not running", "";
            Self { cause: Cause::AlreadyRunning { .. }, .. } => because(Cause::AlreadyRunning { pid: 17 }), Internal,
                "the DNS process in /run/privnet/dns runs already, with pid 17", "";
            Self { cause: Cause::OtherVersion { .. }, .. } => because(Cause::OtherVersion { spoken: 99, expected: 1 }), Internal,
                "the DNS process in /run/privnet/dns speaks version 99 of its protocol, this agent version 1", "";
            Self { cause: Cause::Silent { .. }, .. } => because(Cause::Silent { patience }), Internal,
                "the DNS process in /run/privnet/dns did not answer within 5 s", "";
            Self { cause: Cause::NotReady { .. }, .. } => because(Cause::NotReady { patience }), Internal,
                "the DNS process in /run/privnet/dns was not ready within 5 s", "";
            Self { cause: Cause::NotStarted { .. }, .. } => because(Cause::NotStarted { problem: problem() }), Internal,
                "the DNS process in /run/privnet/dns did not start: another process has the directory", "";
            Self { cause: Cause::EndedEarly, .. } => because(Cause::EndedEarly), Internal,
                "the DNS process in /run/privnet/dns ended before it was ready", "";
            Self { cause: Cause::Refused { .. }, .. } => because(Cause::Refused { problem: "no".to_owned() }), Internal,
                "the DNS process in /run/privnet/dns refused: no", "";
            Self { cause: Cause::Unreadable, .. } => because(Cause::Unreadable), Internal,
                "the DNS process in /run/privnet/dns sent an answer that cannot be read", "";
            Self { cause: Cause::OtherAnswer, .. } => because(Cause::OtherAnswer), Internal,
                "the DNS process in /run/privnet/dns sent the answer to another request", "";
            Self { cause: Cause::Kernel { .. }, .. } => because(Cause::Kernel { done: "started", source: full() }), Internal,
                "the DNS process in /run/privnet/dns cannot be started",
                "the disk is full: free space on the file system of /run/privnet/dns (`df -h` and `df -i` show how full it is)";
        ]
    }
}
