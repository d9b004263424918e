//! Wakes a thread that sleeps in [`wait_readable`](super::wait_readable): an `eventfd(2)`.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// See the module's description. Any thread may ring it.
#[derive(Debug)]
pub struct Doorbell {
    file: File,
}

impl Doorbell {
    /// One that is silent.
    pub fn new() -> io::Result<Doorbell> {
        // SAFETY: no pointers.
        match unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) } {
            -1 => Err(io::Error::last_os_error()),
            // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
            fd => Ok(Doorbell { file: unsafe { OwnedFd::from_raw_fd(fd) }.into() }),
        }
    }

    /// Rings; it stays rung until silenced.
    pub fn ring(&self) {
        // Fails only when it has been rung 2^64 times: then it is rung.
        let _ = (&self.file).write(&1u64.to_ne_bytes());
    }

    /// What is readable while it rings.
    pub fn fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// Stops its ringing: how often it was rung since the last time.
    pub fn silence(&self) -> usize {
        let mut rings = [0; 8];
        match (&self.file).read(&mut rings) {
            Ok(8) => u64::from_ne_bytes(rings) as usize,
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn a_ring_ends_a_wait_from_another_thread_and_silence_ends_the_ring() {
        let bell = Doorbell::new().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| bell.ring());
            let before = Instant::now();
            crate::io::wait_readable(&[bell.fd()], Duration::from_secs(20));
            assert!(before.elapsed() < Duration::from_secs(10));
        });
        bell.ring();
        assert_eq!([bell.silence(), bell.silence()], [2, 0]);
        let before = Instant::now();
        crate::io::wait_readable(&[bell.fd()], Duration::from_millis(30));
        assert!(before.elapsed() >= Duration::from_millis(30));
    }
}
