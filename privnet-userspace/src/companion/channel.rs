//! Messages with descriptors over a unix socket: one each way on a connection.
//!
//! A message is a line of JSON. It ends with its line feed, or where the writing side is shut: the WireGuard processes of
//! builds before this one end theirs in the first way and wait for it, the DNS processes in the second, and each of them
//! understands a message that ends in both.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    Shutdown,
};
use tokio::io::Interest;
use tokio::net::UnixStream;
use zeroize::Zeroizing;

/// Most descriptors in one message; the kernel takes 253.
const MOST_FILES: usize = 64;
/// How much is read at once, in octets: of a long message, and of one with a secret.
const CHUNK_OCTETS: usize = 64 << 10;
/// How much is read at first of any other one. Nearly all are shorter, and an agent sends one to each of hundreds of processes:
/// what a chunk costs, and a process never gives back, is its pages, which are written when it is made and when it is erased.
const FIRST_OCTETS: usize = 4 << 10;

/// Sends one message, the descriptors with its first octets, and shuts the writing side.
///
/// # Errors
/// When the other side is gone, or there are more descriptors than one message takes, or no octets.
pub async fn send(stream: &UnixStream, message: &[u8], files: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut sent = 0;
    let mut files = files;
    while sent < message.len() {
        stream.writable().await?;
        let some = stream.try_io(Interest::WRITABLE, || send_some(stream, &message[sent..], files));
        match some {
            Ok(more) => {
                sent += more;
                files = &[];
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    rustix::net::shutdown(stream, Shutdown::Write)?;
    Ok(())
}

fn send_some(stream: &UnixStream, message: &[u8], files: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FILES))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() && !control.push(SendAncillaryMessage::ScmRights(files)) {
        return Err(io::Error::other("more descriptors than there is room for"));
    }
    Ok(rustix::net::sendmsg(stream, &[IoSlice::new(message)], &mut control, SendFlags::NOSIGNAL)?)
}

/// Receives one message of at most `most` octets, and the descriptors that came with it. The first `secret` octets may be
/// any; they are erased from memory when the message is dropped.
///
/// # Errors
/// When it is longer, or the socket fails.
pub async fn receive(
    stream: &UnixStream,
    most: usize,
    secret: usize,
) -> io::Result<(Zeroizing<Vec<u8>>, Vec<OwnedFd>)> {
    // As long as a secret is in the message, it does not grow: that would leave a copy behind.
    let first = if secret > 0 { CHUNK_OCTETS } else { FIRST_OCTETS };
    let mut message = Zeroizing::new(Vec::with_capacity(first));
    let mut files = Vec::new();
    let mut chunk = Zeroizing::new(vec![0; first]);
    loop {
        stream.readable().await?;
        match stream.try_io(Interest::READABLE, || receive_some(stream, &mut chunk, &mut files)) {
            Ok(0) => return Ok((message, files)),
            Ok(more) if message.len() + more > most => return Err(io::Error::other("the message is too long")),
            Ok(more) => {
                message.extend_from_slice(&chunk[..more]);
                if message.len() > secret && message.ends_with(b"\n") {
                    return Ok((message, files));
                }
                if more == chunk.len() && more < CHUNK_OCTETS {
                    chunk = Zeroizing::new(vec![0; CHUNK_OCTETS]);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

fn receive_some(stream: &UnixStream, chunk: &mut [u8], files: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FILES))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::net::recvmsg(stream, &mut [IoSliceMut::new(chunk)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(passed) = message {
            files.extend(passed);
        }
    }
    Ok(received.bytes)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::fd::AsFd as _;

    use super::*;

    #[tokio::test]
    async fn a_long_message_arrives_whole_with_its_files() {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let message = vec![7; 3 << 20];
        let (mut reader, mut writer) = io::pipe().expect("a pipe");
        let files = [writer.as_fd()];
        let (sent, received) = tokio::join!(send(&ours, &message, &files), receive(&theirs, 4 << 20, 0));
        sent.expect("sent");
        let (arrived, files) = received.expect("received");
        assert!(*arrived == message);
        let [file] = &files[..] else { panic!("{files:?}") };
        std::fs::File::from(file.try_clone().expect("copied")).write_all(b"x").expect("written");
        writer.write_all(b"y").expect("written");
        drop((writer, files));
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("read");
        assert_eq!(text, "xy");
    }

    #[tokio::test]
    async fn a_message_that_is_too_long_is_refused_and_a_shorter_one_is_not() {
        for (octets, fits) in [(100, true), (101, false)] {
            let (ours, theirs) = UnixStream::pair().expect("a pair");
            let message = vec![7; octets];
            let (sent, received) = tokio::join!(send(&ours, &message, &[]), receive(&theirs, 100, 0));
            sent.expect("sent");
            assert_eq!(received.is_ok(), fits);
        }
    }

    #[tokio::test]
    async fn a_short_message_takes_little_memory_and_one_with_a_secret_never_moves() {
        for (octets, secret, room) in [(300, 0, FIRST_OCTETS), (300, 32, CHUNK_OCTETS), (50_000, 32, CHUNK_OCTETS)] {
            let (ours, theirs) = UnixStream::pair().expect("a pair");
            let message = vec![7; octets];
            let (sent, received) = tokio::join!(send(&ours, &message, &[]), receive(&theirs, 4 << 20, secret));
            sent.expect("sent");
            let (arrived, _) = received.expect("received");
            assert_eq!((arrived.len(), arrived.capacity()), (octets, room));
        }
    }

    #[tokio::test]
    async fn a_message_ends_with_its_line_or_where_the_writing_side_is_shut() {
        use tokio::io::AsyncWriteExt as _;
        for (written, shut, secret, read) in [
            (b"{}\n".as_slice(), false, 0, b"{}\n".as_slice()),
            (b"{}", true, 0, b"{}"),
            (b"\n\n{}\n", false, 2, b"\n\n{}\n"),
            (b"\n\n", true, 2, b"\n\n"),
        ] {
            let (mut ours, theirs) = UnixStream::pair().expect("a pair");
            ours.write_all(written).await.expect("written");
            if shut {
                ours.shutdown().await.expect("shut");
            }
            let (message, files) = receive(&theirs, 100, secret).await.expect("received");
            assert_eq!((message.as_slice(), files.len()), (read, 0));
        }
    }
}
