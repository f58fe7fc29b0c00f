//! A listener in a namespace of a machine, and what it keeps for the test to read: `vm_talk watch NAME`.
//!
//! A question is a number in [`QUESTION`]. A watcher that has taken every frame that was there when it read the number keeps
//! it: a test that finds it knows that nothing of before is still to be heard.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::IoSliceMut;
use std::os::fd::AsRawFd as _;
use std::str::FromStr;

use anyhow::{Context as _, Result, bail};
use nix::cmsg_space;
use nix::errno::Errno;
use nix::net::if_::if_indextoname;
use nix::sys::socket::{ControlMessageOwned, LinkAddr, MsgFlags, recvmsg, setsockopt, sockopt};
use nix::sys::time::TimeVal;

use super::{CANARY, IN_CLEAR};
use crate::lab::packet;

/// Where watchers keep what they heard, each in a file of its name.
pub(super) const FOLDER: &str = "/run/watch";
/// Where the number of the last question is.
pub(super) const QUESTION: &str = "/run/watch-question";
/// How long a watcher hears nothing before it looks for a question.
const PAUSE: TimeVal = TimeVal::new(0, 100_000);

/// What a watcher heard, in one line: the question that it answers, its process, how many frames it missed, and for each
/// word on each interface how many frames held it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Report {
    pub question: u64,
    pub process: u32,
    pub missed: u32,
    /// By word and interface.
    pub frames: BTreeMap<(String, String), u64>,
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {} {}", self.question, self.process, self.missed)?;
        self.frames.iter().try_for_each(|((word, interface), count)| write!(out, " {word}/{interface}/{count}"))
    }
}

impl FromStr for Report {
    type Err = anyhow::Error;

    fn from_str(line: &str) -> Result<Self> {
        let mut words = line.split_whitespace();
        let mut next = || words.next().with_context(|| format!("no report: {line:?}"));
        let mut report =
            Self { question: next()?.parse()?, process: next()?.parse()?, missed: next()?.parse()?, ..Self::default() };
        for found in words {
            let [word, interface, count] = found.split('/').collect::<Vec<_>>()[..] else {
                bail!("no report: {line:?}")
            };
            report.frames.insert((word.to_owned(), interface.to_owned()), count.parse()?);
        }
        Ok(report)
    }
}

/// Listens in the namespace of this process, for ever.
///
/// # Errors
/// It cannot listen, or not keep what it heard: the next question finds it dead.
pub fn watch(name: &str) -> Result<()> {
    let socket = packet::open().context("no packet socket")?;
    setsockopt(&socket, sockopt::RxqOvfl, &1).context("the kernel does not count what is missed")?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &PAUSE).context("no timeout")?;
    let mut report = Report { process: std::process::id(), ..Report::default() };
    let (mut buffer, mut control) = (vec![0; 1 << 16], cmsg_space!(u32));
    keep(name, &report)?;
    loop {
        let kept = report.clone();
        report.question = question();
        let mut flags = MsgFlags::empty();
        loop {
            let mut parts = [IoSliceMut::new(&mut buffer)];
            let message = match recvmsg::<LinkAddr>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags) {
                Ok(message) => message,
                Err(Errno::EAGAIN | Errno::EINTR) => break,
                Err(error) => return Err(error).context("cannot listen"),
            };
            // Only the first one is waited for.
            flags = MsgFlags::MSG_DONTWAIT;
            let (length, from) = (message.bytes, message.address.map_or(0, |address| address.ifindex()));
            for said in message.cmsgs().context("no control messages")? {
                if let ControlMessageOwned::RxqOvfl(missed) = said {
                    report.missed = missed;
                }
            }
            let frame = &buffer[..length];
            for word in [CANARY, IN_CLEAR].into_iter().filter(|word| holds(frame, word)) {
                *report.frames.entry((word.to_owned(), interface(from))).or_default() += 1;
            }
        }
        if report != kept {
            keep(name, &report)?;
        }
    }
}

/// Whether a frame holds a word.
#[must_use]
pub fn holds(frame: &[u8], word: &str) -> bool {
    frame.windows(word.len()).any(|window| window == word.as_bytes())
}

fn interface(index: usize) -> String {
    let name = u32::try_from(index).ok().and_then(|index| if_indextoname(index).ok());
    name.map_or_else(|| format!("interface-{index}-that-is-gone"), |name| name.to_string_lossy().into_owned())
}

/// 0 before the first one.
fn question() -> u64 {
    fs::read_to_string(QUESTION).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// Writes a file that is whole whenever somebody reads it.
fn keep(name: &str, report: &Report) -> Result<()> {
    let (part, file) = (format!("{FOLDER}/.{name}"), format!("{FOLDER}/{name}"));
    fs::write(&part, format!("{report}\n")).with_context(|| format!("cannot write {part}"))?;
    fs::rename(&part, &file).with_context(|| format!("cannot rename {part}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_reads_back() {
        let mut report = Report { question: 3, process: 77, missed: 1, ..Report::default() };
        assert_eq!(report.to_string().parse::<Report>().expect("a report"), report);
        report.frames.insert((CANARY.to_owned(), "eth0".to_owned()), 4);
        report.frames.insert((IN_CLEAR.to_owned(), "docker0".to_owned()), 5);
        assert_eq!(report.to_string().parse::<Report>().expect("a report"), report);
        "".parse::<Report>().expect_err("nothing");
        "1 2 3 eth0/4".parse::<Report>().expect_err("half of one");
    }
}
