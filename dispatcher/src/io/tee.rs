//! A port that writes everything that passes into a capture, each direction as an interface of its own.
//!
//! Frames are written as they are received, before the engine rewrites them, and as they are handed over for sending.
//! A file that can no longer be written (a full disk) is given up and what is missing counted as `tee-not-written`;
//! traffic passes all the same. Writing is done by the worker itself: this is for finding faults, not for every day.

use super::pcap::Recording;
use super::{Burst, Loss, OpenError, Port, Receiver, Slot, Traffic, Transmitter};
use crate::wire::Frame;
use std::cell::RefCell;
use std::os::fd::RawFd;
use std::path::Path;
use std::rc::Rc;

/// Wraps `port`; what passes goes into the pcapng file at `path`, which is begun anew.
pub fn tee(port: Port, name: &str, path: &Path) -> Result<Port, OpenError> {
    let recording = Recording::create(path, &format!("{name}-received"))?.second(&format!("{name}-sent"))?;
    let recording = Rc::new(RefCell::new(recording));
    Ok(Port {
        description: format!("{}, recorded in {}", port.description, path.display()),
        rx: Box::new(TeeReceiver { inner: port.rx, recording: recording.clone(), missing: 0 }),
        // Bytes of a slot can be read only through its receiver, so sending goes by copies.
        tx: Box::new(TeeTransmitter { inner: port.tx, recording, missing: 0 }),
    })
}

struct TeeReceiver {
    inner: Box<dyn Receiver>,
    recording: Rc<RefCell<Recording>>,
    missing: u64,
}

impl Receiver for TeeReceiver {
    fn receive(&mut self, burst: &mut Burst) {
        let before = burst.len();
        self.inner.receive(burst);
        let mut recording = self.recording.borrow_mut();
        for slot in &mut burst[before..] {
            self.missing += u64::from(!recording.write_to(0, self.inner.frame(slot).bytes()));
        }
    }

    fn frame<'a>(&'a mut self, slot: &'a mut Slot) -> Frame<'a> {
        self.inner.frame(slot)
    }

    fn release(&mut self, slot: Slot) {
        self.inner.release(slot);
    }

    fn wait_fd(&self) -> Option<RawFd> {
        self.inner.wait_fd()
    }

    fn device_event(&mut self) {
        self.inner.device_event();
    }

    fn exhausted(&self) -> bool {
        self.inner.exhausted()
    }

    fn traffic(&mut self) -> Traffic {
        let mut traffic = self.inner.traffic();
        traffic.lost(Loss::TeeNotWritten, self.missing);
        traffic
    }
}

struct TeeTransmitter {
    inner: Box<dyn Transmitter>,
    recording: Rc<RefCell<Recording>>,
    missing: u64,
}

impl Transmitter for TeeTransmitter {
    fn takes(&self, _: &Slot) -> bool {
        false
    }

    fn transmit(&mut self, slot: Slot) -> Result<(), Slot> {
        Err(slot)
    }

    fn transmit_copy(&mut self, frame: &[u8]) -> bool {
        let sent = self.inner.transmit_copy(frame);
        if sent {
            self.missing += u64::from(!self.recording.borrow_mut().write_to(1, frame));
        }
        sent
    }

    fn flush(&mut self) {
        self.inner.flush();
    }

    fn traffic(&mut self) -> Traffic {
        let mut traffic = self.inner.traffic();
        traffic.lost(Loss::TeeNotWritten, self.missing);
        traffic
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::Capture;
    use crate::io::mem::Memory;
    use crate::io::send;

    #[test]
    fn both_directions_are_recorded_as_they_passed() {
        let path = std::env::temp_dir().join(format!("dispatcher-tee-{}.pcapng", std::process::id()));
        let memory = Memory::new(8);
        let (port, wire) = memory.port(8);
        let mut port = tee(port, "lan", &path).unwrap();
        assert!(wire.inject(&[1; 60]));
        let mut burst = Burst::new();
        port.rx.receive(&mut burst);
        let mut slot = burst.pop().unwrap();
        port.rx.frame(&mut slot).bytes_mut().fill(2);
        assert!(send(&mut *port.rx, &mut *port.tx, slot));
        port.tx.flush();
        assert_eq!(wire.take().unwrap(), [2; 60]);
        assert_eq!(memory.available(), 8);
        drop(port);
        let capture = Capture::open(&path).unwrap();
        let frames: Vec<_> =
            capture.frames().unwrap().map(|f| f.map(|f| (f.interface, f.bytes.to_vec())).unwrap()).collect();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(frames, [(0, vec![1; 60]), (1, vec![2; 60])]);
    }

    #[test]
    fn a_full_disk_costs_the_record_and_not_the_traffic() {
        let memory = Memory::new(8);
        let (port, _wire) = memory.port(8);
        let mut port = tee(port, "lan", Path::new("/dev/full")).unwrap();
        // More than is buffered before the disk is asked.
        for _ in 0..300 {
            for _ in 0..8 {
                assert!(port.tx.transmit_copy(&[3; 1500]));
            }
            port.tx.flush();
            while _wire.take().is_some() {}
        }
        let traffic = port.tx.traffic();
        assert_eq!(traffic.frames, 2400);
        assert!(traffic.lost_to(Loss::TeeNotWritten) > 1000);
    }
}
