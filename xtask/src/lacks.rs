//! What the places where tests run may lack. A skip for anything else is a failure there.
//!
//! A test names what is missing (`lab::skip`); these are the names. `tidy` finds one that no test uses.

use crate::report::Skip;

/// A version of a kernel, as `(6, 12)`.
pub type Version = (u32, u32);

/// What the machine of a continuous integration may lack: it has either kernel.
pub const MACHINE: [&str; 2] = ["kernel WireGuard", "a kernel without WireGuard"];

/// What a guest may lack: every one, or those with a kernel before a version.
pub const GUESTS: [(Option<Version>, &str); 2] = [(Some((6, 6)), "TCX"), (None, "a kernel without WireGuard")];

/// What is marked so prints figures and can refuse nothing: it is run by hand, on a quiet machine.
const MEASUREMENT: &str = "ignored, a measurement";

/// Whether a continuous integration's machine must not skip this.
pub fn is_required_on_the_machine(skip: &Skip) -> bool {
    skip.missing != MEASUREMENT && !MACHINE.contains(&skip.missing.as_str())
}

/// Whether a guest with a kernel of this version must not skip this. One of an unknown version lacks nothing.
pub fn is_required_in_a_guest(skip: &Skip, version: Option<Version>) -> bool {
    let is_before = |first: Version| version.is_some_and(|version| version < first);
    let may_lack = |(first, what): &(Option<Version>, &str)| *what == skip.missing && first.is_none_or(is_before);
    skip.missing != MEASUREMENT && !GUESTS.iter().any(may_lack)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn skip(missing: &str) -> Skip {
        Skip { test: "a".to_owned(), missing: missing.to_owned() }
    }

    #[test]
    fn a_machine_may_lack_what_is_listed_and_nothing_else() {
        assert!(!is_required_on_the_machine(&skip("kernel WireGuard")));
        assert!(!is_required_on_the_machine(&skip(MEASUREMENT)));
        for missing in ["TCX", "dnsperf", "iptables", "Docker Compose 2", "Podman with netavark", "ignored, too slow"] {
            assert!(is_required_on_the_machine(&skip(missing)), "{missing}");
        }
    }

    #[test]
    fn only_a_kernel_from_before_tcx_may_lack_it() {
        let is_required = |missing, version| is_required_in_a_guest(&skip(missing), version);
        assert!(!is_required("TCX", Some((6, 1))) && !is_required("TCX", Some((5, 15))));
        assert!(is_required("TCX", Some((6, 6))) && is_required("TCX", Some((6, 12))) && is_required("TCX", None));
        assert!(is_required("kernel WireGuard", Some((6, 1))) && is_required("dnsperf", Some((6, 12))));
        assert!(!is_required("a kernel without WireGuard", Some((6, 12))));
    }
}
