//! The archive that a kernel unpacks as its first file system: cpio, "newc" format.
//!
//! Format: Documentation/driver-api/early-userspace/buffer-format.rst of the kernel. Everything in it is root's.

use std::io::{self, Write};

/// The mode bits that tell what an entry is: inode(7).
const FOLDER: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;

/// Writes entries to `out`; folders before what is in them.
pub struct Archive<W> {
    out: W,
    /// The number of the entry; two entries of one number would be hard links.
    inode: u32,
}

impl<W: Write> Archive<W> {
    /// An empty archive.
    pub fn new(out: W) -> Self {
        Self { out, inode: 0 }
    }

    /// Adds a folder; `path` has no `/` in front.
    pub fn folder(&mut self, path: &str, permissions: u32) -> io::Result<()> {
        self.entry(path, FOLDER | permissions, &[])
    }

    /// Adds a file.
    pub fn file(&mut self, path: &str, permissions: u32, content: &[u8]) -> io::Result<()> {
        self.entry(path, FILE | permissions, content)
    }

    /// Adds a symbolic link to `target`.
    pub fn link(&mut self, path: &str, target: &str) -> io::Result<()> {
        self.entry(path, LINK | 0o777, target.as_bytes())
    }

    /// Ends the archive.
    pub fn finish(mut self) -> io::Result<W> {
        self.inode = 0;
        self.entry("TRAILER!!!", 0, &[])?;
        Ok(self.out)
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        let size = u32::try_from(content.len()).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
        let name_size = u32::try_from(path.len() + 1).map_err(|_| io::Error::from(io::ErrorKind::InvalidFilename))?;
        self.inode += 1;
        let links = 1;
        // inode mode uid gid links mtime size, the device of the file, the device that it is, name, checksum.
        let fields = [self.inode, mode, 0, 0, links, 0, size, 0, 0, 0, 0, name_size, 0];
        let header: String = fields.iter().map(|field| format!("{field:08X}")).collect();
        let head = format!("070701{header}{path}\0");
        self.padded(head.as_bytes())?;
        self.padded(content)
    }

    /// Writes `bytes` and fills up to a multiple of four.
    fn padded(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        let missing = bytes.len().next_multiple_of(4) - bytes.len();
        self.out.write_all(&[0; 3][..missing])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_is_byte_for_byte_what_the_format_says() {
        let mut archive = Archive::new(Vec::new());
        archive.folder("a", 0o755).expect("a vector");
        archive.file("a/b", 0o644, b"hello").expect("a vector");
        let bytes = archive.finish().expect("a vector");
        let text = String::from_utf8(bytes).expect("no other bytes");
        let folder = "070701000000010000\
                      41ED0000000000000000000000010000000000000000000000000000000000000000000000000000000200000000a\0";
        let file = "070701000000020000\
                    81A4000000000000000000000001000000000000000500000000000000000000000000000000000000040000\
                    0000a/b\0\0\0hello\0\0\0";
        assert!(text.starts_with(folder), "{text:?}");
        assert!(text[folder.len()..].starts_with(file), "{text:?}");
        assert!(text.ends_with("TRAILER!!!\0\0\0\0"));
        assert_eq!(text.len() % 4, 0);
    }

    #[test]
    fn a_link_holds_its_target() {
        let mut archive = Archive::new(Vec::new());
        archive.link("lib", "usr/lib").expect("a vector");
        let text = String::from_utf8(archive.finish().expect("a vector")).expect("no other bytes");
        assert!(text.starts_with("0707010000000100 00A1FF".replace(' ', "").as_str()), "{text:?}");
        assert!(text.contains("lib\0\0\0usr/lib\0"));
    }
}
