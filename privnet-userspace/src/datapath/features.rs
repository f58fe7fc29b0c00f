//! Features of the kernel, as `doctor` shows them. Changes nothing.

use std::fs;
use std::path::Path;

use aya::programs::{SchedClassifier, TcAttachType};
use aya::util::KernelVersion;

/// The features of the kernel that the programs need or use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Features {
    /// The kernel's release, as `uname -r` prints it.
    pub kernel: String,
    /// Whether programs can be attached by TCX (6.6 and later, `CONFIG_NET_XGRESS`); otherwise clsact is used.
    pub tcx: bool,
    /// Whether `bpf_redirect_peer` scrubs the packet (CVE-2025-37959); otherwise `bpf_redirect` is used.
    pub redirect_peer_scrubs: bool,
    /// Whether the kernel compiles programs to machine code (JIT); `None` when it does not say.
    pub jit: Option<bool>,
}

/// Reads the features.
#[must_use]
pub fn features() -> Features {
    Features {
        kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
        tcx: tcx(),
        redirect_peer_scrubs: redirect_peer_scrubs(),
        jit: fs::read_to_string("/proc/sys/net/core/bpf_jit_enable").ok().map(|text| text.trim() != "0"),
    }
}

/// Whether `path` is on a BPF file system.
#[must_use]
pub fn is_bpffs(path: &Path) -> bool {
    /// `BPF_FS_MAGIC` of include/uapi/linux/magic.h.
    const BPF_FS_MAGIC: u32 = 0xcafe_4a11;
    rustix::fs::statfs(path).is_ok_and(|stat| stat.f_type as u32 == BPF_FS_MAGIC)
}

/// Whether the kernel has TCX: without it, a query of the loopback interface fails.
pub(super) fn tcx() -> bool {
    SchedClassifier::query_tcx("lo", TcAttachType::Ingress).is_ok()
}

pub(super) fn redirect_peer_scrubs() -> bool {
    KernelVersion::current().is_ok_and(scrubs)
}

/// The releases with the fix: 6.15, and the backports to maintained series.
fn scrubs(kernel: KernelVersion) -> bool {
    let series = |major, minor, patch| {
        kernel >= KernelVersion::new(major, minor, patch) && kernel < KernelVersion::new(major, minor + 1, 0)
    };
    kernel >= KernelVersion::new(6, 15, 0)
        || series(6, 14, 7)
        || series(6, 12, 29)
        || series(6, 6, 91)
        || series(6, 1, 139)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirect_peer_is_trusted_only_where_it_scrubs() {
        for (major, minor, patch) in
            [(6, 1, 139), (6, 6, 91), (6, 12, 29), (6, 14, 7), (6, 15, 0), (6, 18, 44), (7, 0, 0)]
        {
            assert!(scrubs(KernelVersion::new(major, minor, patch)), "{major}.{minor}.{patch}");
        }
        for (major, minor, patch) in
            [(5, 15, 200), (6, 1, 138), (6, 2, 0), (6, 6, 90), (6, 12, 28), (6, 13, 12), (6, 14, 6)]
        {
            assert!(!scrubs(KernelVersion::new(major, minor, patch)), "{major}.{minor}.{patch}");
        }
    }

    #[test]
    fn an_ordinary_directory_is_no_bpffs() {
        assert!(!is_bpffs(Path::new("/proc")));
        assert!(!is_bpffs(Path::new("/nowhere")));
    }
}
