//! The plugin of netavark, which makes the networks of Podman from 4.5 on: its calls as requests to the agent.
//!
//! Podman executes it under the name of the network's driver, which is that of this binary, in a directory of plugins:
//! `create` with a network on stdin, `setup` and `teardown` with the path of a namespace and a container on stdin. The result
//! or the error goes to stdout (plugin-API.md of netavark, version 1.0.0).

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Read as _;
use std::path::Path;
use std::process::ExitCode;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::args::DEFAULT_SOCKET;
use super::attachments::{self, Wish};
use super::client::Client;
use super::output;
use super::runtime::wait;
use crate::api::identity::{PORT, WISHES};
use crate::api::views::{Attached, Attachment, EndAttachment};
use crate::model::{AttachmentName, IfName};

/// What the directory is called that runtimes have netavark's plugins in.
const DIRECTORY: &str = "netavark";
/// The version of the plugin's protocol.
const API_VERSION: &str = "1.0.0";
/// WireGuard has no MAC address.
const NO_MAC: &str = "00:00:00:00:00:00";

/// A container that is set up or torn down.
#[derive(Deserialize)]
struct Call {
    container_id: String,
    container_name: String,
    #[serde(default)]
    port_mappings: Option<Vec<Value>>,
    network: Network,
    network_options: Options,
}

#[derive(Deserialize)]
struct Network {
    name: String,
    #[serde(default)]
    options: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct Options {
    interface_name: IfName,
    #[serde(default)]
    static_ips: Option<Vec<String>>,
    #[serde(default)]
    static_mac: Option<String>,
    #[serde(default)]
    options: Option<BTreeMap<String, String>>,
}

/// Whether this process was executed as the plugin, by its command line.
#[must_use]
pub fn is_meant(arguments: &[OsString]) -> bool {
    let directory = arguments.first().and_then(|word| Path::new(word).parent()?.file_name());
    directory.is_some_and(|name| name == DIRECTORY)
}

/// Answers the call that this process was executed for.
#[must_use]
pub fn run(arguments: &[OsString]) -> ExitCode {
    let socket = std::env::var("PRIVNET_SOCKET").unwrap_or_else(|_| DEFAULT_SOCKET.to_owned());
    let client = Client::new(Path::new(&socket));
    let word = |place: usize| arguments.get(place).and_then(|word| word.to_str()).unwrap_or_default();
    let answered = wait(async { Ok(answer(&client, word(1), Path::new(word(2))).await) });
    let (text, code) = match answered.map_err(|error| error.sentence()).and_then(|answered| answered) {
        Ok(Some(result)) => (result.to_string(), ExitCode::SUCCESS),
        Ok(None) => (String::new(), ExitCode::SUCCESS),
        Err(error) => (json!({ "error": error }).to_string(), ExitCode::FAILURE),
    };
    match output::print_text(&text) {
        Ok(()) => code,
        Err(_) => ExitCode::FAILURE,
    }
}

async fn answer(client: &Client, command: &str, netns: &Path) -> Result<Option<Value>, String> {
    match command {
        "create" => {
            let (network, made) = created(read()?)?;
            attachments::network_for(client, &network).await.map_err(|error| error.sentence())?;
            Ok(Some(made.into()))
        }
        "setup" => setup(client, netns, read()?).await.map(Some),
        "teardown" => {
            let name = read::<Call>()?.attachment()?;
            client.end_attachment(&EndAttachment { name }).await.map_err(|error| error.sentence())?;
            Ok(None)
        }
        "info" | "" => Ok(Some(json!({ "version": env!("CARGO_PKG_VERSION"), "api_version": API_VERSION }))),
        other => Err(format!("{other:?} is no call of netavark's: create, setup, teardown and info are")),
    }
}

/// The private network of a network that Podman creates, and what Podman is to note: no addresses of its own, nor names.
fn created(mut network: Map<String, Value>) -> Result<(String, Map<String, Value>), String> {
    let has = |key: &str| network.get(key).and_then(Value::as_array).is_some_and(|list| !list.is_empty());
    if has("subnets") {
        return Err("privnet gives the addresses itself: leave --subnet and --ip-range out".to_owned());
    }
    if has("routes") || has("network_dns_servers") {
        return Err("a private network has no routes and no servers of others: leave --route and --dns out".to_owned());
    }
    if network.get("ipv6_enabled") == Some(&Value::Bool(true)) {
        return Err("a private network speaks IPv4 only: leave --ipv6 out".to_owned());
    }
    let own: Network = serde_json::from_value(network.clone().into()).map_err(|error| misunderstood(&error))?;
    own.wishes()?;
    network.insert("dns_enabled".to_owned(), false.into());
    network.insert("ipam_options".to_owned(), json!({ "driver": "none" }));
    Ok((own.network().to_owned(), network))
}

async fn setup(client: &Client, netns: &Path, call: Call) -> Result<Value, String> {
    let attachment = call.attachment()?;
    let mut wishes = call.network.wishes()?;
    wishes.extend(known(call.network_options.options.iter().flatten())?);
    if call.network_options.static_mac.is_some() {
        return Err("an interface of a private network has no MAC address: leave --mac-address out".to_owned());
    }
    match call.network_options.static_ips.as_deref() {
        None | Some([]) => {}
        Some(addresses) if addresses.iter().any(|address| address.contains(':')) => {
            return Err("a private network speaks IPv4 only: leave --ip6 out".to_owned());
        }
        Some([address]) => drop(wishes.insert("privnet.address".to_owned(), address.clone())),
        Some(_) => return Err("a member has one address in a private network: give one --ip".to_owned()),
    }
    if call.port_mappings.is_some_and(|ports| !ports.is_empty()) {
        let what = "note: Podman publishes ports (-p) by its own networks only: the container needs one of those too\n";
        let _ = std::io::Write::write_all(&mut std::io::stderr().lock(), what.as_bytes());
    }
    let interface = call.network_options.interface_name;
    let wish = Wish {
        attachment: Attachment { name: attachment, interface: Some(interface.clone()) },
        netns,
        network: call.network.network(),
        wishes: &wishes,
        container: call.container_name,
    };
    let (network, attached) = attachments::add(client, wish).await.map_err(|error| error.sentence())?;
    let address = attachments::address(&network, &attached);
    let made = json!({ "mac_address": NO_MAC, "subnets": [{ "ipnet": address }] });
    let (servers, searched) = names(&attached, &network.id.to_string());
    Ok(json!({
        "interfaces": { interface.as_str(): made },
        "dns_server_ips": servers,
        "dns_search_domains": searched,
    }))
}

/// What a network adds to the names of a container. The server is the same in all networks, and comes with the first one:
/// when a container leaves a network, Podman takes the servers that came with it out of the container's file.
fn names<'a>(attached: &'a Attached, network: &str) -> (Vec<&'a str>, Vec<&'a str>) {
    let (own, of_others): (Vec<&str>, Vec<&str>) =
        attachments::words(attached, "search").partition(|domain| domain.starts_with(network));
    let servers = if of_others.is_empty() { attachments::words(attached, "nameserver").collect() } else { Vec::new() };
    (servers, own)
}

impl Call {
    /// What the agent knows the attachment by.
    fn attachment(&self) -> Result<AttachmentName, String> {
        let interface = self.network_options.interface_name.as_str();
        let name = format!("podman/{}/{}/{interface}", self.network.name, self.container_id);
        name.parse().map_err(|error| format!("{error}"))
    }
}

impl Network {
    /// The network of privnet's: an id or a name.
    fn network(&self) -> &str {
        self.options.as_ref().and_then(|options| options.get("network")).unwrap_or(&self.name)
    }

    /// What all of its containers are.
    fn wishes(&self) -> Result<BTreeMap<String, String>, String> {
        known(self.options.iter().flatten().filter(|(key, _)| *key != "network"))
    }
}

/// Options as `app=demo`, or as Docker's plugin has them, `privnet.app=demo`.
fn known<'a>(options: impl Iterator<Item = (&'a String, &'a String)>) -> Result<BTreeMap<String, String>, String> {
    let wish = |(option, value): (&String, &String)| {
        let key = if option.starts_with("privnet.") { option.clone() } else { format!("privnet.{option}") };
        if WISHES.contains(&key.as_str()) || key.starts_with(PORT) {
            return Ok((key, value.clone()));
        }
        Err(format!(
            "{option:?} is no option of privnet's: app, type, number, address and port.NAME are, and network of podman \
             network create"
        ))
    };
    options.map(wish).collect()
}

fn read<T: DeserializeOwned>() -> Result<T, String> {
    let mut stdin = String::new();
    std::io::stdin().read_to_string(&mut stdin).map_err(|error| format!("cannot read stdin: {error}"))?;
    serde_json::from_str(&stdin).map_err(|error| misunderstood(&error))
}

fn misunderstood(error: &serde_json::Error) -> String {
    format!("this call of netavark's is not understood: {error}; see which versions docs/cni.md names")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(more: Value) -> Map<String, Value> {
        let mut network = json!({
            "name": "blue", "id": "a0d6", "driver": "privnet", "ipv6_enabled": false, "internal": false, "dns_enabled": true,
            "labels": {"team": "blue"},
        });
        network.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        network.as_object().expect("an object").clone()
    }

    #[test]
    fn a_network_that_podman_creates_has_no_addresses_and_names_of_podmans() {
        let (name, made) = created(network(json!({}))).expect("valid");
        assert_eq!(name, "blue");
        assert_eq!(Value::from(made), {
            let mut expected = network(json!({ "ipam_options": {"driver": "none"} }));
            expected.insert("dns_enabled".to_owned(), false.into());
            Value::from(expected)
        });
        let (name, _) = created(network(json!({ "options": {"network": "shop", "app": "demo"} }))).expect("valid");
        assert_eq!(name, "shop");
        for (more, said) in [
            (json!({ "subnets": [{"subnet": "10.1.0.0/24"}] }), "leave --subnet"),
            (json!({ "ipv6_enabled": true }), "leave --ipv6 out"),
            (json!({ "routes": [{}] }), "--route"),
            (json!({ "options": {"mtu": "9000"} }), "\"mtu\" is no option"),
        ] {
            let refused = created(network(more)).expect_err(said);
            assert!(refused.contains(said), "{refused}");
        }
    }

    #[test]
    fn the_directory_tells_the_plugin_from_the_command_line() {
        for (line, expected) in [
            ("/usr/lib/netavark/privnet setup /run/netns/a", true),
            ("/usr/bin/privnet create", false),
            ("privnet", false),
            ("", false),
        ] {
            let words: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
            assert_eq!(is_meant(&words), expected, "{line}");
        }
    }
}
