//! The first build, beside the set-up: the libraries of the host's side need nothing of it, and it waits for the network.
//!
//! cargo has no way to build the dependencies of a package alone. So it builds the binaries as if the eBPF programs were
//! there, and goes on for as long as it can without: all but our own packages. The real build then finds them done.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::environment;

/// How often to say how far it is.
const TELL: Duration = Duration::from_secs(15);
/// How often to look.
const GLANCE: Duration = Duration::from_millis(100);

/// A build of the libraries that goes on meanwhile; dropping this ends it.
pub struct Libraries {
    build: Child,
    /// What cargo says of it.
    log: PathBuf,
}

impl Libraries {
    /// Starts it, from the command that builds the binaries.
    ///
    /// # Errors
    /// cargo cannot be started.
    pub fn start(mut build: Command) -> Result<Self> {
        let folder = environment::root().join("target");
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let log = folder.join("libraries.log");
        let file = fs::File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        build.arg("--keep-going").stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
        let build = build.spawn().context("cannot start cargo")?;
        Ok(Self { build, log })
    }

    /// Waits until it can do no more, and says how far it is. What went wrong in it goes wrong in the real build again.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub fn wait(mut self) -> Result<()> {
        let mut told = Instant::now();
        while self.build.try_wait().context("cannot wait for cargo")?.is_none() {
            if told.elapsed() > TELL {
                let log = fs::read(&self.log).unwrap_or_default();
                eprintln!("    {} libraries begun", begun(&String::from_utf8_lossy(&log)));
                told = Instant::now();
            }
            thread::sleep(GLANCE);
        }
        Ok(())
    }
}

/// How many packages a build has begun to compile, from what cargo says of it.
fn begun(log: &str) -> usize {
    log.lines().filter(|line| line.trim_start().starts_with("Compiling ")).count()
}

impl Drop for Libraries {
    fn drop(&mut self) {
        // One that ended by itself cannot be ended, and has been waited for.
        let _ = self.build.kill();
        let _ = self.build.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_compiled_counts_and_what_cargo_says_besides_does_not() {
        let log = "    Updating crates.io index\n   Compiling syn v2.0.119\n   Compiling libc v0.2.191\nerror: failed to run\n";
        assert_eq!(begun(log), 2);
        assert_eq!(begun(""), 0);
    }
}
