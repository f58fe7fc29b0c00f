//! A capture file of dropped frames, as Wireshark and tcpdump read it.
//!
//! The classic format with times in nanoseconds (<https://www.ietf.org/archive/id/draft-ietf-opsawg-pcap-04.html>), in the byte
//! order of this machine. Of each frame it has the first 42 bytes, none where it is shorter, and the length of the whole.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use crate::api::views::DroppedFrame;
use crate::api::{ControlError, ErrorCode};

/// Says that times are in nanoseconds.
const MAGIC: u32 = 0xa1b2_3c4d;
const VERSION: [u16; 2] = [2, 4];
/// `LINKTYPE_ETHERNET`.
const ETHERNET: u32 = 1;
/// How many bytes of a frame the programs keep.
const KEPT_BYTES: u32 = 42;
/// An Ethernet header of IPv4, without addresses.
const NO_ETHERNET: [u8; 14] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0];

/// A file that can be written, which has what it had.
pub struct Opened {
    path: PathBuf,
    file: File,
}

/// The file.
pub struct Pcap(Opened);

impl Pcap {
    /// Opens the file, or makes it; what it has stays.
    pub fn open(path: PathBuf) -> Result<Opened, ControlError> {
        let file = File::options().write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(|error| unwritable(&path, &error))?;
        Ok(Opened { path, file })
    }

    /// Begins anew: says that the file holds Ethernet frames that are cut.
    pub fn begin(opened: Opened) -> Result<Self, ControlError> {
        // A pipe has no length, and nothing to lose.
        if opened.file.metadata().is_ok_and(|metadata| metadata.is_file()) {
            opened.file.set_len(0).map_err(|error| unwritable(&opened.path, &error))?;
        }
        let mut pcap = Self(opened);
        pcap.append(&file_header())?;
        Ok(pcap)
    }

    /// Adds a frame; it is in the file when this returns.
    pub fn write(&mut self, frame: &DroppedFrame) -> Result<(), ControlError> {
        self.append(&record(frame))
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), ControlError> {
        let Opened { path, file } = &mut self.0;
        file.write_all(bytes).map_err(|error| unwritable(path, &error))
    }
}

fn file_header() -> Vec<u8> {
    let mut header = MAGIC.to_ne_bytes().to_vec();
    header.extend(VERSION.iter().flat_map(|part| part.to_ne_bytes()));
    // The time zone and the accuracy of times, which are always 0.
    header.extend([0; 8]);
    header.extend([KEPT_BYTES + 14, ETHERNET].iter().flat_map(|field| field.to_ne_bytes()));
    header
}

fn record(frame: &DroppedFrame) -> Vec<u8> {
    let (seconds, micros) = (frame.unix_microseconds / 1_000_000, frame.unix_microseconds % 1_000_000);
    let seconds = u32::try_from(seconds).unwrap_or(u32::MAX);
    let nanos = u32::try_from(micros * 1000).unwrap_or(0);
    // Where it has no Ethernet header it is given one without addresses: the file is of Ethernet frames. Of one that is shorter
    // than the headers the programs kept nothing.
    let missing: &[u8] = if frame.is_ethernet { &[] } else { &NO_ETHERNET };
    let whole = frame.bytes.saturating_add(u32::try_from(missing.len()).unwrap_or(0));
    let bytes = if frame.bytes < KEPT_BYTES { Vec::new() } else { [missing, &bytes_of(&frame.headers)].concat() };
    let kept = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let mut record: Vec<u8> = [seconds, nanos, kept, whole].iter().flat_map(|field| field.to_ne_bytes()).collect();
    record.extend(bytes);
    record
}

/// The bytes of a text of hexadecimal digits; those before the first that is none.
fn bytes_of(text: &str) -> Vec<u8> {
    let pairs = text.as_bytes().chunks_exact(2).map_while(|pair| std::str::from_utf8(pair).ok());
    pairs.map_while(|pair| u8::from_str_radix(pair, 16).ok()).collect()
}

fn unwritable(path: &Path, error: &io::Error) -> ControlError {
    let message = format!("cannot write {}: {error}", path.display());
    ControlError::new(ErrorCode::InvalidArgument, message, "give --pcap a file that can be written")
}
