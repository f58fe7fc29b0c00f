//! Results, in the form of the version that the configuration names.

use ipnet::Ipv4Net;
use serde_json::{Map, Value, json};

use super::call::Call;
use super::config::Config;
use super::failure::{Code, Failure};
use super::version::{Version, version_of};
use crate::api::views::{Attached, AttachmentView, NetworkView};
use crate::cli::attachments::{address, words};

/// WireGuard has no MAC address; Podman wants one that it can read.
const NO_MAC: &str = "00:00:00:00:00:00";

/// What VERSION answers.
pub fn versions(stdin: &str) -> Value {
    let asked = version_of(stdin).unwrap_or(Version::NEWEST);
    let supported: Vec<&str> = Version::ALL.iter().map(|version| version.as_str()).collect();
    json!({ "cniVersion": asked.as_str(), "supportedVersions": supported })
}

/// What ADD answers: the result of the plugins before, with ours.
pub fn of_add(config: &Config, call: &Call, network: &NetworkView, attached: &Attached) -> Value {
    let mut result = config.previous.clone().unwrap_or_default();
    result.insert("cniVersion".to_owned(), config.version.as_str().into());
    let mut interface = json!({ "name": attached.interface, "mac": NO_MAC, "sandbox": call.netns });
    if config.version >= Version::V1_1_0 {
        interface["mtu"] = network.mtu.into();
    }
    let index = push(&mut result, "interfaces", interface);
    let mut ip = json!({ "address": address(network, attached), "interface": index });
    if config.version < Version::V1_0_0 {
        ip["version"] = "4".into();
    }
    push(&mut result, "ips", ip);
    if attached.resolv_conf.is_some() {
        let mut dns = result.get("dns").and_then(Value::as_object).cloned().unwrap_or_default();
        for (keyword, key) in [("nameserver", "nameservers"), ("search", "search"), ("options", "options")] {
            let before = dns.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
            let all: Vec<Value> = words(attached, keyword).map(Value::from).chain(before).collect();
            if !all.is_empty() {
                dns.insert(key.to_owned(), all.into());
            }
        }
        result.insert("dns".to_owned(), dns.into());
    }
    Value::Object(result)
}

/// Refuses an attachment that is not what the result says that ADD gave.
pub fn compare(config: &Config, call: &Call, made: &AttachmentView) -> Result<(), Failure> {
    let differs = |what: String| Err(Failure::new(Code::NotAsMade, what, "start the container again"));
    let told = config.previous.as_ref();
    let entries = |key: &str| told.and_then(|told| told.get(key)?.as_array()).into_iter().flatten();
    let (name, netns) = (made.interface.as_str(), call.netns.to_string_lossy());
    let is_ours = |found: &&Value| found["name"] == name && found["sandbox"].as_str() == Some(&netns);
    let index = entries("interfaces").position(|found| is_ours(&found));
    let Some(index) = index else {
        return differs(format!("the result of the attachment has no interface {name} in {netns}"));
    };
    let address = made.member.address;
    let is_address = |found: &Value| {
        let told = found["address"].as_str().and_then(|text| text.parse::<Ipv4Net>().ok());
        told.is_some_and(|told| told.addr() == address) && found["interface"].as_u64() == Some(index as u64)
    };
    if entries("ips").any(is_address) {
        return Ok(());
    }
    differs(format!("the address of {name} is {address}, and not what the result of the attachment says"))
}

/// Adds to a list of the result; returns the place there.
fn push(result: &mut Map<String, Value>, key: &str, value: Value) -> usize {
    let mut list = result.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
    list.push(value);
    let place = list.len() - 1;
    result.insert(key.to_owned(), list.into());
    place
}
