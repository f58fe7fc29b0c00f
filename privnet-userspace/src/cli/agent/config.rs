//! What the agent is told: flags, then the file, then defaults; checked before anything is touched.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::args::{AgentArgs, DatapathChoice, DnsAddress, OffloadChoice, StoreKind, VtepAddress, WireguardChoice};
use crate::agent::config::{
    DEFAULT_BPFFS, DEFAULT_DNS_ADDRESS, DEFAULT_MACHINE_ID, DEFAULT_OBSERVE_INTERVAL, DEFAULT_STATE_DIR,
};
use crate::agent::{ControlError, ErrorCode};
use crate::cli::args::DEFAULT_SOCKET;
use crate::model::HostName;

/// Everything the agent is told, with defaults filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentOptions {
    /// This host's name.
    pub host: HostName,
    /// The VTEP's address; found by the agent when absent.
    pub vtep: Option<Ipv4Addr>,
    /// Where state is kept.
    pub state_dir: PathBuf,
    /// The control socket.
    pub socket: PathBuf,
    /// Where networks and members are recorded.
    pub store: StoreKind,
    /// The members of the etcd cluster; none for other stores.
    pub etcd_endpoints: Vec<String>,
    /// The authority that signs the certificates of the cluster's members.
    pub etcd_ca: Option<PathBuf>,
    /// This host's certificate for the cluster, and its private key.
    pub etcd_identity: Option<(PathBuf, PathBuf)>,
    /// The user as which the cluster is asked, and the file of its password.
    pub etcd_login: Option<(String, PathBuf)>,
    /// What forwards packets.
    pub datapath: DatapathChoice,
    /// What encrypts packets.
    pub wireguard: WireguardChoice,
    /// Whether a userspace WireGuard uses super-packets.
    pub offload: OffloadChoice,
    /// Where metrics are served over HTTP, if at all.
    pub metrics_listen: Option<SocketAddr>,
    /// Where containers ask for names.
    pub dns_address: DnsAddress,
    /// Where Docker's network plugin is served, if not where systemd opened it.
    pub docker_socket: Option<PathBuf>,
    /// What the names of its namespaces begin with.
    pub netns_prefix: String,
    /// The bpffs, or a directory of it.
    pub bpffs: PathBuf,
    /// How often every network is observed anew.
    pub observe_interval: Duration,
    /// Where the machine's id is.
    pub machine_id_file: PathBuf,
}

impl AgentOptions {
    /// Merges the flags with the file they name, if any. `kernel_name` is the kernel's name of this host.
    ///
    /// # Errors
    /// When the file cannot be read or understood, or the options do not fit each other.
    pub fn resolve(flags: AgentArgs, kernel_name: &str) -> Result<Self, ControlError> {
        let file = flags.config.as_deref().map(read).transpose()?.unwrap_or_default();
        Self::merge(flags, file, kernel_name)
    }

    fn merge(flags: AgentArgs, file: AgentArgs, kernel_name: &str) -> Result<Self, ControlError> {
        let host = flags.host.or(file.host);
        let options = Self {
            host: match host {
                Some(host) => host.parse().map_err(|error| invalid(format!("{error}"), "give another --host"))?,
                None => host_of(kernel_name)?,
            },
            vtep: flags.vtep.or(file.vtep).map(|VtepAddress(address)| address),
            state_dir: flags.state_dir.or(file.state_dir).unwrap_or_else(|| DEFAULT_STATE_DIR.into()),
            socket: flags.socket.or(file.socket).unwrap_or_else(|| DEFAULT_SOCKET.into()),
            store: flags.store.or(file.store).unwrap_or(StoreKind::Embedded),
            etcd_endpoints: flags.etcd_endpoints.or(file.etcd_endpoints).unwrap_or_default(),
            etcd_ca: flags.etcd_ca.or(file.etcd_ca),
            etcd_identity: identity(flags.etcd_cert.or(file.etcd_cert), flags.etcd_key.or(file.etcd_key))?,
            etcd_login: login(
                flags.etcd_user.or(file.etcd_user),
                flags.etcd_password_file.or(file.etcd_password_file),
            )?,
            datapath: flags.datapath.or(file.datapath).unwrap_or(DatapathChoice::Auto),
            wireguard: flags.wireguard.or(file.wireguard).unwrap_or(WireguardChoice::Auto),
            offload: flags.offload.or(file.offload).unwrap_or(OffloadChoice::Auto),
            metrics_listen: flags.metrics_listen.or(file.metrics_listen),
            dns_address: flags.dns_address.or(file.dns_address).unwrap_or(DnsAddress::At(DEFAULT_DNS_ADDRESS)),
            docker_socket: flags.docker_socket.or(file.docker_socket),
            netns_prefix: flags.netns_prefix.or(file.netns_prefix).unwrap_or_default(),
            bpffs: flags.bpffs.or(file.bpffs).unwrap_or_else(|| DEFAULT_BPFFS.into()),
            observe_interval: flags
                .observe_interval_seconds
                .or(file.observe_interval_seconds)
                .map_or(DEFAULT_OBSERVE_INTERVAL, Duration::from_secs),
            machine_id_file: flags
                .machine_id_file
                .or(file.machine_id_file)
                .unwrap_or_else(|| DEFAULT_MACHINE_ID.into()),
        };
        match (options.store, options.etcd_endpoints.is_empty()) {
            (StoreKind::Etcd, true) => Err(invalid("--store etcd has no endpoints", "give --etcd-endpoints URL,…")),
            (StoreKind::Embedded, false) => Err(invalid(
                "--etcd-endpoints is given, but the store is embedded",
                "give --store etcd too, or leave the endpoints out",
            )),
            (StoreKind::Etcd, false) | (StoreKind::Embedded, true) => Ok(options),
        }
    }
}

fn identity(certificate: Option<PathBuf>, key: Option<PathBuf>) -> Result<Option<(PathBuf, PathBuf)>, ControlError> {
    match (certificate, key) {
        (Some(certificate), Some(key)) => Ok(Some((certificate, key))),
        (None, None) => Ok(None),
        (Some(_), None) => Err(invalid("--etcd-cert is given without its key", "give --etcd-key FILE")),
        (None, Some(_)) => Err(invalid("--etcd-key is given without its certificate", "give --etcd-cert FILE")),
    }
}

fn login(user: Option<String>, password: Option<PathBuf>) -> Result<Option<(String, PathBuf)>, ControlError> {
    match (user, password) {
        (Some(user), Some(password)) => Ok(Some((user, password))),
        (None, None) => Ok(None),
        (Some(_), None) => Err(invalid("--etcd-user is given without a password", "give --etcd-password-file FILE")),
        (None, Some(_)) => Err(invalid("--etcd-password-file is given without a user", "give --etcd-user NAME")),
    }
}

/// The host's name from the kernel's: its first label, in lower case.
fn host_of(kernel_name: &str) -> Result<HostName, ControlError> {
    let label = kernel_name.split('.').next().unwrap_or_default().to_lowercase();
    label.parse().map_err(|error| {
        invalid(format!("the hostname of this host cannot be its name in privnet: {error}"), "give --host NAME")
    })
}

fn read(path: &Path) -> Result<AgentArgs, ControlError> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| invalid(format!("cannot read {}: {error}", path.display()), "give another --config"))?;
    parse(&text).map_err(|(line, message)| {
        let at = line.map(|line| format!(" line {line}")).unwrap_or_default();
        invalid(
            format!("{}{at}: {message}", path.display()),
            "its keys are the flags of `privnet agent`, with _ for -; see `privnet agent --help`",
        )
    })
}

/// Reads the file's text; an error has its line, where TOML knows it, and one line of text.
pub(in crate::cli) fn parse(text: &str) -> Result<AgentArgs, (Option<usize>, String)> {
    toml::from_str(text).map_err(|error| {
        let line = error.span().and_then(|span| text.get(..span.start)).map(|before| before.matches('\n').count() + 1);
        (line, error.message().split_whitespace().collect::<Vec<_>>().join(" "))
    })
}

fn invalid(message: impl Into<String>, remedy: &str) -> ControlError {
    ControlError::new(ErrorCode::InvalidArgument, message, remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
host = "from-file"
vtep = "192.0.2.7"
state_dir = "/srv/privnet"
store = "etcd"
etcd_endpoints = ["http://192.0.2.1:2379"]
datapath = "bridge"
wireguard = "userspace"
metrics_listen = "127.0.0.1:9100"
dns_address = "off"
"#;

    #[test]
    fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
        let flags = AgentArgs { host: Some("from-flag".to_owned()), ..AgentArgs::default() };
        let options = AgentOptions::merge(flags, parse(FILE).expect("valid"), "Kernel.example").expect("fitting");
        assert_eq!(options.host.as_str(), "from-flag");
        assert_eq!(options.vtep, Some([192, 0, 2, 7].into()));
        assert_eq!(options.state_dir, Path::new("/srv/privnet"));
        assert_eq!(options.socket, Path::new(DEFAULT_SOCKET));
        assert_eq!((options.datapath, options.wireguard), (DatapathChoice::Bridge, WireguardChoice::Userspace));
        assert_eq!(options.metrics_listen, Some(([127, 0, 0, 1], 9100).into()));
        assert_eq!(options.dns_address, DnsAddress::Off);
    }

    #[test]
    fn without_anything_there_are_defaults() {
        let options = AgentOptions::resolve(AgentArgs::default(), "Node7.example.org").expect("fitting");
        assert_eq!(options.host.as_str(), "node7");
        assert_eq!(options.state_dir, Path::new(DEFAULT_STATE_DIR));
        assert_eq!(options.store, StoreKind::Embedded);
        assert_eq!(options.metrics_listen, None);
        assert_eq!(options.dns_address, DnsAddress::At(DEFAULT_DNS_ADDRESS));
    }

    #[test]
    fn the_packages_file_has_every_option_as_a_comment_that_can_be_uncommented() {
        #[derive(Debug, clap::Parser)]
        struct Alone {
            #[command(flatten)]
            arguments: AgentArgs,
        }
        let text = include_str!("../../../../package/privnet.toml");
        assert_eq!(parse(text), Ok(AgentArgs::default()), "all of it is comment");
        let is_option = |line: &&str| line.starts_with('#') && !line.starts_with("# ");
        let options: Vec<&str> = text.lines().filter(is_option).map(|line| &line[1..]).collect();
        let parsed = parse(&options.join("\n")).expect("understood");
        assert_eq!(parsed.vtep, Some(VtepAddress([192, 0, 2, 7].into())));
        let command = <Alone as clap::CommandFactory>::command();
        let shown = command.get_arguments().filter(|argument| !argument.is_hide_set());
        for key in shown.map(|argument| argument.get_id().as_str()).filter(|key| *key != "config" && *key != "help") {
            let line = options.iter().find(|line| line.starts_with(&format!("{key} = ")));
            assert!(line.is_some(), "{key} is not in package/privnet.toml");
        }
        let defaults = AgentOptions::resolve(AgentArgs::default(), "h").expect("fitting");
        assert!(options.contains(&format!("state_dir = \"{}\"", defaults.state_dir.display()).as_str()));
        assert!(options.contains(&format!("socket = \"{}\"", defaults.socket.display()).as_str()));
        assert!(options.contains(&format!("dns_address = \"{DEFAULT_DNS_ADDRESS}\"").as_str()));
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_line() {
        for (text, line) in [
            ("host = \"a\"\nhots = \"b\"\n", 2),
            ("host = \"a\"\n\ndatapath = \"fast\"\n", 3),
            ("vtep = \"nowhere\"\n", 1),
            ("vtep = \"2001:db8::1\"\n", 1),
            ("dns_address = \"192.0.2.1\"\n", 1),
            ("host = \n", 1),
            ("config = \"other.toml\"\n", 1),
        ] {
            let (found, message) = parse(text).expect_err("refused");
            assert_eq!(found, Some(line), "{text:?}: {message}");
            assert!(!message.contains('\n'), "{message:?}");
        }
    }

    #[test]
    fn an_ipv6_address_of_a_vtep_is_refused_by_what_it_is() {
        let refused = |text: &str| text.parse::<VtepAddress>().expect_err("refused");
        assert!(refused("2001:db8::1").contains("is an IPv6 address, and VXLAN runs over IPv4"));
        assert!(refused("192.0.2").contains("is no IPv4 address"));
        assert_eq!("192.0.2.7".parse(), Ok(VtepAddress([192, 0, 2, 7].into())));
    }

    #[test]
    fn a_host_whose_name_is_no_name_here_must_be_given_one() {
        assert!(AgentOptions::resolve(AgentArgs::default(), "7days").is_err());
        let flags = AgentArgs { host: Some("days7".to_owned()), ..AgentArgs::default() };
        assert!(AgentOptions::resolve(flags, "7days").is_ok());
    }

    #[test]
    fn etcd_and_its_endpoints_come_together() {
        let endpoints = Some(vec!["http://192.0.2.1:2379".to_owned()]);
        let merge = |store, etcd_endpoints| {
            AgentOptions::merge(AgentArgs { store, etcd_endpoints, ..AgentArgs::default() }, AgentArgs::default(), "a")
        };
        assert!(merge(Some(StoreKind::Etcd), endpoints.clone()).is_ok());
        assert!(merge(Some(StoreKind::Etcd), None).is_err());
        assert!(merge(None, endpoints).is_err());
    }
}
