//! The capabilities that the agent needs, each with its purpose; looked at before anything is changed, and by `doctor`.
//!
//! Found by taking one after the other from an agent that attaches, answers names and detaches. `CAP_SYS_ADMIN` includes
//! `CAP_BPF` and `CAP_PERFMON`. The processes for WireGuard and names need none: the agent opens what they use.

use rustix::thread::CapabilitySet;

use crate::agent::door::error::{ControlError, ErrorCode};

/// A capability with its purpose.
struct Need {
    capability: CapabilitySet,
    name: &'static str,
    purpose: &'static str,
}

const fn need(capability: CapabilitySet, name: &'static str, purpose: &'static str) -> Need {
    Need { capability, name, purpose }
}

/// Without one of these no container can be attached.
const ALWAYS: [Need; 3] = [
    need(CapabilitySet::NET_ADMIN, "CAP_NET_ADMIN", "makes links, addresses, routes and filters"),
    need(CapabilitySet::SYS_ADMIN, "CAP_SYS_ADMIN", "enters and pins network namespaces, and loads eBPF programs"),
    need(CapabilitySet::SYS_PTRACE, "CAP_SYS_PTRACE", "opens the namespace of a container's process"),
];
/// Without it no container has names.
const FOR_NAMES: Need =
    need(CapabilitySet::NET_BIND_SERVICE, "CAP_NET_BIND_SERVICE", "answers names at port 53 of each container");
/// Without it most containers can be attached.
const FOR_FILES_OF_OTHERS: Need =
    need(CapabilitySet::DAC_OVERRIDE, "CAP_DAC_OVERRIDE", "writes a resolv.conf that another user owns");
/// The line of a systemd unit with all of them; the last one gives the control socket to the group `privnet`.
const UNIT_LINE: &str =
    "CapabilityBoundingSet=CAP_NET_ADMIN CAP_SYS_ADMIN CAP_SYS_PTRACE CAP_NET_BIND_SERVICE CAP_DAC_OVERRIDE CAP_CHOWN";

/// The capabilities that this process has in effect.
#[must_use]
pub fn held() -> CapabilitySet {
    rustix::thread::capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective)
}

/// Refuses this process as an agent, as [`check`] does.
///
/// # Errors
/// As [`check`].
pub fn check_own(answers_names: bool) -> Result<(), ControlError> {
    check(held(), answers_names)
}

/// Refuses an agent that lacks a capability without which attaches, or names if they are answered, would fail.
///
/// # Errors
/// [`ErrorCode::PermissionDenied`] with each missing capability and its purpose.
pub fn check(held: CapabilitySet, answers_names: bool) -> Result<(), ControlError> {
    let names = answers_names.then_some(&FOR_NAMES);
    let missing = texts(ALWAYS.iter().chain(names), held);
    if missing.is_empty() {
        return Ok(());
    }
    let message = format!("the agent lacks {}", missing.join(", "));
    Err(ControlError::new(ErrorCode::PermissionDenied, message, remedy()))
}

/// What the agent cannot do for lack of a capability that only some containers need; empty when it lacks none.
#[must_use]
pub fn lacking_for_some(held: CapabilitySet) -> Option<ControlError> {
    let missing = texts([&FOR_FILES_OF_OTHERS], held);
    (!missing.is_empty())
        .then(|| ControlError::new(ErrorCode::PermissionDenied, format!("lacks {}", missing.join(", ")), remedy()))
}

fn texts<'a>(needs: impl IntoIterator<Item = &'a Need>, held: CapabilitySet) -> Vec<String> {
    let missing = needs.into_iter().filter(|need| !held.contains(need.capability));
    missing.map(|need| format!("{}, which {}", need.name, need.purpose)).collect()
}

fn remedy() -> String {
    format!("run it as root; in a systemd unit, with `{UNIT_LINE}`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_with_exactly_what_it_needs_is_not_refused_and_each_one_less_is_named() {
        let exact = CapabilitySet::NET_ADMIN
            | CapabilitySet::SYS_ADMIN
            | CapabilitySet::SYS_PTRACE
            | CapabilitySet::NET_BIND_SERVICE;
        assert_eq!(check(exact, true), Ok(()));
        for need in ALWAYS.iter().chain([&FOR_NAMES]) {
            let refused = check(exact - need.capability, true).expect_err(need.name);
            assert_eq!(refused.code, ErrorCode::PermissionDenied);
            assert_eq!(refused.message, format!("the agent lacks {}, which {}", need.name, need.purpose));
            assert!(refused.remedy.contains(need.name), "{}", refused.remedy);
        }
        let all = check(CapabilitySet::empty(), true).expect_err("all").message;
        assert!(all.contains("CAP_NET_ADMIN") && all.contains("CAP_NET_BIND_SERVICE"), "{all}");
    }

    #[test]
    fn what_only_names_or_some_containers_need_does_not_stop_the_others() {
        let without_names = CapabilitySet::NET_ADMIN | CapabilitySet::SYS_ADMIN | CapabilitySet::SYS_PTRACE;
        assert_eq!(check(without_names, false), Ok(()));
        assert!(check(without_names, true).is_err());
        assert_eq!(lacking_for_some(CapabilitySet::DAC_OVERRIDE), None);
        let lacking = lacking_for_some(CapabilitySet::all() - CapabilitySet::DAC_OVERRIDE).expect("it lacks one");
        assert!(lacking.message.contains("CAP_DAC_OVERRIDE") && lacking.remedy.contains("CAP_DAC_OVERRIDE"));
    }
}
