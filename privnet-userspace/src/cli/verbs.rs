//! The verbs that ask the agent one thing and print its answer.

use std::io;
use std::path::{Component, Path, PathBuf};

use super::args::{
    AgentSocket, AttachArgs, ContainerArgs, DetachArgs, FleetVerb, Format, MemberArgs, NameArgs, NetworkArgs,
    NetworkVerb,
};
use super::client::Client;
use super::hosts::unreachable_text;
use super::output::{fields, print, print_age, print_text, table};
use super::{docker, human};
use crate::api::views::{
    Attach, Attached, CreateNetwork, Detach, EndNetwork, EndedNetwork, MemberView, MembersQuery, NameView, NamesView,
    NetworkPath, NetworkView, ProblemView, ResolvConfFile, SetFleet, StatusView, Target, VersionView,
};
use crate::api::{ControlError, ErrorCode, exposition};
use crate::model::explain::file_system_remedy;
use crate::model::ids::ContainerNumber;
use crate::model::{AppName, MemberState, NameOptions, Port, counted};

/// Where `ip netns` keeps its namespaces (ip-netns(8)).
const IP_NETNS: &str = "/run/netns";

/// `privnet network`.
///
/// # Errors
/// The agent's, or why it cannot be asked.
pub async fn network(verb: NetworkVerb, format: Format) -> Result<(), ControlError> {
    match verb {
        NetworkVerb::Create { name, subnet, mtu, names, agent } => {
            let request = CreateNetwork { name, subnet, mtu, names: name_options(names) };
            let view = Client::new(&agent.socket).create_network(&request).await?;
            print(format, &view, network_fields)
        }
        NetworkVerb::List(agent) => {
            let client = Client::new(&agent.socket);
            let views = client.networks().await?;
            print(format, views.as_slice(), network_table)?;
            print_age(format, client.age());
            Ok(())
        }
        NetworkVerb::Show(arguments) => {
            let network = NetworkPath { network: arguments.network };
            let client = Client::new(&arguments.agent.socket);
            let view = client.network(&network).await?;
            print(format, &view, network_fields)?;
            print_age(format, client.age());
            Ok(())
        }
        NetworkVerb::Delete { network: NetworkArgs { network, agent }, force: true, yes } => {
            let ended = Client::new(&agent.socket).end_network(&EndNetwork { network, yes }).await?;
            let text = |ended: &EndedNetwork| format!("deleted, with {} members\n", ended.members_ended);
            print(format, &ended, text)
        }
        NetworkVerb::Delete { network: arguments, .. } => {
            let network = NetworkPath { network: arguments.network };
            let deleted = Client::new(&arguments.agent.socket).delete_network(&network).await?;
            print(format, &deleted, |_| "deleted\n".to_owned())
        }
    }
}

/// `privnet fleet`.
///
/// # Errors
/// The agent's, or why it cannot be asked.
pub async fn fleet(verb: FleetVerb, format: Format) -> Result<(), ControlError> {
    let view = match verb {
        FleetVerb::Show(agent) => Client::new(&agent.socket).fleet().await?,
        FleetVerb::Set { vxlan_port, agent } => Client::new(&agent.socket).set_fleet(&SetFleet { vxlan_port }).await?,
    };
    print(format, &view, |view| {
        fields(&[
            ("id", view.id.to_string()),
            ("epoch", view.epoch.to_string()),
            ("vxlan_port", view.vxlan_port.to_string()),
        ])
    })
}

/// What was asked for; nothing when it was nothing.
fn name_options(arguments: NameArgs) -> Option<NameOptions> {
    let NameArgs { ttl, negative_ttl, forward } = arguments;
    let default = NameOptions::default();
    let options = NameOptions {
        ttl_seconds: ttl.unwrap_or(default.ttl_seconds),
        negative_ttl_seconds: negative_ttl.unwrap_or(default.negative_ttl_seconds),
        forwarding: forward.unwrap_or_default(),
    };
    (!options.is_default()).then_some(options)
}

/// `privnet attach`.
///
/// # Errors
/// The agent's, or why it cannot be asked, or why the container cannot be found.
pub async fn attach(arguments: AttachArgs, format: Format) -> Result<(), ControlError> {
    let target = find_container(arguments.container).await?;
    let file = arguments.resolv_conf.as_deref().map(resolv_conf_file).transpose()?;
    let request = attach_request(arguments.member, arguments.address, &arguments.ports, target);
    let request = Attach { resolv_conf: file.clone(), ..request };
    let mut attached = Client::new(&arguments.agent.socket).attach(&request).await?;
    if let Some(file) = file.filter(|file| file.by_caller) {
        attached.problems.extend(write_resolv_conf(&file.path, &attached));
    }
    print(format, &attached, attached_fields)
}

/// The file of `--resolv-conf`. Root has the agent write it, which keeps what stands there; any other user writes it here.
fn resolv_conf_file(path: &Path) -> Result<ResolvConfFile, ControlError> {
    // A relative path means something in this process's directory, and nothing in the agent's.
    let path = std::path::absolute(path).map_err(|error| {
        let message = format!("cannot make {} absolute: {error}", path.display());
        ControlError::new(ErrorCode::InvalidArgument, message, "give the path of the container's resolv.conf")
    })?;
    let by_caller = !rustix::process::geteuid().is_root();
    // A file that is not there, or is no text, names no servers.
    let before = if by_caller { std::fs::read_to_string(&path).ok() } else { None };
    Ok(ResolvConfFile { path, by_caller, before })
}

/// Writes the container's `resolv.conf`, in place: it may be mounted into a container already. Returns why not.
fn write_resolv_conf(path: &Path, attached: &Attached) -> Option<ProblemView> {
    let what = path.display().to_string();
    // The agent says why it must not be written.
    let text = attached.resolv_conf.as_ref().filter(|_| attached.problems.iter().all(|known| known.what != what))?;
    let error = std::fs::write(path, text).err()?;
    let remedy = file_system_remedy(&error, &what);
    let remedy = remedy.unwrap_or_else(|| "give another --resolv-conf, and attach again".to_owned());
    Some(ProblemView { what, why: format!("cannot write it: {error}"), remedy })
}

/// The request to attach `member`.
pub(super) fn attach_request(
    member: MemberArgs,
    address: Option<std::net::Ipv4Addr>,
    ports: &[Port],
    target: Target,
) -> Attach {
    let MemberArgs { network, app, kind, number } = member;
    let number = number.map(ContainerNumber::get);
    let ports = ports.iter().map(ToString::to_string).collect();
    Attach { network, app, kind, number, address, target, ports, resolv_conf: None, attachment: None }
}

async fn find_container(arguments: ContainerArgs) -> Result<Target, ControlError> {
    match arguments {
        ContainerArgs { netns: Some(netns), .. } => netns_path(&netns).map(Target::Netns).map_err(|error| {
            let message = format!("cannot make {} absolute: {error}", netns.display());
            ControlError::new(ErrorCode::NetnsNotFound, message, "give the path of a network namespace")
        }),
        ContainerArgs { pid: Some(pid), .. } => Ok(Target::Pid(pid)),
        ContainerArgs { container: Some(name), .. } => docker::find_process(&name).await.map(Target::Pid),
        ContainerArgs { netns: None, pid: None, container: None } => Err(ControlError::new(
            ErrorCode::InvalidArgument,
            "no container is named",
            "give one of --netns, --pid and --container",
        )),
    }
}

/// The path of a network namespace. A word without `/` is a name of `ip netns`; another relative path means something in
/// this process's directory, and nothing in the agent's.
fn netns_path(netns: &Path) -> io::Result<PathBuf> {
    let mut components = netns.components();
    match (components.next(), components.next()) {
        (Some(Component::Normal(name)), None) if name == netns.as_os_str() => Ok(Path::new(IP_NETNS).join(name)),
        (_, _) => std::path::absolute(netns),
    }
}

/// `privnet detach`.
///
/// # Errors
/// The agent's, or why it cannot be asked.
pub async fn detach(arguments: DetachArgs, format: Format) -> Result<(), ControlError> {
    let request = Detach { drain: arguments.drain, force: arguments.force, ..detach_request(arguments.member) };
    let detached = Client::new(&arguments.agent.socket).detach(&request).await?;
    print(format, &detached, |done| {
        let first = if done.detached { "detached\n" } else { "was not attached\n" };
        first.to_owned() + &fields(&problem_rows(&done.problems))
    })
}

/// The request to detach `member`.
pub(super) fn detach_request(member: MemberArgs) -> Detach {
    let MemberArgs { network, app, kind, number } = member;
    let number = number.map(ContainerNumber::get);
    Detach { network, app, kind, number, drain: false, force: false }
}

/// `privnet members`.
///
/// # Errors
/// The agent's, or why it cannot be asked.
pub async fn members(network: Option<String>, agent: &AgentSocket, format: Format) -> Result<(), ControlError> {
    let client = Client::new(&agent.socket);
    let views = client.members(&MembersQuery { network }).await?;
    print(format, views.as_slice(), member_table)?;
    print_age(format, client.age());
    Ok(())
}

/// `privnet status`.
///
/// # Errors
/// The agent's, or why it cannot be asked.
pub async fn status(agent: &AgentSocket, format: Format) -> Result<(), ControlError> {
    let view = Client::new(&agent.socket).status().await?;
    print(format, &view, status_fields)
}

/// `privnet metrics`: the agent's Prometheus text, or its samples as JSON.
///
/// # Errors
/// The agent's, or why it cannot be asked.
pub async fn metrics(agent: &AgentSocket, format: Format) -> Result<(), ControlError> {
    let text = Client::new(&agent.socket).metrics().await?;
    match format {
        Format::Table => print_text(&text),
        Format::Json => print(format, exposition::parse(&text)?.as_slice(), |_| String::new()),
    }
}

/// `privnet version`.
///
/// # Errors
/// When stdout cannot be written.
pub fn version(format: Format) -> Result<(), ControlError> {
    print(format, &VersionView::of_this_binary(), |view| {
        fields(&[
            ("version", view.version.clone()),
            ("abi_version", view.abi_version.to_string()),
            ("build_profile", view.build_profile.to_string()),
        ])
    })
}

fn network_fields(view: &NetworkView) -> String {
    fields(&[
        ("id", view.id.to_string()),
        ("name", view.name.to_string()),
        ("vni", view.vni.to_string()),
        ("subnet", view.subnet.to_string()),
        ("mtu", view.mtu.to_string()),
        ("addresses", format!("{} of {}", view.addresses_used, view.addresses_max)),
        ("ttl", ttl_field(&view.names)),
        ("forward", view.names.forwarding.to_string()),
        ("created", human::date(view.created_unix_seconds)),
    ])
}

fn ttl_field(names: &NameOptions) -> String {
    let (ttl, negative) =
        (human::duration(names.ttl_seconds.into()), human::duration(names.negative_ttl_seconds.into()));
    format!("{ttl}, negative ttl {negative}")
}

fn network_table(views: &[NetworkView]) -> String {
    let row = |view: &NetworkView| {
        vec![
            view.name.to_string(),
            view.id.to_string(),
            view.vni.to_string(),
            view.subnet.to_string(),
            view.mtu.to_string(),
            format!("{}/{}", view.addresses_used, view.addresses_max),
        ]
    };
    table(&["NAME", "ID", "VNI", "SUBNET", "MTU", "ADDRESSES"], views.iter().map(row))
}

fn attached_fields(view: &Attached) -> String {
    let member = &view.member;
    let mut rows = vec![
        ("network", view.network.to_string()),
        ("app", app_text(member.app_name.as_ref(), &member.app.to_string())),
        ("type", member.kind.to_string()),
        ("number", member.number.to_string()),
        ("address", member.address.to_string()),
        ("hostname", member.hostname.clone()),
        ("interface", view.interface.to_string()),
        ("ready", view.ready.to_string()),
    ];
    rows.extend(view.env.iter().map(|(name, value)| ("env", format!("{name}={value}"))));
    rows.extend(problem_rows(&view.problems));
    fields(&rows)
}

fn problem_rows(problems: &[ProblemView]) -> Vec<(&'static str, String)> {
    let row = |ProblemView { what, why, remedy }: &ProblemView| ("problem", format!("{what}: {why} ({remedy})"));
    problems.iter().map(row).collect()
}

/// An app as a person gave it, with the id that follows from a name.
fn app_text(name: Option<&AppName>, id: &str) -> String {
    name.map_or_else(|| id.to_owned(), |name| format!("{name} ({id})"))
}

/// A line for each name; several with one address are those of one member.
fn member_table(views: &[MemberView]) -> String {
    let row = |view: &MemberView, name: &NameView| {
        let member = &name.name;
        vec![
            view.network_name.to_string(),
            member.app_name.as_ref().map_or_else(|| member.app.to_string(), ToString::to_string),
            member.kind.to_string(),
            member.number.to_string(),
            member.address.to_string(),
            view.host.to_string(),
            match (view.unreachable_since_unix_seconds, name.state) {
                (Some(since), _) => unreachable_text(since),
                (None, MemberState::Attaching) => "attaching".to_owned(),
                (None, MemberState::Ready) => "ready".to_owned(),
                (None, MemberState::Draining) => "draining".to_owned(),
            },
            view.interface.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string),
        ]
    };
    let rows =
        views.iter().flat_map(|view| names_of(view).into_iter().map(|name| row(view, &name)).collect::<Vec<_>>());
    table(&["NETWORK", "APP", "TYPE", "NUMBER", "ADDRESS", "HOST", "STATE", "INTERFACE"], rows)
}

/// A member's names. An agent of a build before further names tells the oldest alone.
fn names_of(view: &MemberView) -> Vec<NameView> {
    if !view.names.is_empty() {
        return view.names.clone();
    }
    vec![NameView { name: view.member.clone(), state: view.state, ports: [].into() }]
}

fn names_field(names: &NamesView) -> String {
    let age =
        names.age_seconds.map_or_else(|| "none".to_owned(), |seconds| format!("{} old", human::duration(seconds)));
    let NamesView { address, containers, members, networks, .. } = names;
    format!(
        "at {address} in {}; {} of {}, {age}",
        counted(*containers, "container"),
        counted(*members, "member"),
        counted(*networks, "network")
    )
}

fn store_field(view: &StatusView) -> String {
    let age = view.store_age_seconds.map(|age| format!(", answered last {} ago", human::duration(age)));
    format!("{}{}", view.store, age.unwrap_or_default())
}

fn status_fields(view: &StatusView) -> String {
    let pass = view.last_pass_unix_seconds;
    let mut rows = vec![
        ("version", view.version.clone()),
        ("host", view.host.to_string()),
        ("vtep", view.vtep.to_string()),
        ("datapath", view.datapath.to_string()),
        ("wireguard", view.wireguard.to_string()),
        ("store", store_field(view)),
        ("networks", view.networks.to_string()),
        ("members", format!("{} ({} ready)", view.members, view.members_ready)),
        ("last pass", pass.map_or_else(|| "none yet".to_owned(), human::date_and_age)),
    ];
    if view.hosts > 1 {
        let names: Vec<String> = view.hosts_unreachable.iter().map(ToString::to_string).collect();
        let unreachable = if names.is_empty() { String::new() } else { format!(", unreachable: {}", names.join(" ")) };
        rows.push(("hosts", format!("{}{unreachable}", view.hosts)));
    }
    rows.push(("names", view.names.as_ref().map_or_else(|| "not answered".to_owned(), names_field)));
    if view.problems.is_empty() {
        rows.push(("problems", "none".to_owned()));
    }
    rows.extend(view.problems.iter().map(|problem| ("problem", problem.clone())));
    fields(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_namespace_is_given_by_path_or_by_its_name() {
        let here = std::env::current_dir().expect("a directory");
        for (given, path) in [
            ("pod", PathBuf::from("/run/netns/pod")),
            ("/run/netns/pod", PathBuf::from("/run/netns/pod")),
            ("/proc/1/ns/net", PathBuf::from("/proc/1/ns/net")),
            ("./pod", here.join("pod")),
            ("pods/pod", here.join("pods/pod")),
            ("..", here.join("..")),
        ] {
            assert_eq!(netns_path(Path::new(given)).ok(), Some(path), "{given}");
        }
    }
}
