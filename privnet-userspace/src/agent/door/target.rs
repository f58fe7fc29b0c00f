//! Which namespace a request means, and whether it may be attached.

use std::path::{Path, PathBuf};

use super::error::{ControlError, ErrorCode};
use super::views::Target;
use crate::agent::host::journal::{Handover, Record};
use crate::agent::shared::Shared;
use crate::model::MemberId;
use crate::netns::{self, Netns};
use crate::topology::ownership;

/// A container's namespace that was looked at and may be attached.
pub(in crate::agent) struct TargetNetns {
    /// Where it was found.
    pub path: PathBuf,
    /// A thread in it.
    pub netns: Netns,
    /// How the device is handed over that is made there, where it is.
    pub handover: Option<Handover>,
    /// Whether it may have the place of a container that asked for the same, while the store is away.
    pub may_come_back: bool,
    /// The membership that is to have a further name, where no other is meant, nor a new one.
    pub only: Option<MemberId>,
}

impl TargetNetns {
    /// Whether another program waits, such as Docker, which moves the device.
    pub fn is_handed_over(&self) -> bool {
        self.handover.is_some() || self.only.is_some()
    }

    /// Refuses a membership that is not the one that is meant, or has ended. The claims are held: it does not end meanwhile.
    ///
    /// # Errors
    /// Nothing was changed.
    pub fn refuse_other(&self, membership: Option<&Record>) -> Result<(), ControlError> {
        let is_it = |id| membership.is_some_and(|record| record.id == id && !record.leaving);
        if self.only.is_none_or(is_it) {
            return Ok(());
        }
        let message = format!("the membership at {} has ended, and gets no further name", self.path.display());
        Err(ControlError::new(ErrorCode::MemberNotFound, message, "attach the container again"))
    }
}

/// Looks at the namespace that a request names.
///
/// # Errors
/// When there is none, or it is the host's own, or one of ours.
pub(in crate::agent) fn find(shared: &Shared, target: &Target) -> Result<TargetNetns, ControlError> {
    let (path, remedy) = match target {
        Target::Netns(path) => {
            (path.clone(), "give the path of a network namespace, for example /run/netns/NAME or /proc/PID/ns/net")
        }
        Target::Pid(pid) => {
            (PathBuf::from(format!("/proc/{pid}/ns/net")), "give the id of a running process of the container")
        }
    };
    if !path.is_absolute() {
        return Err(ControlError::new(
            ErrorCode::InvalidArgument,
            format!("netns {path:?} is not an absolute path"),
            remedy,
        ));
    }
    let refused = |error: &netns::Error| {
        let code = if matches!(error, netns::Error::NotFound { .. }) {
            ErrorCode::NetnsNotFound
        } else {
            ErrorCode::NetnsInvalid
        };
        ControlError::new(code, error.to_string(), remedy)
    };
    // Another path or process is no help where the agent lacks a permission, or a descriptor.
    let is_no_namespace =
        |error: &netns::Error| matches!(error, netns::Error::NotFound { .. } | netns::Error::NotANamespace { .. });
    let netns =
        Netns::open(&path).map_err(|error| if is_no_namespace(&error) { refused(&error) } else { error.into() })?;
    if netns.id() == shared.host.config.host_netns.id() {
        return Err(ControlError::new(
            ErrorCode::NetnsInvalid,
            format!("{} is the host's own network namespace", path.display()),
            remedy,
        ));
    }
    if let Some(name) = name_of_ours(shared, &path, &netns) {
        return Err(ControlError::new(
            ErrorCode::NetnsInvalid,
            format!("{} is a namespace of privnet's own, {name}", path.display()),
            remedy,
        ));
    }
    Ok(TargetNetns { path, netns, handover: None, may_come_back: true, only: None })
}

/// The name of the namespace when it is a network netns or a binding netns of this host.
fn name_of_ours(shared: &Shared, path: &Path, netns: &Netns) -> Option<String> {
    let config = &shared.host.config;
    let own = |name: &str| ownership::parse_netns(&config.netns_prefix, name).is_some();
    if let Some(name) = path.file_name().and_then(|name| name.to_str()).filter(|name| own(name)) {
        return Some(name.to_owned());
    }
    Netns::find_pin(&config.netns_dir, netns.id(), own).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::host::journal::tests::record;

    fn meaning(only: Option<MemberId>) -> TargetNetns {
        let path = PathBuf::from("/proc/self/ns/net");
        let netns = Netns::open(&path).expect("the own namespace");
        TargetNetns { path, netns, handover: None, may_come_back: false, only }
    }

    #[test]
    fn a_further_name_is_for_one_membership_that_has_not_ended() {
        let record = record();
        let mut left = record.clone();
        left.leaving = true;
        let other = Record { id: MemberId::random(&mut rand::rng()), ..record.clone() };
        let name = meaning(Some(record.id));
        assert_eq!(name.refuse_other(Some(&record)), Ok(()));
        for refused in [None, Some(&left), Some(&other)] {
            let error = name.refuse_other(refused).expect_err("it makes no membership");
            assert_eq!(error.code, ErrorCode::MemberNotFound);
        }
        for any in [None, Some(&left), Some(&record)] {
            assert_eq!(meaning(None).refuse_other(any), Ok(()));
        }
    }
}
