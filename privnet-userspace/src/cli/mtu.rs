//! `privnet mtu`: how large packets may be at each stage.

use serde::Deserialize;

use super::args::{Format, MtuArgs};
use super::client::Client;
use super::output::{print, table};
use crate::api::{ControlError, ErrorCode};
use crate::model::Mtu;
use crate::model::mtu::{VXLAN_OVERHEAD_BYTES, WIREGUARD_OVERHEAD_BYTES};

/// What most underlays have (RFC 894).
const ETHERNET_MTU_BYTES: u32 = 1500;

/// Prints the table: for the MTU that was given, else the agent's underlay, else Ethernet.
///
/// # Errors
/// When the underlay leaves no room, or an agent is there and cannot be asked.
pub async fn mtu(arguments: &MtuArgs, format: Format) -> Result<(), ControlError> {
    let underlay = match arguments.underlay_mtu {
        Some(underlay) => underlay,
        None => underlay_of_agent(&Client::new(&arguments.agent.socket)).await?.unwrap_or(ETHERNET_MTU_BYTES),
    };
    let mtu = Mtu::from_underlay(underlay)?;
    print(format, &mtu, mtu_table)
}

/// The part of the agent's state that says how large packets on the underlay may be.
#[derive(Deserialize)]
struct Underlay {
    underlay_mtu: Option<u32>,
}

async fn underlay_of_agent(client: &Client) -> Result<Option<u32>, ControlError> {
    match client.status_as::<Underlay>().await {
        Ok(status) => Ok(status.underlay_mtu),
        Err(error) if error.code == ErrorCode::AgentUnavailable => Ok(None),
        Err(error) => Err(error),
    }
}

fn mtu_table(mtu: &Mtu) -> String {
    let row = |stage: &str, bytes: u32, why: String| vec![stage.to_owned(), bytes.to_string(), why];
    table(
        &["STAGE", "MTU", "WHY"],
        [
            row("underlay", mtu.underlay, "the hosts' own network".to_owned()),
            row("carrier", mtu.carrier, format!("less VXLAN over IPv4, {VXLAN_OVERHEAD_BYTES} bytes")),
            row("wireguard", mtu.wireguard, format!("less WireGuard over IPv4, {WIREGUARD_OVERHEAD_BYTES} bytes")),
        ],
    )
}
