//! What the plugins of container runtimes have in common: a container becomes a member under the runtime's name for it.

use std::collections::BTreeMap;
use std::path::Path;

use super::args::Format;
use super::client::Client;
use super::output;
use crate::api::identity::{Container, Identity};
use crate::api::views::{Attach, Attached, Attachment, CreateNetwork, NetworkPath, NetworkView, ProblemView, Target};
use crate::api::{ControlError, ErrorCode};
use crate::model::NetworkName;

/// What a runtime asks for.
pub struct Wish<'a> {
    /// Its name for it, and for the interface.
    pub attachment: Attachment,
    /// The container's namespace.
    pub netns: &'a Path,
    /// The network of privnet's: an id or a name.
    pub network: &'a str,
    /// Who the container is, by key, as far as anybody says.
    pub wishes: &'a BTreeMap<String, String>,
    /// What the container is called.
    pub container: String,
}

/// Makes a container a member. What does not work although it is one goes to stderr.
///
/// # Errors
/// The agent's, or what of the wishes cannot be.
pub async fn add(client: &Client, wish: Wish<'_>) -> Result<(NetworkView, Attached), ControlError> {
    let Wish { attachment, netns, network, wishes, container } = wish;
    let container = Container { name: container, ..Container::default() };
    let identity = Identity::of(wishes, &container).map_err(|sentence| {
        ControlError::new(ErrorCode::InvalidArgument, sentence, "correct the network's configuration")
    })?;
    let network = network_for(client, network).await?;
    let request = Attach {
        target: Target::Netns(netns.to_owned()),
        attachment: Some(attachment),
        ..identity.attach(network.id.to_string())
    };
    let attached = client.attach(&request).await?;
    for ProblemView { what, why, remedy } in &attached.problems {
        let problem = ControlError::new(ErrorCode::Internal, format!("{what}: {why}"), remedy.clone());
        output::print_error(Format::Table, &problem);
    }
    Ok((network, attached))
}

/// The network of this id or name; a name that no network has is a new network's, as with Docker.
///
/// # Errors
/// The agent's.
pub async fn network_for(client: &Client, id_or_name: &str) -> Result<NetworkView, ControlError> {
    let path = NetworkPath { network: id_or_name.to_owned() };
    match client.network(&path).await {
        Err(error) if error.code == ErrorCode::NetworkNotFound && id_or_name.parse::<NetworkName>().is_ok() => {}
        found => return found,
    }
    let request = CreateNetwork { name: id_or_name.to_owned(), subnet: None, mtu: None, names: None };
    match client.create_network(&request).await {
        // Another call made it a moment ago.
        Err(error) if error.code == ErrorCode::NetworkExists => client.network(&path).await,
        created => created,
    }
}

/// The address of a member with the prefix length of its network.
#[must_use]
pub fn address(network: &NetworkView, attached: &Attached) -> String {
    format!("{}/{}", attached.member.address, network.subnet.prefix_len())
}

/// The words after a keyword of the container's `resolv.conf`.
pub fn words<'a>(attached: &'a Attached, keyword: &str) -> impl Iterator<Item = &'a str> {
    let lines = attached.resolv_conf.as_deref().unwrap_or_default().lines();
    let values = lines.filter_map(move |line| line.strip_prefix(keyword)?.strip_prefix(' '));
    values.flat_map(str::split_whitespace)
}
