//! A namespace is a thread: the handle, its thread, and the closures that run there.

use std::any::Any;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::thread::{self, ThreadId};

use rustix::io::Errno;

use super::{Error, NetnsId, enter, file};

/// A network namespace and the thread that is in it. Clones share the thread, which ends after the last of them.
///
/// The handle keeps the namespace alive, also after its pin and all its processes are gone.
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
    /// Creates a namespace without a pin: it exists as long as its handles, processes and sockets.
    ///
    /// # Errors
    /// [`Error::NotPermitted`] without `CAP_SYS_ADMIN`; [`Error::Kernel`] when the kernel refuses.
    pub fn create_anonymous() -> Result<Self, Error> {
        Self::spawn(enter::new_namespace)
    }

    /// Opens the namespace at `path`: a pin, or `/proc/<pid>/ns/net`.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the path does not exist or its process has ended, [`Error::NotANamespace`] when it is
    /// another file, or a namespace of another kind.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Self::enter(file::open(path)?)
    }

    /// Opens the namespace at `path`, if there is one: not where nothing is, nor its process any more, nor where another file
    /// is, as the mount point of a pin a moment before and after the namespace.
    ///
    /// # Errors
    /// As [`Netns::open`] otherwise: a namespace that cannot be opened, for want of a permission or a descriptor, is there.
    pub fn find(path: &Path) -> Result<Option<Self>, Error> {
        match Self::open(path) {
            Err(Error::NotFound { .. } | Error::NotANamespace { .. }) => Ok(None),
            opened => opened.map(Some),
        }
    }

    /// The namespace of the calling thread.
    ///
    /// # Errors
    /// [`Error::Kernel`] when `/proc` is not mounted.
    pub fn current() -> Result<Self, Error> {
        Self::open(Path::new(file::OWN))
    }

    /// The identity of the namespace at `path`, without entering it.
    ///
    /// # Errors
    /// As [`Netns::open`].
    pub fn identify(path: &Path) -> Result<NetnsId, Error> {
        file::id_of(file::open(path)?.as_fd())
    }

    /// Whether a path leads to the namespace of an identity. Nothing is opened, and where the kernel does not say, it does: a
    /// lack of descriptors or of a permission says nothing of a namespace.
    #[must_use]
    pub fn leads_to(path: &Path, id: NetnsId) -> bool {
        match rustix::fs::stat(path) {
            Ok(found) => id == NetnsId { dev: found.st_dev, ino: found.st_ino },
            Err(error) => !matches!(error, Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG),
        }
    }

    /// The identity of the namespace.
    #[must_use]
    pub fn id(&self) -> NetnsId {
        self.shared.id
    }

    /// The open nsfs file, close-on-exec; what netlink's `IFLA_NET_NS_FD` takes.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.shared.fd.as_fd()
    }

    /// Runs `f` on the namespace's thread and waits for it. Closures of one namespace run one after the other.
    ///
    /// A dropped future does not stop its closure.
    ///
    /// # Errors
    /// [`Error::Panicked`] when `f` panicked; the thread goes on with the next closure.
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

    /// A closure that holds a handle can call [`Netns::run`]: sent to its own thread, it would wait for itself.
    fn is_own_thread(&self) -> bool {
        thread::current().id() == self.shared.thread
    }

    fn enter(file: OwnedFd) -> Result<Self, Error> {
        Self::spawn(move || enter::existing(file))
    }

    /// Starts the thread. `enter` puts it into its namespace and returns the namespace's file.
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
        let id = file::id_of(fd.as_fd())?;
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
    /// Handles are equal when their namespace is the same, also with two threads.
    fn eq(&self, other: &Self) -> bool {
        self.id() == other.id()
    }
}

impl Eq for Netns {}

/// Runs the closures in order, until the last handle, and with it the sender, is dropped.
fn serve(queue: &mpsc::Receiver<Job>) {
    while let Ok(job) = queue.recv() {
        // The job catches a panic of its closure. This catches a panic in the drop of an answer whose receiver is gone.
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
