//! What stdin says: the configuration of a network, with what the runtime adds to it.
//!
//! ```json
//! {
//!   "cniVersion": "1.0.0", "name": "shop", "type": "privnet-cni",
//!   "privnet": {"network": "shop", "app": "shop", "type": "web", "number": 1, "ports": {"http": 8080}}
//! }
//! ```
//!
//! `privnet` and all in it may be left out. The same object, without `network`, `socket` and `interface`, may come in
//! `runtimeConfig` and `args.cni`. A key that is not known is refused: it would be a wish that is not fulfilled.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::PathBuf;

use serde_json::{Map, Value};

use super::call::{self, Call, Command, is_name};
use super::failure::{Code, Failure};
use super::version::{Version, version_of};
use crate::api::identity::{PORT, WISHES};
use crate::model::IfName;

/// An attachment that the runtime still has.
pub struct Valid {
    container: String,
    interface: String,
}

impl Valid {
    /// What the agent knows it by.
    pub fn name(&self, network: &str) -> String {
        call::name_of(network, &self.container, &self.interface)
    }
}

/// What a call is told of its network.
pub struct Config {
    /// The version that the runtime speaks.
    pub version: Version,
    /// The runtime's name of the network.
    pub name: String,
    /// The network of privnet's: an id or a name.
    pub network: String,
    /// Where the agent listens.
    pub socket: PathBuf,
    /// Behind other plugins, how the interface is to be called; `wg<n>` when absent.
    pub interface: Option<IfName>,
    /// Who the container is, by key, as far as anybody says.
    pub wishes: BTreeMap<String, String>,
    /// The result of the plugins before, or, for CHECK, of the ADD.
    pub previous: Option<Map<String, Value>>,
    /// For GC, what is to stay.
    pub valid: Vec<Valid>,
}

/// Keys of a network's configuration that concern the runtime, or are read elsewhere.
const OF_RUNTIME: [&str; 4] = ["cniVersion", "name", "type", "capabilities"];
/// What the keys of the specification begin with that a runtime adds.
const OF_SPECIFICATION: &str = "cni.dev/";
const VALID: &str = "cni.dev/valid-attachments";
/// What a runtime adds with this capability: the annotations of a pod.
const ANNOTATIONS: &str = "io.kubernetes.cri.pod-annotations";
/// What the keys of labels and annotations begin with that are read.
const PREFIX: &str = "privnet.";

impl Config {
    /// Reads stdin.
    ///
    /// # Errors
    /// It is not what it should be; a DEL and a GC are refused only for what they need.
    pub fn read(command: Command, stdin: &str, call: &Call) -> Result<Self, Failure> {
        let value: Value = serde_json::from_str(stdin).map_err(|error| {
            Failure::new(Code::Decoding, format!("the configuration is no JSON: {error}"), "correct it")
        })?;
        let Value::Object(mut keys) = value else {
            return Err(Failure::new(Code::Decoding, "the configuration is no JSON object", "correct it"));
        };
        let version = version_for(command, version_of(stdin), keys.get("cniVersion"))?;
        let name = keys.get("name").and_then(Value::as_str).filter(|name| is_name(name)).map(str::to_owned);
        let name = name.ok_or_else(|| {
            let what = "the configuration has no name, or one that a network cannot have";
            Failure::new(Code::Configuration, what, "give it a name of letters, digits, '_', '.' and '-'")
        })?;
        let mut config = Self {
            version,
            network: name.clone(),
            name,
            socket: call.socket.clone(),
            interface: None,
            wishes: BTreeMap::new(),
            previous: needed(command, object(&mut keys, "prevResult"))?,
            valid: Vec::new(),
        };
        let mut own = needed(command, object(&mut keys, "privnet"))?.unwrap_or_default();
        if let Some(socket) = needed(command, text(&mut own, "privnet.", "socket"))? {
            config.socket = PathBuf::from(socket);
        }
        if let Some(network) = needed(command, text(&mut own, "privnet.", "network"))? {
            config.network = network;
        }
        match command {
            Command::Add => config.read_wishes(&mut keys, own, call)?,
            Command::Gc => config.valid = valid(keys.remove(VALID))?,
            Command::Check if config.previous.is_none() => {
                let what = "CHECK came without prevResult, the result of the ADD";
                return Err(Failure::new(Code::Configuration, what, "the container runtime gives it"));
            }
            Command::Check | Command::Del | Command::Status | Command::Version => {}
        }
        Ok(config)
    }

    /// What the container is called, where nothing says who it is.
    pub fn container_name(&self, call: &Call) -> String {
        let of_pod = call.arguments.get("K8S_POD_NAME").filter(|name| !name.is_empty()).cloned();
        of_pod.unwrap_or_else(|| call.container.chars().take(12).collect())
    }

    /// Who the container is: what is said later goes before what is said earlier.
    fn read_wishes(
        &mut self,
        keys: &mut Map<String, Value>,
        mut own: Map<String, Value>,
        call: &Call,
    ) -> Result<(), Failure> {
        if let Some(interface) = text(&mut own, "privnet.", "interface")? {
            let interface = interface.parse().map_err(|error| wrong("privnet.interface", error))?;
            self.interface = Some(interface);
            if self.previous.is_none() {
                let what = "privnet.interface is for a plugin behind others in a list";
                return Err(Failure::new(
                    Code::Configuration,
                    what,
                    "leave it out: the container runtime names the interface",
                ));
            }
        }
        self.wish("privnet.", own)?;
        let mut runtime = object(keys, "runtimeConfig")?.unwrap_or_default();
        let mut args = object(keys, "args")?.unwrap_or_default();
        let mut args = object(&mut args, "cni")?.unwrap_or_default();
        if let Some(annotations) = object(&mut runtime, ANNOTATIONS)? {
            self.label(ANNOTATIONS, annotations)?;
        }
        if let Some(labels) = args.remove("labels") {
            self.label("args.cni.labels", pairs(labels)?)?;
        }
        for (place, told) in [("args.cni", &mut args), ("runtimeConfig", &mut runtime)] {
            if let Some(told) = object(told, "privnet")? {
                self.wish(&format!("{place}.privnet."), told)?;
            }
            if let Some(addresses) = told.remove("ips").filter(|addresses| !is_empty(addresses)) {
                let address =
                    only(&addresses).ok_or_else(|| wrong(&format!("{place}.ips"), "expected one IPv4 address"))?;
                self.address(address);
            }
        }
        let told = |key: &str| call.arguments.get(key).filter(|value| !value.is_empty());
        for (argument, key) in [("PRIVNET_APP", "app"), ("PRIVNET_TYPE", "type"), ("PRIVNET_NUMBER", "number")] {
            self.wishes.extend(told(argument).map(|value| (format!("{PREFIX}{key}"), value.clone())));
        }
        if let Some(address) = told("IP") {
            self.address(address);
        }
        if told("MAC").is_some() || runtime.get("mac").is_some_and(|mac| !is_empty(mac)) {
            let what = "an interface of a private network has no MAC address";
            return Err(Failure::new(Code::Configuration, what, "leave it out"));
        }
        if runtime.get("portMappings").is_some_and(|ports| !is_empty(ports)) {
            let what = "a private network publishes no ports on the host";
            return Err(Failure::new(
                Code::Configuration,
                what,
                "take portMappings out of the capabilities, or use another network for them",
            ));
        }
        refuse_unknown(keys)
    }

    fn address(&mut self, address: &str) {
        let address = address.split('/').next().unwrap_or_default();
        self.wishes.insert(format!("{PREFIX}address"), address.to_owned());
    }

    /// Takes over an object of wishes, `place` is where it was.
    fn wish(&mut self, place: &str, mut told: Map<String, Value>) -> Result<(), Failure> {
        for (name, port) in object(&mut told, "ports")?.unwrap_or_default() {
            let port = scalar(port).ok_or_else(|| wrong(&format!("{place}ports.{name}"), "expected a port"))?;
            self.wishes.insert(format!("{PORT}{name}"), port);
        }
        for (key, value) in told {
            let wish = format!("{PREFIX}{key}");
            if !WISHES.contains(&wish.as_str()) {
                return Err(unsupported(
                    &format!("{place}{key}"),
                    &value,
                    "app, type, number, address and ports are known",
                ));
            }
            let value = scalar(value).ok_or_else(|| wrong(&format!("{place}{key}"), "expected a text or a number"))?;
            self.wishes.insert(wish, value);
        }
        Ok(())
    }

    /// Takes over labels and annotations; those of others are none of privnet's.
    fn label(&mut self, place: &str, told: Map<String, Value>) -> Result<(), Failure> {
        for (key, value) in told.into_iter().filter(|(key, _)| key.starts_with(PREFIX)) {
            if !WISHES.contains(&key.as_str()) && !key.starts_with(PORT) {
                return Err(unsupported(&key, &value, &format!("{}, {PORT}NAME are known", WISHES.join(", "))));
            }
            let value = scalar(value).ok_or_else(|| wrong(&format!("{key} of {place}"), "expected a text"))?;
            self.wishes.insert(key, value);
        }
        Ok(())
    }
}

/// Whether a version has a command.
fn knows(version: Version, command: Command) -> bool {
    match command {
        Command::Add | Command::Del | Command::Version => true,
        Command::Check => version >= Version::V0_4_0,
        Command::Gc | Command::Status => version >= Version::V1_1_0,
    }
}

fn version_for(command: Command, spoken: Option<Version>, named: Option<&Value>) -> Result<Version, Failure> {
    let all = Version::ALL.map(Version::as_str).join(", ");
    let refused = |what: String| Err(Failure::new(Code::Version, what, format!("set cniVersion to one of {all}")));
    match spoken {
        Some(version) if knows(version, command) => Ok(version),
        Some(version) => refused(format!("version {} of CNI has no such command", version.as_str())),
        None => refused(named.map_or_else(
            || "the configuration has no cniVersion".to_owned(),
            |named| format!("cniVersion {named} is not spoken here"),
        )),
    }
}

/// What an end can do without is no reason to refuse it: the configuration may have changed since the ADD, and a container whose
/// DEL fails is not removed.
fn needed<T: Default>(command: Command, read: Result<T, Failure>) -> Result<T, Failure> {
    match command {
        Command::Del | Command::Gc => Ok(read.unwrap_or_default()),
        Command::Add | Command::Check | Command::Status | Command::Version => read,
    }
}

/// Refuses what is left of a configuration when what is known was taken out.
fn refuse_unknown(keys: &Map<String, Value>) -> Result<(), Failure> {
    let is_unknown = |key: &str| !OF_RUNTIME.contains(&key) && !key.starts_with(OF_SPECIFICATION);
    match keys.iter().find(|(key, _)| is_unknown(key)) {
        None => Ok(()),
        Some((key, value)) if key == "ipam" => {
            Err(unsupported(key, value, "leave it out: privnet gives the addresses itself"))
        }
        Some((key, value)) => Err(unsupported(
            key,
            value,
            "leave it out: beside the keys of every network, `privnet` is known, with network, app, type, number, address, \
             ports, interface and socket",
        )),
    }
}

/// The value of a key that is an object or absent; takes it out.
fn object(keys: &mut Map<String, Value>, key: &str) -> Result<Option<Map<String, Value>>, Failure> {
    match keys.remove(key).filter(|value| !value.is_null()) {
        None => Ok(None),
        Some(Value::Object(found)) => Ok(Some(found)),
        Some(_) => Err(wrong(key, "expected an object")),
    }
}

/// The value of a key that is a text or absent; takes it out.
fn text(keys: &mut Map<String, Value>, place: &str, key: &str) -> Result<Option<String>, Failure> {
    match keys.remove(key).filter(|value| !value.is_null()) {
        None => Ok(None),
        Some(Value::String(found)) if !found.is_empty() => Ok(Some(found)),
        Some(_) => Err(wrong(&format!("{place}{key}"), "expected a text")),
    }
}

/// Whether a runtime says by this value of a capability that it has none to give.
fn is_empty(value: &Value) -> bool {
    value.is_null() || value.as_str().is_some_and(str::is_empty) || value.as_array().is_some_and(Vec::is_empty)
}

/// A text, or a number as one.
fn scalar(value: Value) -> Option<String> {
    if let Value::String(text) = value { Some(text) } else { value.as_number().map(ToString::to_string) }
}

/// `[{"key": …, "value": …}]`, as the conventions of CNI have labels.
fn pairs(labels: Value) -> Result<Map<String, Value>, Failure> {
    let pair = |label: &Value| Some((label.get("key")?.as_str()?.to_owned(), label.get("value")?.clone()));
    let found = labels.as_array().and_then(|labels| labels.iter().map(pair).collect());
    found.ok_or_else(|| wrong("args.cni.labels", r#"expected [{"key": …, "value": …}]"#))
}

/// The only text of a list.
fn only(list: &Value) -> Option<&str> {
    match list.as_array()?.as_slice() {
        [only] => only.as_str(),
        _ => None,
    }
}

fn valid(list: Option<Value>) -> Result<Vec<Valid>, Failure> {
    let list = list.ok_or_else(|| {
        let what = format!("GC came without {VALID}, what is to stay");
        Failure::new(Code::Configuration, what, "the container runtime gives it")
    })?;
    let one = |entry: &Value| {
        let text = |key: &str| entry.get(key)?.as_str().map(str::to_owned);
        Some(Valid { container: text("containerID")?, interface: text("ifname")? })
    };
    // A runtime that has none may write null.
    let found =
        if list.is_null() { Some(Vec::new()) } else { list.as_array().and_then(|l| l.iter().map(one).collect()) };
    found.ok_or_else(|| wrong(VALID, r#"expected [{"containerID": …, "ifname": …}]"#))
}

fn wrong(key: &str, why: impl Display) -> Failure {
    Failure::new(Code::Configuration, format!("{key} is not what it should be"), why.to_string())
}

/// The message names key and value, as the specification wants it.
fn unsupported(key: &str, value: &Value, remedy: &str) -> Failure {
    Failure::new(Code::UnsupportedField, format!("privnet-cni does not know {key}, which is {value}"), remedy)
}
