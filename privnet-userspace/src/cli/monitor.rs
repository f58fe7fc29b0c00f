//! `privnet monitor`: the frames that the programs of this host drop, as they are dropped.

mod pcap;

use std::collections::BTreeSet;
use std::io::{self, ErrorKind, Write as _};

use self::pcap::Pcap;
use super::args::{Format, MonitorArgs};
use super::client::Client;
use super::human;
use crate::api::views::{DropLine, DropReason, DroppedFrame, DropsQuery, Explained, explained};
use crate::api::{ControlError, ErrorCode};

/// Prints drops until it is interrupted, the agent ends, or there were as many as were asked for.
///
/// # Errors
/// The agent's, or why it cannot be asked, or a file that cannot be written.
pub async fn monitor(arguments: MonitorArgs, format: Format) -> Result<(), ControlError> {
    let MonitorArgs { network, member, direction, reason, verbose, pcap, count, agent } = arguments;
    let file = pcap.map(Pcap::open).transpose()?;
    let query = DropsQuery { network, member, direction, reason };
    let mut lines = Client::new(&agent.socket).watch_drops(&query).await?;
    // What the file had is lost only once there is something to write.
    let mut pcap = file.map(Pcap::begin).transpose()?;
    let (mut shown, mut explained_reasons) = (0, BTreeSet::new());
    while let Some(line) = lines.next().await? {
        let frame = match &line {
            DropLine::Drop(frame) => Some(frame),
            DropLine::Watching { .. } | DropLine::NotShown { .. } | DropLine::Missed { .. } => None,
        };
        if let (Some(frame), Some(pcap)) = (frame, &mut pcap) {
            pcap.write(frame)?;
        }
        let is_read = match (format, frame) {
            (Format::Json, _) => print_line(&serde_json::to_string(&line).map_err(|error| unwritable(&error.into()))?)?,
            (Format::Table, Some(frame)) if verbose && explained_reasons.insert(frame.reason) => {
                print_line(&(frame_text(frame) + &reason_text(frame.reason)))?
            }
            (Format::Table, Some(frame)) => print_line(&frame_text(frame))?,
            (Format::Table, None) => {
                // Where stderr is gone, there is no place to say it.
                let _ = writeln!(io::stderr().lock(), "{}", said_beside(&line));
                true
            }
        };
        shown += u64::from(frame.is_some());
        if !is_read || count.is_some_and(|count| shown >= count.get()) {
            return Ok(());
        }
    }
    let message = "the agent has ended, and its drops are not watched any more";
    Err(ControlError::new(ErrorCode::AgentUnavailable, message, "start it, and watch again"))
}

/// Prints a line to stdout. Whether it is still read.
fn print_line(text: &str) -> Result<bool, ControlError> {
    let mut stdout = io::stdout().lock();
    match writeln!(stdout, "{text}").and_then(|()| stdout.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(unwritable(&error)),
    }
}

/// What is said about the drops, to a person.
fn said_beside(line: &DropLine) -> String {
    match line {
        DropLine::Watching { networks } if networks.is_empty() => {
            "watching: no network reports its drops on this host yet; each does as soon as it has members here (`privnet members`, \
             `privnet status`)"
                .to_owned()
        }
        DropLine::Watching { networks } => {
            let names: Vec<String> = networks.iter().map(ToString::to_string).collect();
            format!("watching {}", names.join(", "))
        }
        DropLine::NotShown { network_name, packets, .. } => format!(
            "{packets} more packets were dropped in {network_name}, of any member and reason; the metrics count them"
        ),
        DropLine::Missed { lines } => format!(
            "{lines} lines were lost because they were not read in time, also of drops that the filter leaves out; the metrics \
             count all"
        ),
        DropLine::Drop(frame) => frame_text(frame),
    }
}

fn frame_text(frame: &DroppedFrame) -> String {
    let DroppedFrame { network_name, member, reason, protocol, from, to, bytes, .. } = frame;
    let (time, direction) = (human::time(frame.unix_microseconds), frame.direction.name());
    let road = if from.is_empty() { String::new() } else { format!("  {from} > {to}") };
    format!("{time}  {network_name}  {member}  {direction}  {}{road}  {protocol}  {bytes} bytes", reason.name())
}

fn reason_text(reason: DropReason) -> String {
    let Explained { cause, remedy } = explained(reason);
    format!("\n    {}: {cause}\n    remedy: {remedy}", reason.name())
}

fn unwritable(error: &io::Error) -> ControlError {
    let message = format!("cannot write to stdout: {error}");
    ControlError::new(ErrorCode::Internal, message, "look where stdout leads to")
}
