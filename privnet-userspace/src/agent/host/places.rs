//! The directories that the agent pins in: the bpffs, and the one of the namespaces. Made usable at the start, and looked at
//! by `doctor`.

use std::fs;
use std::io;
use std::path::Path;

use rustix::fs::Access;
use rustix::io::Errno;
use rustix::mount::MountFlags;

use crate::agent::door::error::{ControlError, ErrorCode};
use crate::datapath;
use crate::model::FileError;
use crate::model::explain::Explain as _;

/// Has a bpffs at `dir` that can be written: one that is gone is mounted again, since without one nothing can be pinned, and
/// isolation would end with the agent. Nothing is hidden by that: files of others in `dir` are a reason to refuse.
///
/// # Errors
/// With what stands there, and the remedy. Nothing was changed, apart from an empty directory that may be there.
pub fn have_bpffs(dir: &Path) -> Result<(), ControlError> {
    if !is_on_bpffs(dir) {
        mount_bpffs(dir)?;
    }
    have_writable(dir)
}

/// Whether a directory is on a bpffs, or would be if it were made.
#[must_use]
pub fn is_on_bpffs(dir: &Path) -> bool {
    dir.ancestors().find(|ancestor| ancestor.exists()).is_some_and(datapath::is_bpffs)
}

/// Has a directory at `dir` that can be written.
///
/// # Errors
/// With the kernel's reason, and the remedy.
pub fn have_writable(dir: &Path) -> Result<(), ControlError> {
    fs::create_dir_all(dir).map_err(|error| unusable("create", dir, error))?;
    is_writable(dir)
}

/// Whether the file system of a directory, which must exist, takes changes.
///
/// # Errors
/// With the kernel's reason, and the remedy.
pub fn is_writable(dir: &Path) -> Result<(), ControlError> {
    rustix::fs::access(dir, Access::WRITE_OK | Access::EXEC_OK).map_err(|errno| unusable("write to", dir, errno.into()))
}

/// Whether a bpffs can be mounted on a directory without hiding files of others.
///
/// # Errors
/// With such a file, and the remedy.
pub fn has_room_for_bpffs(dir: &Path) -> Result<(), ControlError> {
    let mut entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(|error| unusable("list", dir, error))?,
    };
    let Some(entry) = entries.next() else { return Ok(()) };
    let name = entry.map_or_else(|_| "a file".into(), |entry| entry.file_name().to_string_lossy().into_owned());
    let shown = dir.display();
    Err(ControlError::new(
        ErrorCode::Internal,
        format!("{shown} is not on a BPF file system, and holds {name}"),
        format!("take away what is mounted or stored there (`umount {shown}`): the agent mounts a BPF file system"),
    ))
}

fn mount_bpffs(dir: &Path) -> Result<(), ControlError> {
    fs::create_dir_all(dir).map_err(|error| unusable("create", dir, error))?;
    has_room_for_bpffs(dir)?;
    let shown = dir.display();
    rustix::mount::mount("bpf", dir, "bpf", MountFlags::empty(), None).map_err(|errno| {
        let remedy = match errno {
            Errno::NODEV => "use a kernel with BPF (CONFIG_BPF_SYSCALL)".to_owned(),
            Errno::PERM | Errno::ACCESS => format!("run it as root, or mount it before: `mount -t bpf bpf {shown}`"),
            _ => format!("mount it by hand: `mount -t bpf bpf {shown}`"),
        };
        ControlError::new(ErrorCode::Internal, format!("cannot mount a BPF file system on {shown}: {errno}"), remedy)
    })?;
    tracing::info!("mounted a BPF file system on {shown}");
    Ok(())
}

fn unusable(op: &'static str, dir: &Path, source: io::Error) -> ControlError {
    let is_denied = source.kind() == io::ErrorKind::PermissionDenied;
    let reason = source.to_string();
    let error = FileError { op, path: dir.to_owned(), source };
    let denied = || is_denied.then(|| "run the agent as root".to_owned());
    let remedy = error.remedy().or_else(denied);
    let remedy = remedy.unwrap_or_else(|| format!("see what {} is: `findmnt -T {0}`", dir.display()));
    ControlError::new(ErrorCode::Internal, format!("{error}: {reason}"), remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bpffs_is_not_mounted_over_files_of_others() {
        let directory = tempfile::tempdir().expect("a directory");
        fs::write(directory.path().join("precious"), "theirs").expect("written");
        let refused = have_bpffs(directory.path()).expect_err("it would hide the file");
        assert!(refused.message.ends_with("is not on a BPF file system, and holds precious"), "{refused:?}");
        assert!(refused.remedy.contains("umount"), "{refused:?}");
    }

    #[test]
    fn a_directory_is_made_and_a_file_in_its_place_is_named() {
        let directory = tempfile::tempdir().expect("a directory");
        let inner = directory.path().join("a/b");
        assert_eq!(have_writable(&inner), Ok(()));
        let file = inner.join("file");
        fs::write(&file, "").expect("written");
        let refused = have_writable(&file.join("c")).expect_err("a file is in the way");
        assert!(refused.message.contains("file") && !refused.remedy.is_empty(), "{refused:?}");
    }
}
