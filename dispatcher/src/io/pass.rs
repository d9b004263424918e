//! Messages between two processes of this machine, with open descriptors beside them (`SCM_RIGHTS`), and memory that is passed as one.
//!
//! A message is what it is (a number), how many bytes it has, and these. Descriptors go with its first byte. Both have bounds, and whoever waits says until when.

use super::sys;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Most bytes of a message. What is longer goes as memory.
pub const LONGEST: usize = 1 << 20;

/// Most descriptors of a message: a kernel takes 253.
pub const MOST: usize = 250;

/// What has come.
#[derive(Debug)]
pub struct Message {
    /// What it is.
    pub kind: u32,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// What came beside it.
    pub files: Vec<OwnedFd>,
}

/// A connection to another process.
#[derive(Debug)]
pub struct Passage(UnixStream);

impl Passage {
    /// Over this connection, whatever was said there before.
    pub fn new(stream: UnixStream) -> io::Result<Passage> {
        stream.set_nonblocking(false)?;
        Ok(Passage(stream))
    }

    /// Sends a message, within `patience`.
    pub fn send(&mut self, kind: u32, bytes: &[u8], files: &[BorrowedFd<'_>], patience: Duration) -> io::Result<()> {
        if bytes.len() > LONGEST || files.len() > MOST {
            return Err(io::Error::other("a message that is too long"));
        }
        self.0.set_write_timeout(Some(patience.max(Duration::from_millis(1))))?;
        let mut all = Vec::with_capacity(8 + bytes.len());
        all.extend_from_slice(&kind.to_le_bytes());
        all.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        all.extend_from_slice(bytes);
        let fds: Vec<RawFd> = files.iter().map(AsRawFd::as_raw_fd).collect();
        let sent = sys::send_with_files(&self.0, &all, &fds)?;
        self.0.write_all(&all[sent..])
    }

    /// The next message, if it comes by `until`. An error of kind `UnexpectedEof` says that the other process has gone.
    pub fn receive(&mut self, until: Instant) -> io::Result<Message> {
        let mut head = [0; 8];
        let (mut got, mut files) = (0, Vec::new());
        while got < head.len() {
            self.wait(until)?;
            match sys::receive_with_files(&self.0, &mut head[got..], &mut files)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => got += n,
            }
        }
        let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let (kind, len) = (word(0), word(4) as usize);
        if len > LONGEST {
            return Err(io::Error::other("a message that is too long"));
        }
        let mut bytes = vec![0; len];
        let mut got = 0;
        while got < len {
            self.wait(until)?;
            match self.0.read(&mut bytes[got..]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => got += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(Message { kind, bytes, files })
    }

    /// Whether a message has come, or the other process has gone, after waiting for so long at most.
    pub fn poll(&self, patience: Duration) -> io::Result<bool> {
        let mut fd = libc::pollfd { fd: self.0.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        sys::poll_one(&mut fd, patience)
    }

    fn wait(&self, until: Instant) -> io::Result<()> {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.0.set_read_timeout(Some(left))
    }
}

/// Memory with these bytes, that can be passed.
pub fn memory(bytes: &[u8]) -> io::Result<OwnedFd> {
    Blank::new(0)?.fill(bytes)
}

/// Memory that can be passed, with nothing in it yet.
#[derive(Debug)]
pub struct Blank(File);

impl Blank {
    /// The system gives memory for so many bytes now, where it can. Otherwise it does so page by page as they are written.
    pub fn new(bytes: usize) -> io::Result<Blank> {
        let file = sys::memory_file()?;
        sys::reserve(&file, bytes);
        Ok(Blank(file.into()))
    }

    /// With these bytes, also if they are more.
    pub fn fill(mut self, bytes: &[u8]) -> io::Result<OwnedFd> {
        self.0.write_all(bytes)?;
        self.0.set_len(bytes.len() as u64)?;
        Ok(self.0.into())
    }
}

/// An empty vector with room for so many bytes, which the system gives now: all at once, not page by page as they are written.
pub fn room(bytes: usize) -> Vec<u8> {
    let room = Vec::with_capacity(bytes);
    sys::populate(&(room.as_ptr()..room.as_ptr().wrapping_add(room.capacity())));
    room
}

/// What lies in memory that was passed; no more than `most` bytes.
pub fn contents(memory: OwnedFd, most: u64) -> io::Result<Vec<u8>> {
    let mut file = File::from(memory);
    let len = file.metadata()?.len();
    if len > most {
        return Err(io::Error::other("more than is taken"));
    }
    file.seek(SeekFrom::Start(0))?;
    let mut bytes = room(len as usize);
    file.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    fn pair() -> (Passage, Passage) {
        let (a, b) = UnixStream::pair().unwrap();
        (Passage::new(a).unwrap(), Passage::new(b).unwrap())
    }

    #[test]
    fn messages_come_as_they_were_sent_with_the_memory_beside_them() {
        let (mut a, mut b) = pair();
        let state: Vec<u8> = (0..300_000u32).map(|n| n as u8).collect();
        let (one, two) = (memory(&state).unwrap(), memory(b"two").unwrap());
        a.send(1, b"first", &[], Duration::from_secs(1)).unwrap();
        a.send(2, b"", &[one.as_fd(), two.as_fd()], Duration::from_secs(1)).unwrap();
        drop((one, two));
        a.send(3, b"last", &[], Duration::from_secs(1)).unwrap();
        drop(a);
        let first = b.receive(soon()).unwrap();
        assert_eq!((first.kind, &first.bytes[..], first.files.len()), (1, &b"first"[..], 0));
        let second = b.receive(soon()).unwrap();
        let mut files = second.files.into_iter();
        assert!(contents(files.next().unwrap(), 1 << 20).unwrap() == state);
        assert_eq!(contents(files.next().unwrap(), 3).unwrap(), b"two");
        let third = b.receive(soon()).unwrap();
        assert_eq!((third.kind, &third.bytes[..], third.files.len()), (3, &b"last"[..], 0));
        assert_eq!(b.receive(soon()).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn memory_that_was_given_before_has_what_is_written_and_no_more_whether_it_was_too_much_or_too_little() {
        let state: Vec<u8> = (0..300_000u32).map(|n| n as u8).collect();
        for before in [0, 1, state.len(), 1 << 20] {
            let filled = Blank::new(before).unwrap().fill(&state).unwrap();
            assert!(contents(filled, 1 << 20).unwrap() == state, "{before}");
        }
        let room = room(100_000);
        assert!(room.is_empty() && room.capacity() >= 100_000);
    }

    #[test]
    fn what_does_not_come_in_time_is_not_waited_for_and_what_is_too_long_is_refused() {
        let (mut a, mut b) = pair();
        let began = Instant::now();
        let late = b.receive(began + Duration::from_millis(50)).unwrap_err();
        assert!(matches!(late.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock), "{late}");
        assert!(a.send(1, &vec![0; LONGEST + 1], &[], Duration::from_secs(1)).is_err());
        a.0.write_all(&[1, 0, 0, 0, 255, 255, 255, 255]).unwrap();
        assert!(b.receive(soon()).is_err());
        assert!(contents(memory(b"12345").unwrap(), 4).is_err());
    }
}
