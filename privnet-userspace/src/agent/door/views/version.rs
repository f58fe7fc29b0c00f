//! What this binary is.

use privnet_ebpf::abi::ABI_VERSION;
use serde::{Deserialize, Serialize};

use crate::model::published;

/// A binary's version, as `privnet version` and `GET /v1/version` show it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(rename = "Version"))]
pub struct VersionView {
    /// The release, by semantic versioning.
    pub version: String,
    /// The version of what the programs and the agent exchange through maps; pins of another version are not adopted.
    pub abi_version: u32,
    /// How it was built.
    pub build_profile: BuildProfile,
}

published! {
    /// How a binary was built.
    BuildProfile {
        /// For its developers: with assertions, and not optimized.
        Debug "debug",
        /// For its users.
        Release "release",
    }
}

impl VersionView {
    /// The version of the running binary.
    #[must_use]
    pub fn of_this_binary() -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            abi_version: ABI_VERSION,
            build_profile: if cfg!(debug_assertions) { BuildProfile::Debug } else { BuildProfile::Release },
        }
    }
}
