//! The bytes of a stream on the control socket: frames, so that the end of one side's bytes, the end of the stream and its
//! failure are told apart. `POST /v1/streams` switches a connection to them.

use super::{ControlError, ErrorBody};

/// What the connection is switched to, in the header `Upgrade`.
pub const PROTOCOL: &str = "privnet-stream";
/// The most bytes of a frame.
pub const MAX_FRAME_BYTES: usize = 64 * 1024;
/// The octets of a head.
pub const HEAD_BYTES: usize = 4;

/// Says that no more bytes come from this side.
pub const END: [u8; HEAD_BYTES] = [0; HEAD_BYTES];
/// Says that the stream has failed; an error follows.
const FAILED: [u8; HEAD_BYTES] = [0xff; HEAD_BYTES];

/// The head of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// So many bytes follow.
    Bytes(usize),
    /// No more bytes come from this side.
    End,
    /// The stream has failed, and an error as JSON follows, to the end of the connection.
    Failed,
}

impl Head {
    /// Reads one; nothing where it announces more than a frame has.
    #[must_use]
    pub fn read(octets: [u8; HEAD_BYTES]) -> Option<Self> {
        match (octets, usize::try_from(u32::from_be_bytes(octets)).ok()?) {
            (FAILED, _) => Some(Self::Failed),
            (_, 0) => Some(Self::End),
            (_, length) => (length <= MAX_FRAME_BYTES).then_some(Self::Bytes(length)),
        }
    }
}

/// A buffer in which bytes and their head become a frame.
pub struct FrameBuffer(Box<[u8]>);

impl FrameBuffer {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self(vec![0; HEAD_BYTES + MAX_FRAME_BYTES].into())
    }

    /// Where bytes are read into.
    pub fn bytes(&mut self) -> &mut [u8] {
        &mut self.0[HEAD_BYTES..]
    }

    /// The first `length` of the bytes as a frame; the end where they are none.
    pub fn frame(&mut self, length: usize) -> &[u8] {
        let length = length.min(MAX_FRAME_BYTES);
        let announced = u32::try_from(length).unwrap_or_default();
        self.0[..HEAD_BYTES].copy_from_slice(&announced.to_be_bytes());
        &self.0[..HEAD_BYTES + length]
    }
}

impl Default for FrameBuffer {
    fn default() -> Self {
        Self::new()
    }
}

/// The failure of a stream, as the last frame.
#[must_use]
pub fn failure(error: ControlError) -> Vec<u8> {
    let error = serde_json::to_vec(&ErrorBody { error }).unwrap_or_default();
    [&FAILED, &*error].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::ErrorCode;

    #[test]
    fn a_head_is_bytes_the_end_or_a_failure_and_nothing_larger_than_a_frame() {
        for (octets, head) in [
            ([0, 0, 0, 0], Some(Head::End)),
            ([0, 0, 0, 1], Some(Head::Bytes(1))),
            ([0, 1, 0, 0], Some(Head::Bytes(MAX_FRAME_BYTES))),
            ([0, 1, 0, 1], None),
            ([0xff, 0xff, 0xff, 0xfe], None),
            ([0xff; 4], Some(Head::Failed)),
        ] {
            assert_eq!(Head::read(octets), head, "{octets:?}");
        }
    }

    #[test]
    fn a_frame_is_its_head_and_its_bytes() {
        let mut buffer = FrameBuffer::new();
        assert_eq!(buffer.bytes().len(), MAX_FRAME_BYTES);
        buffer.bytes()[..3].copy_from_slice(b"abc");
        assert_eq!(buffer.frame(3), b"\0\0\0\x03abc");
        assert_eq!(buffer.frame(0), END);
        let failure = failure(ControlError::new(ErrorCode::Timeout, "it took long", "wait"));
        let octets = failure[..HEAD_BYTES].try_into().expect("a head");
        assert_eq!(Head::read(octets), Some(Head::Failed));
        let body: ErrorBody = serde_json::from_slice(&failure[HEAD_BYTES..]).expect("an error");
        assert_eq!(body.error.message, "it took long");
    }
}
