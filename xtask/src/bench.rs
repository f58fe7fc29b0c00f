//! `bench`: build for release and become the benchmark of the package `privnet-tests`, as root.

use anyhow::Result;

use crate::build::{self, Profile};
use crate::environment;
use crate::setup::{self, Purpose};
use crate::shell;
use crate::test::PRIVNET_BIN;

/// The task; returns only if something failed before the benchmark started.
///
/// # Errors
/// Something is missing or does not compile, or root cannot be reached.
pub fn task(args: &[String]) -> Result<()> {
    let toolchain = setup::ensure(Purpose::Bench)?;
    // Other servers of names, etcd, Docker and Podman are needed for these parts alone, which are left out unless they are named.
    let parts = [("dns", Purpose::BenchDns), ("fleet", Purpose::BenchFleet), ("runtimes", Purpose::BenchRuntimes)];
    for (part, purpose) in parts {
        if args.iter().any(|argument| argument.trim_start_matches("--only=").starts_with(part)) {
            setup::ensure(purpose)?;
        }
    }
    let object = build::programs(&toolchain)?;
    let privnet = build::privnet_with(&object, Profile::Release)?;
    let mut command = build::cargo("build", Profile::Release, &object);
    command.args(["--bin", "privnet-bench"]);
    let bench = build::binary_of(&mut command, "privnet-bench")?;
    let variables = [
        (PRIVNET_BIN, privnet.into()),
        ("PATH", environment::path_with_tools()),
        (environment::NEWER_PODMAN, environment::newer_podman()),
    ];
    let mut command = shell::as_root(&bench, &variables)?;
    shell::exec(command.args(args))
}
