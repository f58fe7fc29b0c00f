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
    let mut pcap = pcap.map(Pcap::create).transpose()?;
    let query = DropsQuery { network, member, direction, reason };
    let mut lines = Client::new(&agent.socket).watch_drops(&query).await?;
    let (mut shown, mut explained_reasons) = (0, BTreeSet::new());
    while let Some(line) = lines.next().await? {
        if let (DropLine::Drop(frame), Some(pcap)) = (&line, &mut pcap) {
            pcap.write(frame)?;
        }
        let is_explained = match &line {
            DropLine::Drop(frame) if verbose => !explained_reasons.insert(frame.reason),
            DropLine::Drop(_) | DropLine::Watching { .. } | DropLine::NotShown { .. } | DropLine::Missed { .. } => true,
        };
        if !print_line(format, &line, !is_explained)? {
            return Ok(());
        }
        shown += u64::from(matches!(line, DropLine::Drop(_)));
        if count.is_some_and(|count| shown >= count.get()) {
            return Ok(());
        }
    }
    let message = "the agent has ended, and its drops are not watched any more";
    Err(ControlError::new(ErrorCode::AgentUnavailable, message, "start it, and watch again"))
}

/// Prints a line; drops go to stdout, and what is said about them to stderr unless a program reads. Whether it is still read.
fn print_line(format: Format, line: &DropLine, with_reason: bool) -> Result<bool, ControlError> {
    let text = match (format, line) {
        (Format::Json, line) => serde_json::to_string(line).map_err(|error| unwritable(&error.into()))?,
        (Format::Table, DropLine::Drop(frame)) if with_reason => frame_text(frame) + &reason_text(frame.reason),
        (Format::Table, DropLine::Drop(frame)) => frame_text(frame),
        (Format::Table, DropLine::Watching { networks }) => {
            eprint_line(&watching_text(networks));
            return Ok(true);
        }
        (Format::Table, DropLine::NotShown { network_name, packets, .. }) => {
            eprint_line(&format!(
                "{packets} more packets were dropped in {network_name}, and are counted in its metrics"
            ));
            return Ok(true);
        }
        (Format::Table, DropLine::Missed { lines }) => {
            eprint_line(&format!("{lines} drops came too fast to be printed, and are counted in the metrics"));
            return Ok(true);
        }
    };
    let mut stdout = io::stdout().lock();
    match stdout.write_all((text + "\n").as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(unwritable(&error)),
    }
}

fn watching_text(networks: &[impl ToString]) -> String {
    let names: Vec<String> = networks.iter().map(ToString::to_string).collect();
    if names.is_empty() {
        "watching: no network has members on this host yet; drops of one that comes are shown".to_owned()
    } else {
        format!("watching {}", names.join(", "))
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

fn eprint_line(text: &str) {
    // Where stderr is gone, there is no place to say it.
    let _ = writeln!(io::stderr().lock(), "{text}");
}

fn unwritable(error: &io::Error) -> ControlError {
    let message = format!("cannot write to stdout: {error}");
    ControlError::new(ErrorCode::Internal, message, "look where stdout leads to")
}
