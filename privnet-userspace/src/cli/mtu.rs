//! `privnet mtu`: how large packets may be at each stage.

use serde::{Deserialize, Serialize};

use super::args::{Format, MtuArgs};
use super::client::Client;
use super::output::{print, table};
use crate::agent::Underlay;
use crate::api::{ControlError, ErrorCode};
use crate::model::Mtu;
use crate::model::mtu::{VXLAN_OVERHEAD_BYTES, WIREGUARD_OVERHEAD_BYTES};

/// The MTUs, and where the first of them comes from.
#[derive(Serialize)]
struct MtuView {
    #[serde(flatten)]
    mtu: Mtu,
    source: Source,
    #[serde(skip_serializing_if = "Option::is_none")]
    interface: Option<String>,
}

/// Where the underlay's MTU comes from.
#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
enum Source {
    /// The command line.
    Given,
    /// The running agent.
    Agent,
    /// The interface of this host's default route.
    DefaultRoute,
    /// Nothing: this host has no default route, and most underlays have the MTU of Ethernet (RFC 894).
    Assumed,
}

/// Prints the table: for the MTU that was given, else the agent's underlay, else that of the host's default route.
///
/// # Errors
/// When the underlay leaves no room, or the agent or the kernel cannot be asked.
pub async fn mtu(arguments: &MtuArgs, format: Format) -> Result<(), ControlError> {
    let (underlay, source, interface) = match arguments.underlay_mtu {
        Some(underlay) => (underlay, Source::Given, None),
        None => match underlay_of_agent(&Client::new(&arguments.agent.socket)).await? {
            Some(underlay) => (underlay, Source::Agent, None),
            None => underlay_of_host().await?,
        },
    };
    print(format, &MtuView { mtu: Mtu::from_underlay(underlay)?, source, interface }, mtu_table)
}

/// The part of the agent's state that says how large packets on the underlay may be.
#[derive(Deserialize)]
struct UnderlayStatus {
    underlay_mtu: Option<u32>,
}

async fn underlay_of_agent(client: &Client) -> Result<Option<u32>, ControlError> {
    match client.status_as::<UnderlayStatus>().await {
        Ok(status) => Ok(status.underlay_mtu),
        Err(error) if error.code == ErrorCode::AgentUnavailable => Ok(None),
        Err(error) => Err(error),
    }
}

async fn underlay_of_host() -> Result<(u32, Source, Option<String>), ControlError> {
    let underlay = Underlay::of_default_route().await.map_err(|error| {
        ControlError::new(ErrorCode::Internal, format!("{error:#}"), "give --underlay-mtu, which asks for nothing else")
    })?;
    let source = if underlay.interface.is_some() { Source::DefaultRoute } else { Source::Assumed };
    Ok((underlay.mtu, source, underlay.interface))
}

fn mtu_table(view: &MtuView) -> String {
    let row = |stage: &str, bytes: u32, why: String| vec![stage.to_owned(), bytes.to_string(), why];
    let MtuView { mtu, source, interface } = view;
    let underlay = match (source, interface) {
        (Source::Given, _) => "as given".to_owned(),
        (Source::Agent, _) => "as the agent of this host found it when it started".to_owned(),
        (Source::DefaultRoute, Some(interface)) => format!("of {interface}, which has the default route"),
        (Source::DefaultRoute | Source::Assumed, _) => {
            "assumed: no agent runs here, and this host has no default route".to_owned()
        }
    };
    table(
        &["STAGE", "MTU", "WHY"],
        [
            row("underlay", mtu.underlay, underlay),
            row("carrier", mtu.carrier, format!("less VXLAN over IPv4, {VXLAN_OVERHEAD_BYTES} bytes")),
            row("wireguard", mtu.wireguard, format!("less WireGuard over IPv4, {WIREGUARD_OVERHEAD_BYTES} bytes")),
        ],
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_source_of_the_underlays_mtu_is_said() {
        let mtu = Mtu::from_underlay(1300).expect("room enough");
        let said = |source, interface: Option<&str>| {
            mtu_table(&MtuView { mtu, source, interface: interface.map(str::to_owned) })
        };
        assert!(said(Source::DefaultRoute, Some("u0")).contains("underlay   1300  of u0, which has the default route"));
        assert!(said(Source::Assumed, None).contains("assumed"));
        assert!(!said(Source::Agent, None).contains("assumed"));
        let view = MtuView { mtu, source: Source::DefaultRoute, interface: Some("u0".to_owned()) };
        let json = serde_json::to_value(view).expect("serializable");
        assert_eq!(
            (&json["underlay"], &json["source"], &json["interface"]),
            (&1300.into(), &"default_route".into(), &"u0".into())
        );
    }
}
