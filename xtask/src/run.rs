//! `run`: build what is soon built, and become `privnet`, as root.

use std::ffi::OsString;

use anyhow::Result;

use crate::build::{self, Profile};
use crate::setup::Purpose;
use crate::shell;

/// The task; returns only if something failed before `privnet` started.
///
/// # Errors
/// Something is missing or does not compile, or root cannot be reached.
pub fn task(args: &[String]) -> Result<()> {
    let binary = build::privnet(Purpose::Run, Profile::Quick)?;
    let mut command = shell::as_root(&binary, &[])?;
    if args.is_empty() {
        command.arg("agent");
    }
    shell::exec(command.args(args.iter().map(OsString::from)))
}
