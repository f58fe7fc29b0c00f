//! What the environment says of a call.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::failure::{Code, Failure};
use crate::cli::args::DEFAULT_SOCKET;
use crate::model::ids::InvalidName;
use crate::model::{AttachmentName, IfName};

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Attach a container.
    Add,
    /// End an attachment.
    Del,
    /// Say whether an attachment is as it was made.
    Check,
    /// End the attachments that are not listed.
    Gc,
    /// Say whether a container could be attached.
    Status,
    /// Say which versions are spoken.
    Version,
}

impl Command {
    /// The one that the environment names.
    ///
    /// # Errors
    /// There is none, or none that is known.
    pub fn of(environment: &impl Fn(&str) -> Option<String>) -> Result<Self, Failure> {
        let named = environment("CNI_COMMAND").filter(|command| !command.is_empty());
        match named.as_deref() {
            Some("ADD") => Ok(Self::Add),
            Some("DEL") => Ok(Self::Del),
            Some("CHECK") => Ok(Self::Check),
            Some("GC") => Ok(Self::Gc),
            Some("STATUS") => Ok(Self::Status),
            Some("VERSION") => Ok(Self::Version),
            Some(other) => Err(Failure::new(
                Code::Environment,
                format!("CNI_COMMAND is {other:?}"),
                "ADD, DEL, CHECK, GC, STATUS and VERSION are known",
            )),
            None => Err(Failure::new(
                Code::Environment,
                "CNI_COMMAND is not set: this program is executed by container runtimes",
                "name privnet-cni as the type of a network in /etc/cni/net.d",
            )),
        }
    }
}

/// What a call is about. What a command does not need is empty.
#[derive(Clone, Debug)]
pub struct Call {
    /// The runtime's id of the container.
    pub container: String,
    /// Its namespace; a DEL may come without.
    pub netns: PathBuf,
    /// How the interface is to be called.
    pub interface: IfName,
    /// `CNI_ARGS`.
    pub arguments: BTreeMap<String, String>,
    /// Where the agent listens, unless the configuration says so.
    pub socket: PathBuf,
}

impl Call {
    /// Reads the environment.
    ///
    /// # Errors
    /// What a command needs is missing, or not what it should be.
    pub fn of(command: Command, environment: &impl Fn(&str) -> Option<String>) -> Result<Self, Failure> {
        let needed: &[&str] = match command {
            Command::Add | Command::Check => &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"],
            Command::Del => &["CNI_CONTAINERID", "CNI_IFNAME"],
            Command::Gc | Command::Status | Command::Version => &[],
        };
        let value = |name: &str| environment(name).unwrap_or_default();
        let missing: Vec<&str> = needed.iter().copied().filter(|name| value(name).is_empty()).collect();
        if !missing.is_empty() {
            let what = format!("{} is not set", missing.join(" and "));
            return Err(Failure::new(Code::Environment, what, "the container runtime sets it"));
        }
        let is_needed = |name: &str| needed.contains(&name);
        let container = value("CNI_CONTAINERID");
        if is_needed("CNI_CONTAINERID") && !is_name(&container) {
            let what = format!("CNI_CONTAINERID is {container:?}");
            let remedy = "it begins with a letter or digit, and goes on with these, '_', '.' and '-'";
            return Err(Failure::new(Code::Environment, what, remedy));
        }
        let interface = if is_needed("CNI_IFNAME") { value("CNI_IFNAME") } else { "wg0".to_owned() };
        let interface = interface.parse().map_err(|_| {
            let what = format!("CNI_IFNAME is {interface:?}");
            Failure::new(Code::Environment, what, "give 1 to 15 bytes without '/', ':' and white space")
        })?;
        // What a DEL has in its arguments is that of its ADD.
        let text = if command == Command::Add { value("CNI_ARGS") } else { String::new() };
        let socket = environment("PRIVNET_SOCKET").unwrap_or_else(|| DEFAULT_SOCKET.to_owned()).into();
        let netns = value("CNI_NETNS").into();
        Ok(Self { container, netns, interface, arguments: arguments(&text)?, socket })
    }

    /// What the agent knows the attachment by, in the runtime's network `network`.
    ///
    /// # Errors
    /// Network, container and interface are too long together.
    pub fn attachment(&self, network: &str) -> Result<AttachmentName, Failure> {
        let name = name_of(network, &self.container, self.interface.as_str());
        name.parse().map_err(|error: InvalidName| Failure::new(Code::Environment, error.to_string(), error.expected))
    }
}

/// What the agent knows an attachment by.
pub fn name_of(network: &str, container: &str, interface: &str) -> String {
    format!("{}{container}/{interface}", names_begin_with(network))
}

/// What the names of all attachments of a runtime's network begin with.
pub fn names_begin_with(network: &str) -> String {
    format!("cni/{network}/")
}

/// Whether a text is what the specification wants of the ids of containers and of the names of networks: it has no '/'.
pub fn is_name(text: &str) -> bool {
    let is_inside = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.chars().all(is_inside)
}

/// Of Kubernetes, and of runtimes that speak as it does.
const OF_KUBERNETES: &str = "K8S_POD_";
/// Those that are read.
const KNOWN: [&str; 5] = ["PRIVNET_APP", "PRIVNET_TYPE", "PRIVNET_NUMBER", "IP", "MAC"];
/// Which of the others are passed over, instead of refused.
const IGNORE: &str = "IgnoreUnknown";

/// `CNI_ARGS`: `KEY=VALUE;KEY=VALUE`.
fn arguments(text: &str) -> Result<BTreeMap<String, String>, Failure> {
    let mut found = BTreeMap::new();
    for pair in text.split(';').filter(|pair| !pair.is_empty()) {
        let Some((key, value)) = pair.split_once('=') else {
            let what = format!("CNI_ARGS has {pair:?}");
            return Err(Failure::new(Code::Environment, what, "write KEY=VALUE;KEY=VALUE"));
        };
        found.insert(key.to_owned(), value.to_owned());
    }
    let ignores = found.get(IGNORE).is_some_and(|value| matches!(&*value.to_lowercase(), "1" | "true" | "t"));
    let is_known = |key: &str| KNOWN.contains(&key) || key == IGNORE || key.starts_with(OF_KUBERNETES);
    match found.keys().find(|key| !is_known(key)) {
        Some(unknown) if !ignores => Err(Failure::new(
            Code::Environment,
            format!("CNI_ARGS has {unknown:?}, which privnet-cni does not know"),
            format!("leave it out, or set {IGNORE}=1: {} are known", KNOWN.join(", ")),
        )),
        Some(_) | None => Ok(found),
    }
}
