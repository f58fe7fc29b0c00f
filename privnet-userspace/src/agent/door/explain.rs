//! Errors of every room as the one error that surfaces see.

use std::error::Error;

use super::error::{ControlError, ErrorCode};
use crate::model::Explain;
use crate::model::explain::{Listed, NO_DESCRIPTORS};

/// Declares the errors that are recognized in a chain of causes. The test below walks every variant of each. An error that
/// implements [`Explain`] and is not here does not compile; `cargo xtask tidy` finds one that does not implement it.
macro_rules! known_errors {
    ($($error:ty),+ $(,)?) => {
        $(impl Listed for $error {})+

        fn known<'a>(cause: &'a (dyn Error + 'static)) -> Option<&'a dyn Explain> {
            $(if let Some(known) = cause.downcast_ref::<$error>() {
                return Some(known);
            })+
            None
        }

        #[cfg(test)]
        fn faults() -> Vec<String> {
            [$(tests::check::<$error>()),+].concat()
        }
    };
}

known_errors! {
    crate::model::FileError,
    crate::model::ids::InvalidName,
    crate::model::mtu::InvalidMtu,
    crate::ipam::InvalidAddress,
    crate::ipam::InvalidSubnet,
    crate::names::InvalidDomainName,
    crate::netns::Error,
    crate::companion::Error,
    crate::companion::LivenessError,
    crate::link::Error,
    crate::wireguard::Error,
    crate::datapath::Error,
    crate::dns::Error,
    crate::store::StoreError,
    crate::store::CommitError,
    crate::store::OpenError,
    crate::store::FleetError,
    crate::store::claims::VxlanPortError,
    crate::store::records::RecordError,
    crate::store::claims::NetworkError,
    crate::store::claims::MemberError,
    super::difference::Difference,
}

/// What to do where no file descriptor was free.
pub(crate) const MORE_DESCRIPTORS: &str = "raise LimitNOFILE= of the unit and restart the agent, or detach members (`ls /proc/PID/fd | wc -l` \
     shows how many are open; members go on meanwhile)";

/// What a chain of causes says: all messages, and code and remedy of the first error that has them.
#[must_use]
pub fn explain(error: &anyhow::Error) -> ControlError {
    Explanation::default().of_chain(error.chain()).finish()
}

/// Every error that can explain itself is one that a surface can show.
impl<E: Explain> From<E> for ControlError {
    fn from(error: E) -> Self {
        shown(&error)
    }
}

/// What one error says, with its causes.
pub(in crate::agent) fn shown(error: &dyn Explain) -> ControlError {
    let mut explanation = Explanation::default();
    explanation.say(&error.message());
    explanation.take(error.code(), error.remedy(), error.can_retry());
    explanation.of_chain(std::iter::successors(error.source(), |cause| (*cause).source())).finish()
}

/// One line for a list of problems: the message, and in parentheses what to do.
#[must_use]
pub fn problem(error: &ControlError) -> String {
    if error.remedy.is_empty() { error.message.clone() } else { format!("{} ({})", error.message, error.remedy) }
}

#[derive(Default)]
struct Explanation {
    message: String,
    code: Option<ErrorCode>,
    remedy: Option<String>,
    can_retry: bool,
}

impl Explanation {
    fn of_chain<'a>(mut self, causes: impl Iterator<Item = &'a (dyn Error + 'static)>) -> Self {
        for cause in causes {
            if let Some(told) = cause.downcast_ref::<ControlError>() {
                self.say(&told.message);
                self.take(told.code, Some(told.remedy.clone()), false);
            } else if let Some(known) = known(cause) {
                self.say(&known.message());
                self.take(known.code(), known.remedy(), known.can_retry());
            } else {
                self.say(&cause.to_string());
            }
        }
        self
    }

    /// Adds to the message what it does not say already.
    fn say(&mut self, text: &str) {
        if self.message.contains(text) {
            return;
        }
        if !self.message.is_empty() {
            self.message.push_str(": ");
        }
        self.message.push_str(text);
    }

    fn take(&mut self, code: ErrorCode, remedy: Option<String>, can_retry: bool) {
        if self.code.is_none() {
            self.code = Some(code);
            self.can_retry = can_retry;
        }
        self.remedy = self.remedy.take().or(remedy);
    }

    fn finish(mut self) -> ControlError {
        // Whatever was tried: the kernel's word for it is in the text of each door's error.
        if self.message.contains(NO_DESCRIPTORS) {
            self.remedy = Some(MORE_DESCRIPTORS.to_owned());
        }
        let remedy = self.remedy.unwrap_or_else(|| {
            let text =
                if self.can_retry { "try again in a moment" } else { "see the agent's log and `privnet doctor`" };
            text.to_owned()
        });
        ControlError::new(self.code.unwrap_or(ErrorCode::Internal), self.message, remedy)
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use anyhow::Context as _;

    use super::*;
    use crate::model::FileError;
    use crate::model::explain::Row;
    use crate::store::StoreError;
    use crate::store::records::RecordError;

    #[test]
    fn a_lack_of_descriptors_has_its_remedy_whatever_was_tried() {
        for errno in [23, 24] {
            let error = FileError::at("open", std::path::Path::new("/x"))(io::Error::from_raw_os_error(errno));
            assert_eq!(explain(&anyhow::Error::from(error).context("attaching")).remedy, MORE_DESCRIPTORS);
        }
        let error = FileError::at("open", std::path::Path::new("/x"))(io::Error::from_raw_os_error(2));
        assert_ne!(explain(&error.into()).remedy, MORE_DESCRIPTORS, "the twin");
    }

    #[test]
    fn every_variant_of_every_error_says_what_happened_and_what_to_do() {
        let faults = faults();
        assert!(faults.is_empty(), "{}", faults.join("\n"));
    }

    pub(super) fn check<E: Explain>() -> Vec<String> {
        E::rows().iter().filter_map(|row| fault_of(row).map(|fault| format!("{:?} {fault}", row.error))).collect()
    }

    fn fault_of<E: Explain>(row: &Row<E>) -> Option<String> {
        let (message, remedy) = (row.error.message(), row.error.remedy().unwrap_or_default());
        let shown = shown(&row.error);
        let rules = [
            (message == row.message, "has another message"),
            (remedy == row.remedy, "has another remedy"),
            (row.error.code() == row.code, "has another code"),
            (
                !message.starts_with(char::is_uppercase) && !remedy.starts_with(char::is_uppercase),
                "begins in upper case",
            ),
            (row.code == ErrorCode::Internal || !remedy.is_empty(), "has no remedy, and is not a fault of ours"),
            (!message.contains(['\n', ';']) && !remedy.contains('\n'), "has two parts or lines"),
            (remedy.is_empty() || !message.contains(&*remedy), "has its remedy in the message"),
            (!has_debug_text(&message) && !has_debug_text(&remedy), "prints Debug text"),
            (shown.message.starts_with(&*message) && !shown.remedy.is_empty(), "is shown otherwise"),
        ];
        let fault = rules.into_iter().find(|(holds, _)| !holds);
        fault.map(|(_, fault)| format!("{fault}: {:?}, {message:?}, {remedy:?}", row.error.code()))
    }

    /// What `{:?}` prints of an enum or a struct: a capitalized word before a bracket.
    fn has_debug_text(text: &str) -> bool {
        text.split_inclusive(['(', '{']).any(|part| {
            let Some(before) = part.strip_suffix(['(', '{']) else { return false };
            let word = before.trim_end().rsplit(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
            let is_joined = before.ends_with(word) || part.ends_with('{');
            is_joined && word.starts_with(char::is_uppercase) && word.chars().any(char::is_lowercase)
        })
    }

    #[test]
    fn debug_text_is_recognized() {
        for debug in ["cannot create BindingNetns(10.240.0.2)", "Some(1)", "Refusal { op: 1 }"] {
            assert!(has_debug_text(debug), "{debug}");
        }
        for fine in ["run it as root (CAP_NET_ADMIN)", "the disk (full)", "net:[1] (os error 2)"] {
            assert!(!has_debug_text(fine), "{fine}");
        }
    }

    fn full(op: &'static str) -> FileError {
        FileError::at(op, "/s/a.json".as_ref())(io::Error::from_raw_os_error(28))
    }

    #[test]
    fn code_and_remedy_are_those_of_the_first_error_that_has_them_and_nothing_is_said_twice() {
        let error = anyhow::Error::new(full("write")).context("attaching");
        assert_eq!(explain(&error).message, "attaching: cannot write /s/a.json: No space left on device (os error 28)");
        assert!(explain(&error).remedy.starts_with("the disk is full: free space on the file system of /s/a.json"));

        let detail = "http://192.0.2.1:2379: connection refused".to_owned();
        let store = RecordError::from(StoreError::Cluster { operation: "list", detail });
        let error = anyhow::Error::new(store).context("reading the store");
        let told = explain(&error);
        assert_eq!(told.code, ErrorCode::StoreUnavailable);
        assert_eq!(told.message, "reading the store: cannot list in etcd (http://192.0.2.1:2379: connection refused)");
        assert!(told.remedy.contains("etcd cluster"), "{}", told.remedy);

        let inner = ControlError::new(ErrorCode::MtuTooSmall, "too small", "raise it");
        let told = explain(&Err::<(), _>(inner).context("starting").expect_err("an error"));
        assert_eq!(told, ControlError::new(ErrorCode::MtuTooSmall, "starting: too small", "raise it"));
    }

    #[test]
    fn an_unknown_error_points_to_the_log() {
        let told = explain(&anyhow::anyhow!("oh"));
        assert_eq!((told.code, &*told.remedy), (ErrorCode::Internal, "see the agent's log and `privnet doctor`"));
    }
}
