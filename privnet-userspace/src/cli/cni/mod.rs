//! The CNI plugin: the calls of a container runtime as requests to the agent.
//!
//! A runtime executes the plugin once for each call. Which call it is stands in the environment, the network's configuration
//! comes on stdin, the result or the error goes to stdout (the CNI specification, 1.1.0). The plugin keeps nothing: the agent
//! knows what it attached by the name `cni/<network>/<container>/<interface>`.
//!
//! | module | what it owns |
//! |---|---|
//! | `call` | what the environment says |
//! | `config` | what stdin says, and which keys there are |
//! | `outcome` | results, in the form of the version that the configuration names |
//! | `version` | the versions that are spoken |
//! | `failure` | errors, with the codes of the specification |

mod call;
mod config;
mod failure;
mod outcome;
mod version;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::Read as _;
use std::path::Path;
use std::process::ExitCode;

use serde_json::Value;

use self::call::{Call, Command};
use self::config::Config;
use self::failure::{Code, Failure};
use super::attachments::{self, Wish};
use super::client::Client;
use super::output;
use super::runtime::wait;
use crate::api::ControlError;
use crate::api::views::{Attachment, AttachmentView, EndAttachment, HostView, NetworkPath, ProblemView, StatusView};
use crate::model::{HostName, NetworkId};

/// The name under which a runtime executes the plugin.
const NAME: &str = "privnet-cni";

/// Whether this process was executed as the plugin, by its command line: under the plugin's name, or as `privnet cni`.
#[must_use]
pub fn is_meant(arguments: &[OsString]) -> bool {
    let name = arguments.first().and_then(|word| Path::new(word).file_name());
    name.is_some_and(|name| name == NAME) || arguments.get(1).is_some_and(|word| word == "cni")
}

/// Answers the call that this process was executed for.
pub fn run() -> ExitCode {
    let mut stdin = String::new();
    let read = std::io::stdin().read_to_string(&mut stdin);
    let version = version::version_of(&stdin);
    let answered =
        read.map_err(|error| Failure::new(Code::Io, format!("cannot read stdin: {error}"), "")).and_then(|_| {
            let environment = |name: &str| std::env::var(name).ok();
            wait(async { Ok(answer(environment, &stdin).await) })?
        });
    let (text, code) = match answered {
        Ok(Some(result)) => (format!("{result}\n"), ExitCode::SUCCESS),
        Ok(None) => (String::new(), ExitCode::SUCCESS),
        Err(failure) => (format!("{}\n", failure.as_json(version)), ExitCode::FAILURE),
    };
    match output::print_text(&text) {
        Ok(()) => code,
        Err(_) => ExitCode::FAILURE,
    }
}

async fn answer(environment: impl Fn(&str) -> Option<String>, stdin: &str) -> Result<Option<Value>, Failure> {
    let command = Command::of(&environment)?;
    if command == Command::Version {
        return Ok(Some(outcome::versions(stdin)));
    }
    let call = Call::of(command, &environment)?;
    let config = Config::read(command, stdin, &call)?;
    let client = Client::new(&config.socket);
    match command {
        Command::Add => add(&client, &call, &config).await.map(Some),
        Command::Del => end(&client, &call, &config).await.map(|()| None),
        Command::Check => check(&client, &call, &config).await.map(|()| None),
        Command::Gc => collect(&client, &config).await.map(|()| None),
        Command::Status => status(&client, &config).await.map(|()| None),
        Command::Version => Ok(None),
    }
}

async fn add(client: &Client, call: &Call, config: &Config) -> Result<Value, Failure> {
    // Behind other plugins the interface of the call is theirs.
    let interface = if config.previous.is_some() { config.interface.clone() } else { Some(call.interface.clone()) };
    let wish = Wish {
        attachment: Attachment { name: call.attachment(&config.name)?, interface },
        netns: &call.netns,
        network: &config.network,
        wishes: &config.wishes,
        container: config.container_name(call),
    };
    let (network, attached) = attachments::add(client, wish).await?;
    Ok(outcome::of_add(config, call, &network, &attached))
}

async fn end(client: &Client, call: &Call, config: &Config) -> Result<(), Failure> {
    client.end_attachment(&EndAttachment { name: call.attachment(&config.name)? }).await?;
    Ok(())
}

async fn check(client: &Client, call: &Call, config: &Config) -> Result<(), Failure> {
    let name = call.attachment(&config.name)?;
    let made = client.attachments().await?;
    let Some(made) = made.into_iter().find(|made| made.name == name) else {
        let what =
            format!("the container is no member of {}: it was never attached as {name}, or has ended", config.network);
        return Err(Failure::new(Code::NotAsMade, what, "start the container again"));
    };
    if !made.ready {
        // What fails comes first; what is only in the way fails nothing.
        return Err(made.problems.first().map_or_else(
            || Failure::new(Code::TryAgain, format!("{} is not ready", made.member.hostname), "see `privnet status`"),
            |ProblemView { what, why, remedy }| Failure::new(Code::NotAsMade, format!("{what}: {why}"), remedy.clone()),
        ));
    }
    outcome::compare(config, call, &made)
}

/// Ends what is attached in this network of the runtime's and not listed as valid.
async fn collect(client: &Client, config: &Config) -> Result<(), Failure> {
    let valid: BTreeSet<String> = config.valid.iter().map(|valid| valid.name(&config.name)).collect();
    let of_network = call::names_begin_with(&config.name);
    let is_left =
        |made: &AttachmentView| made.name.as_str().starts_with(&of_network) && !valid.contains(made.name.as_str());
    let mut failed = None;
    for AttachmentView { name, .. } in client.attachments().await?.into_iter().filter(is_left) {
        // Each is tried: one that does not go is no reason for others to stay.
        if let Err(error) = client.end_attachment(&EndAttachment { name }).await {
            failed = failed.or(Some(error));
        }
    }
    failed.map_or(Ok(()), |error| Err(error.into()))
}

/// Whether an ADD would be served now.
async fn status(client: &Client, config: &Config) -> Result<(), Failure> {
    let away = |error: &ControlError| Failure::new(Code::Unavailable, error.message.clone(), error.remedy.clone());
    let status = client.status().await.map_err(|error| away(&error))?;
    available(&status)?;
    takes_members(&client.hosts().await.map_err(|error| away(&error))?, &status.host)?;
    if config.network.parse::<NetworkId>().is_ok() {
        let path = NetworkPath { network: config.network.clone() };
        client.network(&path).await.map_err(|error| away(&error))?;
    }
    Ok(())
}

/// Refuses while the agent can attach nothing. Those that run go on without the store.
fn available(status: &StatusView) -> Result<(), Failure> {
    let Some(age) = status.store_age_seconds else { return Ok(()) };
    let code = if status.members_ready < status.members { Code::Limited } else { Code::Unavailable };
    let what = format!("the store does not answer, and did {age} s ago: nothing can be attached");
    Err(Failure::new(code, what, "see `privnet status`"))
}

/// Refuses while this host takes no new members, whatever its agent could do. Those that run go on.
fn takes_members(hosts: &[HostView], own: &HostName) -> Result<(), Failure> {
    let refused = |what: String, remedy: String| Err(Failure::new(Code::Unavailable, what, remedy));
    match hosts.iter().find(|host| host.name == *own) {
        None => refused(format!("the store does not know host {own}"), "see `privnet status`".to_owned()),
        Some(host) if host.draining => refused(
            format!("host {own} is drained: nothing is attached here"),
            format!("`privnet host drain {own} --cancel` takes members again"),
        ),
        Some(host) if host.members_unadopted > 0 => refused(
            format!("members of host {own} were attached by another instance of its agent: nothing is attached here"),
            "`privnet status` names them; `privnet host adopt` takes them over".to_owned(),
        ),
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests;
