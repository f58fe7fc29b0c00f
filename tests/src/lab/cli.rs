//! The binary under test, as a user runs it.

use std::env;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use privnet::agent::{ControlError, ErrorCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::say;

/// The `privnet` binary: `PRIVNET_BIN`, else the one that was built beside this test or bench.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn binary() -> PathBuf {
    let path = env::var_os("PRIVNET_BIN").map_or_else(beside_the_test, PathBuf::from);
    let hint = "build it with cargo build, or name it in PRIVNET_BIN";
    path.canonicalize().unwrap_or_else(|error| panic!("{}: {error}; {hint}", path.display()))
}

fn beside_the_test() -> PathBuf {
    let own = env::current_exe().expect("the test's own path");
    let folder = own.parent().expect("a folder");
    // A test is target/<profile>/deps/<test>, the bench target/<profile>/privnet-bench.
    if folder.ends_with("deps") { folder.with_file_name("privnet") } else { folder.join("privnet") }
}

/// The command line with a control socket.
#[derive(Clone, Debug)]
pub struct Cli {
    label: String,
    socket: PathBuf,
    variables: Vec<(String, String)>,
}

#[derive(Deserialize)]
struct Failure {
    error: ControlError,
}

impl Cli {
    /// The command line that talks to the agent behind `socket`.
    #[must_use]
    pub fn new(label: &str, socket: PathBuf) -> Self {
        Self { label: label.to_owned(), socket, variables: Vec::new() }
    }

    /// The same, with a variable of the environment.
    #[must_use]
    pub fn with(mut self, variable: &str, value: String) -> Self {
        self.variables.push((variable.to_owned(), value));
        self
    }

    /// A command, not yet started.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        say(&format!("[{}] privnet {}", self.label, arguments.join(" ")));
        let mut command = Command::new(binary());
        command.args(arguments).env("PRIVNET_SOCKET", &self.socket).stdin(Stdio::null());
        command.envs(self.variables.iter().map(|(variable, value)| (variable, value)));
        command
    }

    /// Runs a command as it is.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn output(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("the binary starts")
    }

    /// Runs a command with `-o json` and reads what it prints.
    ///
    /// # Errors
    /// What it says on stderr.
    ///
    /// # Panics
    /// When it breaks its contract: an exit code other than 0, 1, and 3 for an outcome that is not known, or an output of
    /// another form.
    #[track_caller]
    pub fn json<T: DeserializeOwned>(&self, arguments: &[&str]) -> Result<T, ControlError> {
        let output = self.output(&[arguments, &["-o", "json"]].concat());
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        if output.status.success() {
            return Ok(serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}: {stdout}")));
        }
        assert_eq!(stdout, "", "an error prints nothing to stdout");
        let failure = failure(&stderr);
        let code = if failure.code == ErrorCode::OutcomeUnknown { 3 } else { 1 };
        assert_eq!(output.status.code(), Some(code), "{stderr}");
        Err(failure)
    }

    /// Runs a command that must succeed, and returns what it prints.
    ///
    /// # Panics
    /// When it fails.
    #[must_use]
    #[track_caller]
    pub fn text(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }
}

/// Reads an error as `-o json` prints it.
///
/// # Panics
/// When it is none, or lacks a message or a remedy.
#[must_use]
#[track_caller]
pub fn failure(stderr: &str) -> ControlError {
    let line = stderr.lines().rfind(|line| line.starts_with('{')).unwrap_or_else(|| panic!("no JSON in {stderr:?}"));
    let error = serde_json::from_str::<Failure>(line).unwrap_or_else(|error| panic!("{error}: {line}")).error;
    assert!(!error.message.is_empty() && !error.remedy.is_empty(), "{error:?}");
    say(&format!("    {:?}: {}; {}", error.code, error.message, error.remedy));
    error
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
