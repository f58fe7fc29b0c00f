//! A namespace is a thread: create, pin, enter, run, remove.
//!
//! Owns every way into a network namespace: `setns` and `unshare` are called in [`enter`] and nowhere else. A
//! [`Netns`] is a handle on one OS thread that entered the namespace and never leaves it; whatever depends on the
//! calling thread's namespace (opening a netlink socket, WireGuard's requests, attaching a program, `/proc/sys/net`)
//! is a closure that [`Netns::run`] sends there. Never decides which namespace is ours, never touches an interface.

mod cookie;
mod enter;
mod error;
mod kind;
mod pin;
mod sysctl;

use std::any::Any;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::thread::{self, ThreadId};

use serde::{Deserialize, Serialize};

pub use enter::enter_new_for_exec;
pub use error::Error;
pub use pin::Pin;

/// Where iproute2 pins namespaces (`NETNS_RUN_DIR`), so that `ip netns` sees them.
pub const DEFAULT_DIR: &str = "/run/netns";

/// What a namespace is, as long as it lasts: the device and inode of its nsfs file.
///
/// Never a path and never a process id: both are recycled while the namespace lives. Of one that is gone the number is
/// soon another's; who did not hold it meanwhile compares [`Netns::cookie`], and across boots [`boot_id`] first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NetnsId {
    /// The device number of nsfs.
    pub dev: u64,
    /// The inode number, the figure in `net:[4026531840]`.
    pub ino: u64,
}

impl fmt::Display for NetnsId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "net:[{}]", self.ino)
    }
}

impl fmt::Debug for NetnsId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "net:[{}:{}]", self.dev, self.ino)
    }
}

/// A network namespace that a thread of ours is in. Clones share the thread, which ends after the last of them.
///
/// The handle keeps the namespace alive, also when its pin and all its processes are gone.
#[derive(Clone)]
pub struct Netns {
    shared: Arc<Shared>,
}

struct Shared {
    id: NetnsId,
    fd: OwnedFd,
    thread: ThreadId,
    jobs: mpsc::Sender<Job>,
}

type Job = Box<dyn FnOnce() + Send>;
type Caught<T> = Result<T, Box<dyn Any + Send>>;

impl Netns {
    /// Makes a namespace and pins it as `<dir>/<name>`, the way `ip netns add` does, so that `ip netns` knows it.
    ///
    /// `dir` is made when it is missing, and turned into a shared mount so that the pin shows in every mount
    /// namespace. A mount point without a mount, which a crash leaves behind, is used again. No interface is set up.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`] when the name is pinned. After any error no pin of that name is left by this call.
    pub fn create(dir: &Path, name: &str) -> Result<Self, Error> {
        pin::create(dir, name)
    }

    /// Makes a namespace that nothing pins: it lives as long as its handles, processes and sockets.
    ///
    /// # Errors
    /// [`Error::NotPermitted`] without `CAP_SYS_ADMIN`; [`Error::Kernel`] when the kernel makes none.
    pub fn create_anonymous() -> Result<Self, Error> {
        Self::spawn(enter::new_namespace)
    }

    /// Opens the namespace at `path`: a pin, or `/proc/<pid>/ns/net`.
    ///
    /// # Errors
    /// [`Error::NotFound`] when nothing is there (also: the process ended), [`Error::NotANamespace`] when it is
    /// something else, also a namespace of another kind.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Self::enter(pin::open_file(path)?)
    }

    /// The namespace of the calling thread.
    ///
    /// # Errors
    /// [`Error::Kernel`] when `/proc` is not mounted.
    pub fn current() -> Result<Self, Error> {
        Self::open(Path::new(enter::OWN))
    }

    /// The identity of the namespace at `path`, without entering it.
    ///
    /// # Errors
    /// As [`Netns::open`].
    pub fn identify(path: &Path) -> Result<NetnsId, Error> {
        pin::id_of(pin::open_file(path)?.as_fd())
    }

    /// Removes the pin `<dir>/<name>`; absent is done. The namespace goes when nothing else holds it.
    ///
    /// # Errors
    /// [`Error::NotANamespace`] when the file is neither a pin nor an empty mount point: it is left alone.
    pub fn remove(dir: &Path, name: &str) -> Result<(), Error> {
        pin::remove(dir, name)
    }

    /// What is pinned in `dir`, by name. A `dir` that does not exist holds nothing. Foreign files are not listed.
    ///
    /// # Errors
    /// [`Error::Kernel`] when the directory cannot be read to its end.
    pub fn list(dir: &Path) -> Result<Vec<Pin>, Error> {
        pin::list(dir)
    }

    /// Undoes what [`Netns::create`] did to `dir` itself, when nothing is pinned there: the mount, then the directory.
    ///
    /// For throw-away directories (the demo, tests), never for [`DEFAULT_DIR`].
    ///
    /// # Errors
    /// [`Error::Busy`] when something is pinned there still.
    pub fn remove_dir(dir: &Path) -> Result<(), Error> {
        pin::remove_dir(dir)
    }

    /// Which namespace this is.
    #[must_use]
    pub fn id(&self) -> NetnsId {
        self.shared.id
    }

    /// The number that the kernel gives to no other namespace of this boot (`SO_NETNS_COOKIE`).
    ///
    /// # Errors
    /// [`Error::Kernel`] before Linux 5.14, and when the process may open no more files.
    pub async fn cookie(&self) -> Result<u64, Error> {
        self.run(cookie::of_this_thread).await?
    }

    /// The open nsfs file, close-on-exec; what netlink's `IFLA_NET_NS_FD` takes.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.shared.fd.as_fd()
    }

    /// Runs `f` on the namespace's thread and waits for it. Closures of one namespace run one after the other.
    ///
    /// Dropping the future does not stop a closure that was sent.
    ///
    /// # Errors
    /// [`Error::Panicked`] when `f` panicked; the thread goes on serving the others.
    pub async fn run<T, F>(&self, f: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        if self.is_own_thread() {
            return outcome(catch_unwind(AssertUnwindSafe(f)), self.id());
        }
        let (answer, answered) = tokio::sync::oneshot::channel::<Caught<T>>();
        self.send(move || drop(answer.send(catch_unwind(AssertUnwindSafe(f)))))?;
        outcome(answered.await.map_err(|_| Error::ThreadEnded { netns: self.id() })?, self.id())
    }

    /// Like [`Netns::run`], blocking the caller: not for a task of an async runtime.
    ///
    /// # Errors
    /// As [`Netns::run`].
    pub fn run_blocking<T, F>(&self, f: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        if self.is_own_thread() {
            return outcome(catch_unwind(AssertUnwindSafe(f)), self.id());
        }
        let (answer, answered) = mpsc::sync_channel::<Caught<T>>(1);
        self.send(move || drop(answer.send(catch_unwind(AssertUnwindSafe(f)))))?;
        outcome(answered.recv().map_err(|_| Error::ThreadEnded { netns: self.id() })?, self.id())
    }

    fn send(&self, job: impl FnOnce() + Send + 'static) -> Result<(), Error> {
        self.shared.jobs.send(Box::new(job)).map_err(|_| Error::ThreadEnded { netns: self.id() })
    }

    /// A closure that holds a handle would wait for itself otherwise.
    fn is_own_thread(&self) -> bool {
        thread::current().id() == self.shared.thread
    }

    fn enter(file: OwnedFd) -> Result<Self, Error> {
        Self::spawn(move || enter::existing(file))
    }

    /// Starts the thread; `enter` puts it into its namespace and returns the namespace's file.
    fn spawn(enter: impl FnOnce() -> Result<OwnedFd, Error> + Send + 'static) -> Result<Self, Error> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (entered, ready) = mpsc::sync_channel(1);
        let thread = thread::Builder::new()
            .name("netns".to_owned())
            .spawn(move || {
                let result = enter();
                let inside = result.is_ok();
                if entered.send(result).is_ok() && inside {
                    serve(&queue);
                }
            })
            .map_err(|source| Error::io("start a thread for", "a network namespace", source))?;
        let fd = ready.recv().map_err(|_| Error::Panicked { netns: None, message: "while entering".to_owned() })??;
        let id = pin::id_of(fd.as_fd())?;
        Ok(Self { shared: Arc::new(Shared { id, fd, thread: thread.thread().id(), jobs }) })
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd()
    }
}

impl fmt::Debug for Netns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Netns").field(&self.id()).finish()
    }
}

impl PartialEq for Netns {
    /// Two handles are equal when they are of one namespace, be it through two threads.
    fn eq(&self, other: &Self) -> bool {
        self.id() == other.id()
    }
}

impl Eq for Netns {}

/// This boot, as a UUID: with [`Netns::cookie`] it names a namespace for ever.
///
/// # Errors
/// [`Error::Kernel`] when `/proc` is not mounted.
pub fn boot_id() -> Result<String, Error> {
    const FILE: &str = "/proc/sys/kernel/random/boot_id";
    let text = std::fs::read_to_string(FILE).map_err(|source| Error::io("read", FILE, source))?;
    Ok(text.trim().to_owned())
}

/// Ends when the last handle, and with it the sender, is dropped.
fn serve(queue: &mpsc::Receiver<Job>) {
    while let Ok(job) = queue.recv() {
        // The job caught a panic of its closure already; what is caught here is a panic in the drop of an answer
        // that nobody waits for any more.
        drop(catch_unwind(AssertUnwindSafe(job)));
    }
}

fn outcome<T>(caught: Caught<T>, netns: NetnsId) -> Result<T, Error> {
    caught.map_err(|payload| {
        let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| payload.downcast_ref::<String>().cloned());
        Error::Panicked { netns: Some(netns), message: text.unwrap_or_else(|| "without a message".to_owned()) }
    })
}
