//! The arguments of `privnet monitor`.

use std::num::NonZeroU64;
use std::path::PathBuf;

use clap::Args;
use clap::builder::{NonEmptyStringValueParser, PossibleValuesParser, TypedValueParser as _};

use super::socket::AgentSocket;
use crate::api::views::{Direction, DropReason};

/// What `monitor` accepts.
#[derive(Debug, Args)]
pub struct MonitorArgs {
    /// Only drops of this network (id or name).
    #[arg(long, value_name = "PN", value_parser = NonEmptyStringValueParser::new())]
    pub network: Option<String>,
    /// Only drops of this member of this host: its address, NUMBER.TYPE, or NUMBER.TYPE.APP; `unknown` for those that no
    /// member can be charged with. A member is shown by its oldest name.
    #[arg(long, value_name = "MEMBER", value_parser = NonEmptyStringValueParser::new())]
    pub member: Option<String>,
    /// Only frames that a member sent (out), or that were sent to one (in).
    #[arg(long, value_name = "DIRECTION", value_parser = direction())]
    pub direction: Option<Direction>,
    /// Only drops for this reason.
    #[arg(long, value_name = "REASON", value_parser = reason(), hide_possible_values = true)]
    pub reason: Option<DropReason>,
    /// Explain each reason when it first occurs: its cause, and what to do. JSON has names alone.
    #[arg(short, long)]
    pub verbose: bool,
    /// Also write the first 42 bytes of each frame to FILE, for Wireshark. An existing FILE is overwritten.
    #[arg(long, value_name = "FILE")]
    pub pcap: Option<PathBuf>,
    /// Stop after N drops.
    #[arg(long, value_name = "N")]
    pub count: Option<NonZeroU64>,
    /// The agent to ask.
    #[command(flatten)]
    pub agent: AgentSocket,
}

fn direction() -> impl clap::builder::TypedValueParser<Value = Direction> {
    let of_name = |name: String| Direction::ALL.into_iter().find(|direction| direction.name() == name);
    PossibleValuesParser::new(Direction::ALL.map(Direction::name))
        .try_map(move |name| of_name(name).ok_or("no direction"))
}

fn reason() -> impl clap::builder::TypedValueParser<Value = DropReason> {
    let of_name = |name: String| DropReason::ALL.iter().copied().find(|reason| reason.name() == name);
    let names = DropReason::ALL.iter().map(|reason| reason.name());
    PossibleValuesParser::new(names).try_map(move |name| of_name(name).ok_or("no reason"))
}
