//! Programs on interfaces. Everything here happens on the thread of the interface's namespace, for the kernel looks
//! interfaces up in the namespace of whoever asks.
//!
//! Two methods. **clsact** (0.1 ms): a filter of fixed priority and handle, which lives as long as its interface and is
//! replaced in place; aya cannot list filters, so observing them is the `link` room's. **TCX** (9 to 12 ms, the kernel
//! waits for a grace period): a link that is pinned beside the programs, for an unpinned one goes with the agent.

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
use super::hook::{Hook, Method};
use super::{Error, Network, features};
use crate::model::IfName;
use crate::netns::{Netns, NetnsId};

/// The priority of our filters: the first.
pub const CLSACT_PRIORITY: u16 = 1;
/// The first byte of our filters' handles, "p" in ASCII; the other three are the VNI, for the guards of a container's
/// networks share its interfaces. What is there is ours, whoever else uses the same priority.
const CLSACT_HANDLE_MARK: u32 = 0x7000_0000;

/// The handle of a network's filters.
#[must_use]
pub const fn clsact_handle(vni: Vni) -> u32 {
    CLSACT_HANDLE_MARK | vni.get()
}

/// How long a link may take to go, and how often to look.
const LINK_GOES: Duration = Duration::from_secs(2);
const GLANCE: Duration = Duration::from_millis(5);

const ENOENT: i32 = 2;
const EEXIST: i32 = 17;
const ENODEV: i32 = 19;
const EINVAL: i32 = 22;

/// What is on a hook, as far as TCX shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attachment {
    /// No program of this network.
    Absent,
    /// The very program that belongs there.
    Current,
    /// A program of this network from another build.
    Older,
    /// A stranger's program sees the packets first, and may keep them from ours and from every filter: what it passes has
    /// passed.
    Overtaken,
}

/// One program on one interface; owned, so that it can go to the namespace's thread.
struct Place {
    hook: Hook,
    interface: IfName,
    program_pin: PathBuf,
    link_pin: PathBuf,
    clsact_handle: u32,
}

impl Network {
    /// Puts the program of `hook` on `interface` of `netns` by the method of the hook; an older one of ours is replaced
    /// in one step, so that no packet passes unseen. Doing it again changes nothing.
    ///
    /// Where a stranger's program of TCX would see the packets first, ours is put before it, by TCX, and stays there.
    ///
    /// # Errors
    /// [`Error::NoInterface`]; [`Error::Attach`] when the kernel refuses, and then what was attached still is.
    pub async fn attach(&self, netns: &Netns, interface: &IfName, hook: Hook) -> Result<(), Error> {
        self.attach_by(hook.method(), netns, interface, hook).await
    }

    /// Like [`Network::attach`], by the method that the caller names.
    ///
    /// # Errors
    /// As [`Network::attach`].
    pub async fn attach_by(&self, method: Method, netns: &Netns, interface: &IfName, hook: Hook) -> Result<(), Error> {
        let place = self.place(netns, interface, hook);
        let (current, config) = (self.program_id(hook), self.config_map_id);
        netns
            .run(move || {
                match method {
                    Method::Clsact => place.attach_clsact()?,
                    Method::Tcx => place.attach_tcx()?,
                }
                if place.query_tcx(current, config)? == Attachment::Overtaken { place.overtake() } else { Ok(()) }
            })
            .await?
    }

    /// Takes the program of `hook` off `interface`, however it was attached; absent is done, also the interface.
    ///
    /// A filter is gone when this returns; a link of TCX goes a grace period later.
    ///
    /// # Errors
    /// [`Error::Attach`] or [`Error::Pin`] when the kernel refuses.
    pub async fn detach(&self, netns: &Netns, interface: &IfName, hook: Hook) -> Result<(), Error> {
        let place = self.place(netns, interface, hook);
        netns.run(move || place.detach_tcx().and_then(|()| place.detach_clsact())).await?
    }

    /// Forgets the links of a namespace that is gone, which [`Network::detach`] cannot enter any more; none is done.
    ///
    /// # Errors
    /// [`Error::Pin`] when the directory of the pins cannot be read, or a pin cannot be removed.
    pub fn forget_links(&self, netns: NetnsId) -> Result<(), Error> {
        let failed = |error| Error::pin("list", &self.pin_dir, error);
        let of_netns = |name: &str| name.split('-').nth(2) == Some(netns.ino.to_string().as_str());
        for entry in fs::read_dir(&self.pin_dir).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            if name.to_str().is_some_and(|name| name.starts_with("link-") && of_netns(name)) {
                remove_if_there(&self.pin_dir.join(name))?;
            }
        }
        Ok(())
    }

    /// What TCX shows on `hook` of `interface`; nothing where the kernel has none. Filters of clsact are not seen: compare
    /// what the `link` room dumps at [`CLSACT_PRIORITY`] and [`clsact_handle`] with [`Network::program_id`].
    ///
    /// # Errors
    /// [`Error::NoInterface`]; [`Error::Attach`] when the kernel refuses.
    pub async fn attached_by_tcx(&self, netns: &Netns, interface: &IfName, hook: Hook) -> Result<Attachment, Error> {
        let place = self.place(netns, interface, hook);
        let (current, config) = (self.program_id(hook), self.config_map_id);
        netns.run(move || place.query_tcx(current, config)).await?
    }

    fn place(&self, netns: &Netns, interface: &IfName, hook: Hook) -> Place {
        // The bpffs reserves dots, and no interface has a colon in its name.
        let interface_in_pin = interface.as_str().replace('.', ":");
        let link = format!("link-{}-{}-{interface_in_pin}", hook.program(), netns.id().ino);
        Place {
            hook,
            interface: interface.clone(),
            program_pin: self.program_pin(hook),
            link_pin: self.pin_dir.join(link),
            clsact_handle: clsact_handle(self.vni),
        }
    }
}

impl Place {
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
        // Dropped, it would take the filter with it.
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

    /// Puts the program into the link that is pinned, if there is one and it lives.
    fn replaced_in_link(&self, program: &mut SchedClassifier) -> Result<bool, Error> {
        let Some(link) = self.pinned_link()? else {
            return Ok(false);
        };
        if program.attach_to_link(link).is_ok() {
            return Ok(true);
        }
        // Of an interface or a namespace that is gone, whose name or inode this one has again.
        self.remove_link_pin()?;
        Ok(false)
    }

    /// Goes before the strangers: a filter stands behind them while a link of ours that they overtook goes.
    fn overtake(&self) -> Result<(), Error> {
        self.remove_link_pin()?;
        self.attach_clsact()?;
        let end = Instant::now() + LINK_GOES;
        while let Err(error) = self.attach_tcx() {
            // The program is on the hook once at most, and leaves it a grace period after its link.
            if !matches!(error, Error::Attach { errno: Some(EEXIST), .. }) || Instant::now() > end {
                return Err(error);
            }
            thread::sleep(GLANCE);
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
            // No such filter; no clsact at all.
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
        // In the order in which they see a packet.
        for program in &programs {
            if program.id() == current {
                return Ok(Attachment::Current);
            }
            // The guard of another network of the container, or ours of another build, lets through what is not its own.
            if program.name_as_str() != Some(self.hook.program()) {
                return Ok(Attachment::Overtaken);
            }
            // Ours is what works on our maps.
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

    /// Our filter, whether it is there or not; `None` when the interface is not.
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

/// The message of `error` and of all its sources: aya keeps the kernel's words in them.
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
