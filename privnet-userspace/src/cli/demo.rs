//! `privnet demo`: two hosts in throw-away namespaces, and one request along the whole path.

use std::process::ExitCode;

use super::args::{DatapathChoice, DemoArgs, Format, WireguardChoice};
use crate::agent::{ControlError, ErrorCode};

/// What the demo is to do.
#[derive(Clone, Copy, Debug)]
pub struct DemoOptions {
    /// Who forwards packets.
    pub datapath: DatapathChoice,
    /// Who encrypts packets.
    pub wireguard: WireguardChoice,
    /// Whether to leave everything up, and print how to look around.
    pub keep: bool,
    /// How to print.
    pub format: Format,
}

impl DemoOptions {
    /// The options that the command line gave.
    #[must_use]
    pub fn new(arguments: &DemoArgs, format: Format) -> Self {
        Self { datapath: arguments.datapath, wireguard: arguments.wireguard, keep: arguments.keep, format }
    }
}

/// Runs the demo; succeeds only when all that it shows held.
///
/// # Errors
/// When it cannot be built.
pub fn run(_options: DemoOptions) -> Result<ExitCode, ControlError> {
    Err(ControlError::new(ErrorCode::Unsupported, "this build has no demo", "use a later one"))
}
