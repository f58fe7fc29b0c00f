//! The project's tasks: `cargo xtask TASK`. One file per task; this one only dispatches.
//!
//! Tasks use none of the project's crates, so they build in seconds on a fresh clone.

#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a task talks to the person who started it")]

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod bench;
mod beside;
mod build;
mod deb;
mod debian;
mod environment;
mod lacks;
mod lanes;
mod listen;
mod messages;
mod object;
mod report;
mod run;
mod setup;
mod shell;
mod soak;
mod symbols;
mod test;
mod tidy;
mod toolchain;
mod vm;

/// The project's tasks.
#[derive(Parser)]
#[command(bin_name = "cargo xtask", version, disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Find or install what the tasks need, and say what and why; the other tasks do it by themselves
    Setup {
        /// The tasks to prepare for
        #[arg(value_enum, default_values_t = [setup::Purpose::Test])]
        purpose: Vec<setup::Purpose>,
    },
    /// Build the eBPF programs and the binaries that embed them, `privnet` and `privnet-demo`
    Build {
        /// Optimize, and leave the binaries stripped, each with its symbols beside it as `<binary>.debug`
        #[arg(long)]
        release: bool,
        /// Build the eBPF programs only
        #[arg(long, conflicts_with = "release")]
        ebpf_only: bool,
    },
    /// Build in the shortest time and run `privnet ARGS` as root; without ARGS: `privnet agent`
    Run {
        /// What to pass to `privnet`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Check the format, the lints and the house rules, and run all tests, those that need root too
    Test {
        /// Run only the tests whose name contains this, and no checks
        filter: Option<String>,
    },
    /// Build the Debian package, with the debug symbols in a second one
    Deb(deb::Arguments),
    /// Run what goes on for minutes: random frames, races, faults; each with a seed that repeats it
    Soak(soak::Arguments),
    /// Run the tests that need root in virtual machines, on Debian's oldest and newest kernel
    Vm(vm::Arguments),
    /// Check the house rules that no compiler checks
    Tidy {
        /// Record the present abi.rs as the layout of its `ABI_VERSION`
        #[arg(long)]
        accept_abi: bool,
    },
    /// Build for release and measure, as root
    Bench {
        /// What to pass to the benchmark
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
}

fn main() -> ExitCode {
    let done = match Arguments::parse().task {
        Task::Setup { purpose } => setup::task(&purpose),
        Task::Build { release, ebpf_only } => build::task(release, ebpf_only),
        Task::Run { args } => run::task(&args),
        Task::Test { filter } => return test::task(filter.as_deref()),
        Task::Deb(arguments) => deb::task(&arguments),
        Task::Soak(arguments) => return soak::task(&arguments),
        Task::Vm(arguments) => return vm::task(&arguments),
        Task::Tidy { accept_abi } => tidy::task(accept_abi),
        Task::Bench { args } => bench::task(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure(&error),
    }
}

fn failure(error: &anyhow::Error) -> ExitCode {
    eprintln!("xtask: {error:#}");
    ExitCode::FAILURE
}
