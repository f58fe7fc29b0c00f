//! `soak`: the long runs. `test` runs a small share of each; here each goes on for minutes, with a seed that repeats it.
//!
//! A run is a test that asks `tests/src/soak.rs` whether to go on. It prints its figures behind a mark.

use std::ffi::OsString;
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::build::{self, Profile};
use crate::messages::Executable;
use crate::report::{Reader, Report};
use crate::setup::{self, Purpose};
use crate::test::PRIVNET_BIN;
use crate::{environment, listen, shell};

/// How many seconds a run goes on.
const SECONDS: &str = "PRIVNET_SOAK_SECONDS";
/// What its random numbers come from.
const SEED: &str = "PRIVNET_SEED";
/// What a run takes besides its time: a lab is laid out and cleared, and some runs are several, one after the other.
const BESIDES: u32 = 16;
/// The folder of the package whose tests need root, and where a file of them is.
const LABS: (&str, &str) = ("tests", "tests/tests/");
/// The folder of the package whose unit tests are runs, and what their executable is called.
const UNIT_TESTS: (&str, &str) = ("privnet-userspace", "privnet");

/// A long run.
struct Run {
    /// What it is asked for by.
    name: &'static str,
    what: &'static str,
    /// Where its tests are: in a lab, as root, or beside the sources.
    file: &'static str,
    /// What the names of its tests have in common.
    filter: &'static str,
}

const RUNS: [Run; 10] = [
    Run {
        name: "frames",
        what: "the programs against the policy, frame by frame",
        file: "tests/tests/datapath_fuzz.rs",
        filter: "is_what_the_policy_says",
    },
    Run {
        name: "interfaces",
        what: "where frames come out of real interfaces",
        file: "tests/tests/datapath_redirects.rs",
        filter: "a_frame_comes_out_where_the_policy_says_or_nowhere",
    },
    Run {
        name: "agents",
        what: "forged frames while agents go and come",
        file: "tests/tests/security_host.rs",
        filter: "nothing_opens_while_the_agent_goes_and_comes_fifty_times",
    },
    Run {
        name: "kills",
        what: "agents that are killed within an attach",
        file: "tests/tests/lifecycle_agent.rs",
        filter: "an_agent_that_is_killed_within_attach",
    },
    Run {
        name: "hosts",
        what: "four hosts that lose the store, each other and their agents, and a store that loses keys",
        file: "tests/tests/lifecycle_four_hosts.rs",
        filter: "four_hosts_outlast_faults",
    },
    Run {
        name: "names",
        what: "names that are asked for while agents go and come",
        file: "tests/tests/names_agent.rs",
        filter: "twenty_agents_one_after_the_other_and_not_a_query_lost",
    },
    Run {
        name: "handover",
        what: "DNS processes that take over from each other under load",
        file: "tests/tests/names_process.rs",
        filter: "a_process_that_is_replaced_under_load_loses_no_query",
    },
    Run {
        name: "queries",
        what: "queries that are nearly right",
        file: "privnet-userspace/src/dns/tests/garbage.rs",
        filter: "a_bounded_time_of_fuzzing_finds_nothing",
    },
    Run {
        name: "claims",
        what: "claims that meet",
        file: "privnet-userspace/src/store/claims/tests/races.rs",
        filter: "store::claims::tests::races",
    },
    Run {
        name: "store",
        what: "a store that is killed while it commits",
        file: "privnet-userspace/src/store/embedded/tests/crash.rs",
        filter: "what_was_acknowledged_survives_a_kill_at_any_moment",
    },
];

/// Which runs, and how long.
#[derive(Args)]
pub struct Arguments {
    /// The runs whose name contains this; all of them without it
    name: Option<String>,
    /// What a run that failed has printed, to repeat it
    #[arg(long)]
    seed: Option<u64>,
    /// How long each test of a run goes on
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    minutes: u32,
}

/// The task. Its last line on stdout is the sum.
pub fn task(arguments: &Arguments) -> ExitCode {
    match all(arguments) {
        Ok(Report { passed, failed, skipped, .. }) => {
            for skip in &skipped {
                println!("skipped: {}: {}", skip.test, skip.missing);
            }
            println!("{passed} passed, {failed} failed, {} skipped", skipped.len());
            if failed == 0 && passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            println!("failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn all(arguments: &Arguments) -> Result<Report> {
    let runs = chosen(arguments.name.as_deref())?;
    let toolchain = setup::ensure(Purpose::Test)?;
    let object = build::programs(&toolchain)?;
    let privnet = build::privnet_with(&object, Profile::Dev)?;
    let built = build::executables(build::cargo("test", Profile::Dev, &object).arg("--no-run"))?;
    let mut variables = vec![
        (PRIVNET_BIN, privnet.into_os_string()),
        ("PATH", environment::path_with_tools()),
        (SECONDS, (arguments.minutes * 60).to_string().into()),
    ];
    variables.extend(arguments.seed.map(|seed| (SEED, seed.to_string().into())));
    let mut report = Report::default();
    for run in runs {
        shell::say(&format!("{}: {}, for {} minutes", run.name, run.what, arguments.minutes));
        let limit = BESIDES * 60 * (arguments.minutes + 1);
        report.add(run.start(&built, limit, &variables)?);
    }
    Ok(report)
}

/// The runs whose name contains a word.
fn chosen(name: Option<&str>) -> Result<Vec<&'static Run>> {
    let runs: Vec<&Run> = RUNS.iter().filter(|run| name.is_none_or(|name| run.name.contains(name))).collect();
    if runs.is_empty() {
        let known: Vec<String> = RUNS.iter().map(|run| format!("    {:<12} {}", run.name, run.what)).collect();
        bail!("no run has `{}` in its name; there are:\n{}", name.unwrap_or_default(), known.join("\n"));
    }
    Ok(runs)
}

impl Run {
    fn start(&self, built: &[Executable], limit_seconds: u32, variables: &[(&str, OsString)]) -> Result<Report> {
        let of_lab = self.file.strip_prefix(LABS.1).and_then(|file| file.strip_suffix(".rs"));
        let (package, stem) = of_lab.map_or(UNIT_TESTS, |stem| (LABS.0, stem));
        let folder = environment::root().join(package);
        let is_it = |built: &&Executable| {
            built.is_test && built.stem() == stem && built.manifest.parent() == Some(folder.as_path())
        };
        let test = built.iter().find(is_it).with_context(|| format!("the build gave no tests `{stem}`"))?;
        let timeout = environment::which("timeout").context("`timeout` of the coreutils is missing")?;
        let mut command = if of_lab.is_some() {
            shell::as_root(&timeout, variables)?
        } else {
            let mut command = Command::new(&timeout);
            command.envs(variables.iter().map(|(name, value)| (name, value)));
            command
        };
        command.args(["--foreground", "--kill-after=10", &limit_seconds.to_string()]).arg(&test.path);
        command.args(["--test-threads=1", "--nocapture", self.filter]).current_dir(&folder);
        let (mut reader, start) = (Reader::default(), Instant::now());
        listen::read(&mut command, &mut reader)?;
        let mut report = reader.report();
        report.times.push((self.name.to_owned(), start.elapsed()));
        Ok(report)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_run_has_its_tests_which_ask_whether_to_go_on() {
        for run in &RUNS {
            let path = run.file;
            let text = std::fs::read_to_string(environment::root().join(path)).expect("a file of tests");
            assert!(text.contains("Soak::"), "{path} asks nothing");
            let module = path.trim_end_matches(".rs").replace('/', "::");
            let is_there = text.lines().any(|line| line.contains("fn ") && line.contains(run.filter));
            assert!(is_there || module.ends_with(run.filter), "{path} has no test `{}`", run.filter);
        }
    }

    #[test]
    fn a_run_is_chosen_by_a_part_of_its_name_and_an_unknown_one_is_told_the_names() {
        assert_eq!(chosen(None).expect("all").len(), RUNS.len());
        assert_eq!(chosen(Some("claim")).expect("one").len(), 1);
        let told = chosen(Some("nothing")).err().expect("refused").to_string();
        assert!(told.contains("frames") && told.contains("claims that meet"), "{told}");
    }
}
