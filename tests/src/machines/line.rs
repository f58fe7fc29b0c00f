//! A machine's first serial line: commands in, their output and how they ended out.
//!
//! The other side is `src/bin/vm_init.rs`.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::watch::{FOLDER, QUESTION, Report};
use super::{COUNT, GLANCE, SOON};
use crate::lab::wait::holds_every;

/// What stands before a line of the machine's init.
const MARK: &str = "@@vm ";
/// How long a command may take, in seconds; the machine ends it then.
const LIMIT: u64 = 120;

/// The drivers of a machine's card and disk, each with the module that brings it where it is not built in.
const DRIVERS: [(&str, &str); 3] = [
    ("pci/drivers/virtio-pci", "virtio_pci"),
    ("virtio/drivers/virtio_net", "virtio_net"),
    ("virtio/drivers/virtio_blk", "virtio_blk"),
];

/// One machine.
pub struct Machine {
    /// From 1.
    pub number: usize,
    line: RefCell<BufReader<UnixStream>>,
    commands: Cell<u32>,
    containers: Cell<u8>,
    questions: Cell<u64>,
    /// What was heard before the power was cut.
    before: RefCell<Vec<Answer>>,
    /// What there was when the test began.
    at_start: RefCell<BTreeSet<String>>,
}

/// What a listener told.
struct Answer {
    /// Of the namespace.
    name: String,
    /// Whether it answered the last question.
    is_alive: bool,
    report: Report,
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
        let mut stream = UnixStream::connect(&path);
        holds_every(GLANCE, SOON, || {
            if stream.is_err() {
                stream = UnixStream::connect(&path);
            }
            stream.is_ok()
        });
        let stream = stream.unwrap_or_else(|error| panic!("machine {number} has no line: {error}"));
        // A command is ended by the machine; silence beyond that is a machine that hangs.
        stream.set_read_timeout(Some(Duration::from_secs(LIMIT) + SOON)).expect("a timeout");
        Self {
            number,
            line: RefCell::new(BufReader::new(stream)),
            commands: Cell::new(0),
            containers: Cell::new(0),
            questions: Cell::new(0),
            before: RefCell::default(),
            at_start: RefCell::default(),
        }
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
        let mut last = String::new();
        let holds = holds_every(GLANCE, SOON, || {
            let Ran { is_well, output } = self.run(script);
            last = output;
            is_well
        });
        assert!(holds, "machine {}: {script}\nnot within {SOON:?}\n{last}", self.number);
        last
    }

    /// Resets the machine as a power cut does: nothing is flushed, nothing is told. It comes up with its disk.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn cut_power(&self) {
        let answers = self.answers();
        self.before.borrow_mut().extend(answers);
        self.say("power-cut\t60\t/root\t/bin/sh\t-c\techo b > /proc/sysrq-trigger; sleep 60");
        self.wait_until_ready();
        self.configure();
    }

    /// Names the machine, gives it its address on the underlay and mounts its disk; makes the bridge of its containers, as
    /// Docker does, and ways for what they say in clear: to the containers of the other machines, and for the rest to
    /// whichever machine comes next, so that whatever leaves a container crosses the underlay.
    pub(super) fn configure(&self) {
        let (number, address) = (self.number, self.address());
        self.must(&format!("mkdir -p /var/log {FOLDER} && echo host-{number} > /proc/sys/kernel/hostname"));
        // udev would load what the kernel has as modules; what it has built in is there, with or without an index that says so.
        for (driver, module) in DRIVERS {
            self.must(&format!("test -e /sys/bus/{driver} || modprobe {module}"));
        }
        self.soon("test -e /sys/class/net/eth0");
        self.must(&format!("ip address add {address}/24 dev eth0 && ip link set eth0 up"));
        self.soon("test -b /dev/vda");
        self.must("mkdir -p /var/lib/privnet && mount -t ext4 /dev/vda /var/lib/privnet");
        let bridge = self.container_address(1);
        self.must(&format!(
            "ip link add docker0 type bridge && ip address add {bridge}/24 dev docker0 && ip link set docker0 up"
        ));
        let next = number % COUNT + 1;
        let others = (1..=COUNT).filter(|other| *other != number);
        let routes: String = others.map(|to| format!(" && ip route add 172.30.{to}.0/24 via 192.0.2.{to}")).collect();
        self.must(&format!(
            "echo 1 > /proc/sys/net/ipv4/ip_forward && ip route add default via 192.0.2.{next}{routes}"
        ));
        self.must(&format!("echo nameserver 192.0.2.{next} > /etc/resolv.conf"));
        self.watch("host", "");
    }

    /// The address that the `last`th container of this machine has on the bridge; the first is the bridge's own.
    fn container_address(&self, last: u8) -> String {
        format!("172.30.{}.{last}", self.number)
    }

    /// Gives a container an `eth0` on the bridge, with the route that leads everywhere; returns its address.
    pub(super) fn connect_container(&self, netns: &str) -> String {
        let count = self.containers.get() + 1;
        self.containers.set(count);
        let address = self.container_address(count + 1);
        let bridge = self.container_address(1);
        self.must(&format!(
            "ip link add con-{count} type veth peer name eth0 netns {netns} && ip link set con-{count} master docker0 up && \
             ip -n {netns} address add {address}/24 dev eth0 && ip -n {netns} link set eth0 up && \
             ip -n {netns} route add default via {bridge}"
        ));
        address
    }

    /// Listens in a namespace that `enter` enters, from now on; once is enough.
    pub(super) fn watch(&self, name: &str, enter: &str) {
        let file = format!("{FOLDER}/{name}");
        self.must(&format!(
            "test -e {file} || setsid {enter} vm_talk watch {name} > /var/log/watch-{name} 2>&1 < /dev/null &"
        ));
        self.soon(&format!("test -s {file} || {{ cat /var/log/watch-{name}; false; }}"));
    }

    /// Where a word was heard outside of the containers, as `namespace: interface: count`, since it was last forgotten; and
    /// which namespaces were not, or not well, listened to.
    #[must_use]
    pub(super) fn heard(&self, word: &str) -> Vec<String> {
        let mut heard = Vec::new();
        let answers = self.answers();
        for Answer { name, is_alive, report } in self.before.borrow().iter().chain(&answers) {
            let place = format!("machine {}: {name}", self.number);
            for ((_, interface), count) in report.frames.iter().filter(|((heard, _), _)| heard == word) {
                heard.push(format!("{place}: {interface}: {count} frames"));
            }
            if report.missed > 0 {
                heard.push(format!("{place}: the listener missed {} frames", report.missed));
            }
            if !is_alive {
                heard.push(format!("{place}: the listener died"));
            }
        }
        heard
    }

    /// Asks every listener for what it heard until now.
    fn answers(&self) -> Vec<Answer> {
        let question = self.questions.get() + 1;
        self.questions.set(question);
        self.must(&format!("echo {question} > {QUESTION}.part && mv {QUESTION}.part {QUESTION}"));
        let lines = self.soon(&format!(
            "cd {FOLDER}; for file in *; do read -r answer process rest < $file; \
             test $answer = {question} || ! kill -0 $process 2> /dev/null || exit 1; done; grep -H . *"
        ));
        let answer = |line: &str| {
            let (name, report) = line.split_once(':')?;
            let report: Report = report.parse().ok()?;
            Some(Answer { name: name.to_owned(), is_alive: report.question == question, report })
        };
        lines.lines().map(|line| answer(line).unwrap_or_else(|| panic!("machine {}: {line}", self.number))).collect()
    }

    /// Forgets what was heard, and ends the listeners outside of the host's own namespace.
    pub(super) fn forget(&self) {
        self.before.borrow_mut().clear();
        self.must(&format!(
            "cd {FOLDER}; for file in *; do read -r answer process rest < $file; kill $process; rm $file; done"
        ));
        self.watch("host", "");
    }

    /// Notes what there is, for [`Machine::left`].
    pub(super) fn look(&self) {
        *self.at_start.borrow_mut() = self.remains();
    }

    /// What there is now and was not when the test began.
    pub(super) fn left(&self) -> Vec<String> {
        let left = self.remains().difference(&self.at_start.borrow()).cloned().collect::<Vec<_>>();
        left.into_iter().map(|what| format!("machine {}: {what}", self.number)).collect()
    }

    /// What a test and the agent may leave: namespaces, pins, records of members, and processes that outlive the agent.
    fn remains(&self) -> BTreeSet<String> {
        let files = "ls -d /run/netns/* /sys/fs/bpf/privnet/*/* /var/lib/privnet/members/* 2> /dev/null";
        // Written so that it does not find itself.
        let processes = "grep -l -e '--run-[d]ir' /proc/[0-9]*/cmdline 2> /dev/null";
        self.must(&format!("{files}; {processes}; true")).lines().map(str::to_owned).collect()
    }

    /// Waits until the kernel has taken apart every namespace that is gone: one by one, so that the last one is ours. A device
    /// that cannot go holds them up, and the kernel says so.
    pub(super) fn settle(&self) {
        let veth = "ip link add last0 type veth peer name last1 netns last";
        self.must(&format!("ip netns add last && {veth} && ip netns delete last"));
        self.soon("! test -e /sys/class/net/last0");
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
