//! How a host of the lab is set up.

use std::path::PathBuf;
use std::time::Duration;

use privnet::wireguard::OffloadChoice;

/// How a host is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// `auto`, `ebpf` or `bridge`.
    pub datapath: &'static str,
    /// `auto`, `kernel` or `userspace`.
    pub wireguard: &'static str,
    /// Whether a userspace WireGuard uses super-packets.
    pub offload: OffloadChoice,
    /// The underlay's MTU in bytes.
    pub underlay_mtu: u32,
    /// The URL of the etcd that the agent's process shares with others; the embedded store without one.
    pub etcd: Option<String>,
    /// The file with the password of the user `privnet` of that etcd, where the agent has one.
    pub etcd_password: Option<PathBuf>,
    /// How often the agent observes everything anew; its default without one.
    pub observe_interval: Option<Duration>,
    /// What `setpriv --bounding-set` leaves the agent's process of root's capabilities; all without it.
    pub capabilities: Option<&'static str>,
    /// What the agent's process logs, as `RUST_LOG` says it.
    pub log: &'static str,
    /// The file with the id of the machine that the host stands for; this machine's without one.
    pub machine_id: Option<PathBuf>,
    /// Whether the agent listens to [`super::failpoint`].
    pub failpoints: bool,
    /// Whether the agent serves Docker's plugin, see [`super::Docker::beside`].
    pub docker: bool,
}

impl Options {
    /// The eBPF datapath over an underlay of 1500 bytes.
    #[must_use]
    pub const fn ebpf() -> Self {
        Self {
            datapath: "ebpf",
            wireguard: "auto",
            offload: OffloadChoice::Auto,
            underlay_mtu: 1500,
            etcd: None,
            etcd_password: None,
            observe_interval: None,
            capabilities: None,
            log: "privnet=debug",
            machine_id: None,
            failpoints: false,
            docker: false,
        }
    }

    /// The bridge datapath over an underlay of 1500 bytes.
    #[must_use]
    pub const fn bridge() -> Self {
        Self {
            datapath: "bridge",
            wireguard: "auto",
            offload: OffloadChoice::Auto,
            underlay_mtu: 1500,
            etcd: None,
            etcd_password: None,
            observe_interval: None,
            capabilities: None,
            log: "privnet=debug",
            machine_id: None,
            failpoints: false,
            docker: false,
        }
    }

    /// The same, and the agent observes nothing anew by itself: what is repaired, the kernel announced.
    #[must_use]
    pub fn without_periodic_observation(self) -> Self {
        Self { observe_interval: Some(Duration::from_secs(1_000_000)), ..self }
    }

    /// The same, and the agent listens to [`super::failpoint`].
    #[must_use]
    pub fn with_failpoints(self) -> Self {
        Self { failpoints: true, ..self }
    }

    /// The same with an etcd as the store.
    #[must_use]
    pub fn with_etcd(self, url: &str) -> Self {
        Self { etcd: Some(url.to_owned()), ..self }
    }

    /// The same with Docker's plugin.
    #[must_use]
    pub fn with_docker(self) -> Self {
        Self { docker: true, ..self }
    }
}
