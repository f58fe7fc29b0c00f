//! A machine's first serial line: commands in, their output and how they ended out.
//!
//! The other side is `src/bin/vm_init.rs`.

use std::cell::{Cell, RefCell};
use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::SOON;

/// What stands before a line of the machine's init.
const MARK: &str = "@@vm ";
/// How long a command may take, in seconds; the machine ends it then.
const LIMIT: u64 = 120;
/// How often to try what should hold soon.
const GLANCE: Duration = Duration::from_millis(100);

/// One machine.
pub struct Machine {
    /// From 1.
    pub number: usize,
    line: RefCell<BufReader<UnixStream>>,
    commands: Cell<u32>,
}

/// How a command ended.
#[derive(Clone, Debug)]
pub struct Ran {
    /// Whether its status was 0.
    pub is_well: bool,
    /// What it printed on both of its outputs.
    pub output: String,
}

impl Machine {
    pub(super) fn connect(folder: &Path, number: usize) -> Self {
        let path = folder.join(format!("line-{number}"));
        let start = Instant::now();
        let stream = loop {
            match UnixStream::connect(&path) {
                Ok(stream) => break stream,
                Err(error) => assert!(start.elapsed() < SOON, "machine {number} has no line: {error}"),
            }
            thread::sleep(GLANCE);
        };
        // A command is ended by the machine; silence beyond that is a machine that hangs.
        stream.set_read_timeout(Some(Duration::from_secs(LIMIT) + SOON)).expect("a timeout");
        Self { number, line: RefCell::new(BufReader::new(stream)), commands: Cell::new(0) }
    }

    /// The address on the underlay.
    #[must_use]
    pub fn address(&self) -> String {
        format!("192.0.2.{}", self.number)
    }

    /// Runs a script of one line.
    ///
    /// What it leaves running goes on, and must not hold its outputs.
    ///
    /// # Panics
    /// When the machine does not answer.
    #[must_use]
    pub fn run(&self, script: &str) -> Ran {
        assert!(!script.contains(['\n', '\t']), "a script is one line without tabs: {script}");
        self.commands.set(self.commands.get() + 1);
        let name = format!("command-{}", self.commands.get());
        self.say(&format!("{name}\t{LIMIT}\t/root\t/bin/sh\t-c\t{script}"));
        let mut output = String::new();
        loop {
            let line = self.hear();
            match line.strip_prefix(MARK) {
                None => output.push_str(&format!("{line}\n")),
                Some(said) => {
                    if let Some(how) = said.strip_prefix(&format!("end {name}: ")) {
                        let is_well = how.starts_with("ok,");
                        self.wait_until_ready();
                        return Ran { is_well, output: output.trim().to_owned() };
                    }
                }
            }
        }
    }

    /// Runs a script that must succeed; returns what it printed.
    ///
    /// # Panics
    /// When it fails.
    pub fn must(&self, script: &str) -> String {
        let Ran { is_well, output } = self.run(script);
        assert!(is_well, "machine {}: {script}\n{output}", self.number);
        output
    }

    /// Runs a script until it succeeds.
    ///
    /// # Panics
    /// When it does not within [`SOON`].
    pub fn soon(&self, script: &str) -> String {
        let start = Instant::now();
        loop {
            let Ran { is_well, output } = self.run(script);
            if is_well {
                return output;
            }
            assert!(start.elapsed() < SOON, "machine {}: {script}\nnot within {SOON:?}\n{output}", self.number);
            thread::sleep(GLANCE);
        }
    }

    /// Resets the machine as a power cut does: nothing is flushed, nothing is told. It comes up with its disk.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn cut_power(&self) {
        self.say("power-cut\t60\t/root\t/bin/sh\t-c\techo b > /proc/sysrq-trigger; sleep 60");
        self.wait_until_ready();
        self.configure();
    }

    /// Names the machine, gives it its address on the underlay and mounts its disk.
    pub(super) fn configure(&self) {
        let (number, address) = (self.number, self.address());
        self.must(&format!("mkdir -p /var/log && echo host-{number} > /proc/sys/kernel/hostname"));
        // udev would have found them.
        self.must("modprobe -a virtio_pci virtio_net virtio_blk");
        self.soon("test -e /sys/class/net/eth0");
        self.must(&format!("ip address add {address}/24 dev eth0 && ip link set eth0 up"));
        self.soon("test -b /dev/vda");
        self.must("mkdir -p /var/lib/privnet && mount -t ext4 /dev/vda /var/lib/privnet");
        self.watch("host", "");
    }

    /// Looks for the canary in a namespace that `enter` enters, from now on; once is enough.
    pub(super) fn watch(&self, name: &str, enter: &str) {
        let file = format!("/run/watch-{name}");
        self.must(&format!(
            "test -e {file} || setsid {enter} vm_talk watch {file} > /var/log/watch 2>&1 < /dev/null &"
        ));
        self.soon(&format!("test -s {file} || {{ cat /var/log/watch; false; }}"));
    }

    /// Where the canary was found outside of the containers, as `namespace: number of frames`, since it was last forgotten.
    #[must_use]
    pub fn canaries(&self) -> Vec<String> {
        let files = self.must("grep -H . $(ls -1d /run/watch-* | grep -v part)");
        let found = files.lines().filter_map(|line| {
            let (file, text) = line.split_once(':')?;
            let count = text.split_whitespace().nth(1)?;
            (count != "0")
                .then(|| format!("machine {}: {}: {count}", self.number, file.trim_start_matches("/run/watch-")))
        });
        found.collect()
    }

    /// Ends whatever looks for the canary, and looks for it in the host's own namespace only.
    pub fn forget_canaries(&self) {
        self.must("for file in /run/watch-*; do read -r process count < $file; kill $process; rm -f $file; done");
        self.watch("host", "");
    }

    pub(super) fn wait_until_ready(&self) {
        while self.hear().strip_prefix(MARK) != Some("ready") {}
    }

    fn say(&self, line: &str) {
        let mut stream = self.line.borrow_mut();
        let said = stream.get_mut().write_all(format!("{line}\n").as_bytes());
        said.unwrap_or_else(|error| panic!("machine {} does not listen: {error}", self.number));
    }

    fn hear(&self) -> String {
        let mut bytes = Vec::new();
        match self.line.borrow_mut().read_until(b'\n', &mut bytes) {
            Ok(0) => panic!("machine {} is gone", self.number),
            Ok(_) => String::from_utf8_lossy(&bytes).trim_end_matches(['\r', '\n']).to_owned(),
            Err(error) if error.kind() == ErrorKind::WouldBlock => panic!("machine {} hangs", self.number),
            Err(error) => panic!("machine {}: {error}", self.number),
        }
    }
}
