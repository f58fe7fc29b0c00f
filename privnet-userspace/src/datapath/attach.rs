//! Attaching programs to interfaces and detaching them. All of it happens on the thread of the interface's namespace,
//! because the kernel looks interfaces up in the namespace of the calling thread.
//!
//! Two methods. **clsact** (0.1 ms): a filter of fixed priority and handle, which exists as long as its interface and
//! is replaced in place; aya cannot list filters, so the `link` room observes them. **TCX** (9 to 12 ms, because the
//! kernel waits for a grace period): a link that is pinned beside the programs, because an unpinned link ends with the
//! agent.

use std::fs;
use std::io;
use std::mem;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::{
    NlOptions, SchedClassifier, SchedClassifierLink, SchedClassifierLinkId, TcAttachOptions, TcHandle, qdisc_add_clsact,
};
use aya::programs::{Link as _, LinkOrder, ProgramError};

use privnet_ebpf::net::Vni;

use super::error::{errno_of_link, errno_of_program, errno_of_tc};
use super::{Error, Hook, Method, Network, features};
use crate::failpoint::{self, Step};
use crate::model::IfName;
use crate::netns::{Netns, NetnsId};

/// The priority of privnet's filters: the first.
pub const CLSACT_PRIORITY: u16 = 1;
/// The first byte of the handles of privnet's filters, "p" in ASCII. The other three are the VNI, because the guards of
/// a container's networks share its interfaces. A filter of this handle is privnet's, also beside foreign ones of the
/// same priority.
const CLSACT_HANDLE_MARK: u32 = 0x7000_0000;

/// The handle of a network's filters.
#[must_use]
pub const fn clsact_handle(vni: Vni) -> u32 {
    CLSACT_HANDLE_MARK | vni.get()
}

/// The bound of the wait until a removed link has left its hook, and the interval of the attempts.
const DETACH_BOUND: Duration = Duration::from_secs(2);
const ATTEMPT_INTERVAL: Duration = Duration::from_millis(5);

const ENOENT: i32 = 2;
const EEXIST: i32 = 17;
const ENODEV: i32 = 19;
const EINVAL: i32 = 22;

/// The state of a hook, as far as TCX shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attachment {
    /// No program of this network.
    Absent,
    /// The present program of this network.
    Current,
    /// A program of this network from another build.
    Older,
    /// A foreign program runs first. A packet that it passes or drops reaches neither privnet's program nor any filter.
    Preceded,
}

/// One hook of one interface and the program for it; owned, so that it can be sent to the namespace's thread.
struct AttachPoint {
    hook: Hook,
    interface: IfName,
    program_pin: PathBuf,
    link_pin: PathBuf,
    clsact_handle: u32,
}

impl Network {
    /// Attaches the program of `hook` to `interface` of `netns` by the method of the hook. A program of another build
    /// is replaced in one step, so that no packet passes without one. A second call changes nothing.
    ///
    /// Where a foreign TCX program runs first, the program is attached before it, by TCX, and stays there.
    ///
    /// # Errors
    /// [`Error::NoInterface`]; [`Error::Attach`] when the kernel refuses, and then the programs that were attached still are.
    pub async fn attach(&self, netns: &Netns, interface: &IfName, hook: Hook) -> Result<(), Error> {
        self.attach_by(hook.method(), netns, interface, hook).await
    }

    /// Like [`Network::attach`], by the method that the caller names.
    ///
    /// # Errors
    /// As [`Network::attach`].
    pub async fn attach_by(&self, method: Method, netns: &Netns, interface: &IfName, hook: Hook) -> Result<(), Error> {
        let point = self.attach_point(netns, interface, hook);
        let (current, config) = (self.program_id(hook), self.config_map_id);
        netns
            .run(move || {
                match method {
                    Method::Clsact => point.attach_clsact()?,
                    Method::Tcx => point.attach_tcx()?,
                }
                failpoint::passed(Step::Attach);
                if point.query_tcx(current, config)? == Attachment::Preceded { point.attach_first() } else { Ok(()) }
            })
            .await?
    }

    /// Detaches the program of `hook` from `interface`, by whichever method it was attached. Without such a program or
    /// interface there is nothing to do.
    ///
    /// A filter is gone when this returns; a TCX link is gone a grace period later.
    ///
    /// # Errors
    /// [`Error::Attach`] or [`Error::Pin`] when the kernel refuses.
    pub async fn detach(&self, netns: &Netns, interface: &IfName, hook: Hook) -> Result<(), Error> {
        let point = self.attach_point(netns, interface, hook);
        netns.run(move || point.detach_tcx().and_then(|()| point.detach_clsact())).await??;
        failpoint::passed(Step::Detach);
        Ok(())
    }

    /// Removes the pins of the links in a namespace that no longer exists, and that [`Network::detach`] cannot enter.
    ///
    /// # Errors
    /// [`Error::Pin`] when the directory of the pins cannot be read, or a pin cannot be removed.
    pub fn unpin_links_of(&self, netns: NetnsId) -> Result<(), Error> {
        let own = netns.ino.to_string();
        self.unpin_links(|_, ino| ino == own)
    }

    /// Removes the pins of the links in a network netns before `netns`: it took the links along, and not their pins.
    ///
    /// # Errors
    /// As [`Network::unpin_links_of`].
    pub fn unpin_links_before(&self, netns: NetnsId) -> Result<(), Error> {
        let own = netns.ino.to_string();
        // The guards are in the app netns.
        let programs = [Hook::FromMember, Hook::FromVtep].map(Hook::program);
        self.unpin_links(|program, ino| ino != own && programs.contains(&program))
    }

    /// Removes the pins of links, by program and by the inode of the namespace.
    fn unpin_links(&self, is_wanted: impl Fn(&str, &str) -> bool) -> Result<(), Error> {
        let failed = |error| Error::pin("list", &self.pin_dir, error);
        for entry in fs::read_dir(&self.pin_dir).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            // As `attach_point` makes it.
            let mut parts = name.to_str().unwrap_or_default().splitn(4, '-');
            if let (Some("link"), Some(program), Some(ino)) = (parts.next(), parts.next(), parts.next())
                && is_wanted(program, ino)
            {
                remove_if_there(&self.pin_dir.join(&name))?;
            }
        }
        Ok(())
    }

    /// The state of `hook` of `interface` by TCX; [`Attachment::Absent`] where the kernel has no TCX. Filters of clsact
    /// are not seen: compare the filters that the `link` room observes at [`CLSACT_PRIORITY`] and [`clsact_handle`]
    /// with [`Network::program_id`].
    ///
    /// # Errors
    /// [`Error::NoInterface`]; [`Error::Attach`] when the kernel refuses.
    pub async fn attached_by_tcx(&self, netns: &Netns, interface: &IfName, hook: Hook) -> Result<Attachment, Error> {
        let point = self.attach_point(netns, interface, hook);
        let (current, config) = (self.program_id(hook), self.config_map_id);
        netns.run(move || point.query_tcx(current, config)).await?
    }

    fn attach_point(&self, netns: &Netns, interface: &IfName, hook: Hook) -> AttachPoint {
        // The bpffs reserves names with dots, and no interface has a colon in its name.
        let interface_in_pin = interface.as_str().replace('.', ":");
        let link = format!("link-{}-{}-{interface_in_pin}", hook.program(), netns.id().ino);
        AttachPoint {
            hook,
            interface: interface.clone(),
            program_pin: self.program_pin(hook),
            link_pin: self.pin_dir.join(link),
            clsact_handle: clsact_handle(self.vni),
        }
    }
}

impl AttachPoint {
    fn attach_clsact(&self) -> Result<(), Error> {
        let mut program = self.program()?;
        if self.replaced_in_link(&mut program)? {
            return Ok(());
        }
        match qdisc_add_clsact(self.interface.as_str()) {
            Ok(()) => {}
            Err(error) if errno_of_tc(&error) == Some(EEXIST) => {}
            Err(error) => return Err(self.failed("add clsact for", &error, errno_of_tc(&error))),
        }
        let options = NlOptions { priority: CLSACT_PRIORITY, handle: self.clsact_handle.into(), classid: None };
        let options = TcAttachOptions::Netlink(options);
        let link = match program.attach_with_options(self.interface.as_str(), self.hook.side(), options) {
            Err(error) if errno_of_program(&error) == Some(EEXIST) => {
                // Flags of neither creation nor exclusion: the kernel swaps the program of the filter.
                self.filter()?.map_or(Err(ProgramError::NotAttached), |filter| program.attach_to_link(filter))
            }
            other => other,
        };
        let link = link.map_err(|error| self.failed("attach", &error, errno_of_program(&error)))?;
        // The drop of the link would remove the filter.
        mem::forget(self.take(&mut program, link)?);
        Ok(())
    }

    fn attach_tcx(&self) -> Result<(), Error> {
        let mut program = self.program()?;
        if self.replaced_in_link(&mut program)? {
            return Ok(());
        }
        let options = TcAttachOptions::TcxOrder(LinkOrder::first());
        let link = program
            .attach_with_options(self.interface.as_str(), self.hook.side(), options)
            .map_err(|error| self.failed("attach", &error, errno_of_program(&error)))?;
        let link: FdLink = self
            .take(&mut program, link)?
            .try_into()
            .map_err(|error| self.failed("take the link of", &error, errno_of_link(&error)))?;
        link.pin(&self.link_pin).map_err(|error| Error::from_pin_error("pin", &self.link_pin, error))?;
        Ok(())
    }

    /// Replaces the program of the pinned link; false when no link is pinned, or one of an interface that is gone.
    fn replaced_in_link(&self, program: &mut SchedClassifier) -> Result<bool, Error> {
        let Some(link) = self.pinned_link()? else {
            return Ok(false);
        };
        if program.attach_to_link(link).is_ok() {
            return Ok(true);
        }
        // The link is of an interface or namespace that is gone; this one has its name or inode.
        self.remove_link_pin()?;
        Ok(false)
    }

    /// Attaches the program before the foreign ones. Its own link behind them is removed first, and until that has left
    /// the hook a filter takes its place.
    fn attach_first(&self) -> Result<(), Error> {
        self.remove_link_pin()?;
        self.attach_clsact()?;
        let end = Instant::now() + DETACH_BOUND;
        while let Err(error) = self.attach_tcx() {
            // A program can be on a hook once, and leaves it a grace period after its link.
            if !matches!(error, Error::Attach { errno: Some(EEXIST), .. }) || Instant::now() > end {
                return Err(error);
            }
            thread::sleep(ATTEMPT_INTERVAL);
        }
        self.detach_clsact()
    }

    fn detach_tcx(&self) -> Result<(), Error> {
        self.remove_link_pin()
    }

    fn detach_clsact(&self) -> Result<(), Error> {
        let Some(filter) = self.filter()? else {
            return Ok(());
        };
        match filter.detach() {
            Ok(()) => Ok(()),
            // ENOENT: no such filter. EINVAL: no clsact.
            Err(error) if matches!(errno_of_program(&error), Some(ENOENT | EINVAL)) => Ok(()),
            Err(error) => Err(self.failed("detach", &error, errno_of_program(&error))),
        }
    }

    fn query_tcx(&self, current: u32, config_map: u32) -> Result<Attachment, Error> {
        if !features::tcx() {
            return Ok(Attachment::Absent);
        }
        let failed = |error: ProgramError| self.failed("query", &error, errno_of_program(&error));
        let (_, programs) = SchedClassifier::query_tcx(self.interface.as_str(), self.hook.side()).map_err(failed)?;
        // In the order in which they run.
        for program in &programs {
            if program.id() == current {
                return Ok(Attachment::Current);
            }
            // A program of the same name is this one of another build, or the guard of another network: both hand on
            // the packets that they do not drop.
            if program.name_as_str() != Some(self.hook.program()) {
                return Ok(Attachment::Preceded);
            }
            // A program is this network's if it uses this network's maps.
            let maps = program.map_ids().map_err(failed)?.unwrap_or_default();
            if maps.contains(&config_map) {
                return Ok(Attachment::Older);
            }
        }
        Ok(Attachment::Absent)
    }

    fn program(&self) -> Result<SchedClassifier, Error> {
        SchedClassifier::from_pin(&self.program_pin)
            .map_err(|source| Error::Load { program: self.hook.program(), source: Box::new(source) })
    }

    fn take(&self, program: &mut SchedClassifier, id: SchedClassifierLinkId) -> Result<SchedClassifierLink, Error> {
        program.take_link(id).map_err(|error| self.failed("take the link of", &error, errno_of_program(&error)))
    }

    /// The handle of privnet's filter, whether it exists or not; `None` without the interface.
    fn filter(&self) -> Result<Option<SchedClassifierLink>, Error> {
        let handle = TcHandle::from(self.clsact_handle);
        match SchedClassifierLink::attached(self.interface.as_str(), self.hook.side(), CLSACT_PRIORITY, handle, None) {
            Ok(filter) => Ok(Some(filter)),
            Err(error) if error.raw_os_error() == Some(ENODEV) => Ok(None),
            Err(error) => Err(self.failed("find", &error, error.raw_os_error())),
        }
    }

    fn pinned_link(&self) -> Result<Option<SchedClassifierLink>, Error> {
        match PinnedLink::from_pin(&self.link_pin) {
            Ok(link) => match FdLink::from(link).try_into() {
                Ok(link) => Ok(Some(link)),
                Err(error) => Err(self.failed("adopt the link of", &error, errno_of_link(&error))),
            },
            Err(error) if errno_of_link(&error) == Some(ENOENT) => Ok(None),
            Err(error) => Err(self.failed("open the link of", &error, errno_of_link(&error))),
        }
    }

    fn remove_link_pin(&self) -> Result<(), Error> {
        remove_if_there(&self.link_pin)
    }

    fn failed(&self, op: &'static str, error: &dyn std::error::Error, errno: Option<i32>) -> Error {
        let (program, interface) = (self.hook.program(), self.interface.clone());
        if errno == Some(ENODEV) {
            return Error::NoInterface { program, interface };
        }
        Error::Attach { op, program, interface, message: in_full(error), errno }
    }
}

fn remove_if_there(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::pin("unpin", path, error)),
    }
}

/// The messages of `error` and of its sources, where aya keeps the kernel's message.
fn in_full(error: &dyn std::error::Error) -> String {
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let text = inner.to_string();
        if !message.contains(&text) {
            message = format!("{message}: {text}");
        }
        source = inner.source();
    }
    message
}
