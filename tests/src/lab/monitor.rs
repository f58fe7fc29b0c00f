//! What changes in a namespace, as `ip monitor` tells it.

use std::io::Read as _;
use std::process::{Child, Stdio};
use std::time::Duration;

use super::space::Space;
use super::wait::wait_until;

/// `ip monitor` in a namespace: every change of a link, an address, a route or a neighbour is a line.
pub struct Monitor {
    child: Child,
    label: String,
}

impl Monitor {
    /// Starts to listen.
    ///
    /// # Panics
    /// When `ip` does not start.
    #[must_use]
    pub fn start(space: &Space) -> Self {
        let mut command = space.command("ip -ts monitor link address route");
        let child = command.stdout(Stdio::piped()).spawn().expect("nsenter starts");
        let monitor = Self { child, label: space.pin().to_owned() };
        // It has no way to say that it listens; its socket shows when it does.
        wait_until("ip monitor listens", || {
            let fds = std::fs::read_dir(format!("/proc/{}/fd", monitor.child.id()));
            fds.is_ok_and(|fds| {
                fds.filter_map(Result::ok)
                    .filter_map(|fd| std::fs::read_link(fd.path()).ok())
                    .any(|target| target.to_string_lossy().starts_with("socket:"))
            })
        });
        std::thread::sleep(Duration::from_millis(20));
        monitor
    }

    /// Ends it; one line per change, with the namespace's label.
    ///
    /// # Panics
    /// When it had ended before.
    #[must_use]
    pub fn finish(mut self) -> Vec<String> {
        self.child.kill().expect("kill ip monitor");
        let mut text = String::new();
        self.child.stdout.take().expect("a pipe").read_to_string(&mut text).expect("text");
        self.child.wait().expect("the end of ip monitor");
        text.lines().map(|line| format!("{}: {line}", self.label)).collect()
    }
}
