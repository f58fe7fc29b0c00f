//! A capture file of dropped frames, as Wireshark and tcpdump read it.
//!
//! The classic format with times in nanoseconds (<https://www.ietf.org/archive/id/draft-ietf-opsawg-pcap-04.html>), in the byte
//! order of this machine. Of each frame it has the first 42 bytes, and the length of the whole.

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

/// The file.
pub struct Pcap {
    path: PathBuf,
    file: File,
}

impl Pcap {
    /// Makes the file, and says that it holds Ethernet frames that are cut.
    pub fn create(path: PathBuf) -> Result<Self, ControlError> {
        let file = File::create(&path).map_err(|error| unwritable(&path, &error))?;
        let mut pcap = Self { path, file };
        pcap.append(&file_header())?;
        Ok(pcap)
    }

    /// Adds a frame; it is in the file when this returns.
    pub fn write(&mut self, frame: &DroppedFrame) -> Result<(), ControlError> {
        self.append(&record(frame))
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), ControlError> {
        self.file.write_all(bytes).map_err(|error| unwritable(&self.path, &error))
    }
}

fn file_header() -> Vec<u8> {
    let mut header = MAGIC.to_ne_bytes().to_vec();
    header.extend(VERSION.iter().flat_map(|part| part.to_ne_bytes()));
    // The time zone and the accuracy of times, which are always 0.
    header.extend([0; 8]);
    header.extend([KEPT_BYTES, ETHERNET].iter().flat_map(|field| field.to_ne_bytes()));
    header
}

fn record(frame: &DroppedFrame) -> Vec<u8> {
    let (seconds, micros) = (frame.unix_microseconds / 1_000_000, frame.unix_microseconds % 1_000_000);
    let seconds = u32::try_from(seconds).unwrap_or(u32::MAX);
    let nanos = u32::try_from(micros * 1000).unwrap_or(0);
    let bytes = bytes_of(&frame.headers);
    let kept = u32::try_from(bytes.len()).unwrap_or(KEPT_BYTES).min(frame.bytes);
    let mut record: Vec<u8> =
        [seconds, nanos, kept, frame.bytes].iter().flat_map(|field| field.to_ne_bytes()).collect();
    record.extend(bytes.into_iter().take(kept as usize));
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
