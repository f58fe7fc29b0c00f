//! What this binary is.

use privnet_ebpf::abi::ABI_VERSION;
use serde::{Deserialize, Serialize};

/// A binary's version, as `privnet version` and `GET /v1/version` show it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionView {
    /// The release, by semantic versioning.
    pub version: String,
    /// The version of what the programs and the agent exchange through maps; pins of another version are not adopted.
    pub abi_version: u32,
    /// `debug` or `release`.
    pub build_profile: String,
}

impl VersionView {
    /// The version of the running binary.
    #[must_use]
    pub fn of_this_binary() -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            abi_version: ABI_VERSION,
            build_profile: if cfg!(debug_assertions) { "debug" } else { "release" }.to_owned(),
        }
    }
}
