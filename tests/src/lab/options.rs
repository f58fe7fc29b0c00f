//! How a host of the lab is set up.

/// How a host is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// `auto`, `ebpf` or `bridge`.
    pub datapath: &'static str,
    /// `auto`, `kernel` or `userspace`.
    pub wireguard: &'static str,
    /// The underlay's MTU in bytes.
    pub underlay_mtu: u32,
    /// The URL of the etcd that the agent's process shares with others; the embedded store without one.
    pub etcd: Option<String>,
}

impl Options {
    /// The eBPF datapath over an underlay of 1500 bytes.
    #[must_use]
    pub const fn ebpf() -> Self {
        Self { datapath: "ebpf", wireguard: "auto", underlay_mtu: 1500, etcd: None }
    }

    /// The bridge datapath over an underlay of 1500 bytes.
    #[must_use]
    pub const fn bridge() -> Self {
        Self { datapath: "bridge", wireguard: "auto", underlay_mtu: 1500, etcd: None }
    }

    /// The same with an etcd as the store.
    #[must_use]
    pub fn with_etcd(self, url: &str) -> Self {
        Self { etcd: Some(url.to_owned()), ..self }
    }
}
