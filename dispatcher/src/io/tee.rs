//! A port that writes everything that passes into a capture, each direction as an interface of its own.
//!
//! Frames are written as they are received, before the engine rewrites them, and as they are handed over for sending.
//! A file that can no longer be written (a full disk) is given up and what is missing counted as `tee-not-written`;
//! traffic passes all the same. Writing is done by the worker itself: this is for finding faults, not for every day.

use super::pcap::Recording;
use super::{Burst, Divide, Loss, OpenError, Port, Receiver, Slot, Traffic, Transmitter, WaitFds, offload};
use crate::pack::Unreadable;
use crate::wire::Frame;
use std::cell::RefCell;
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
            let frame = self.inner.frame(slot);
            if frame.offload().is_finished() {
                self.missing += u64::from(!recording.write_to(0, frame.bytes()));
                continue;
            }
            // Recorded as it would have come by a wire; what is worked on stays as it is.
            let mut copy = frame.bytes().to_vec();
            let mut copy = Frame::whole(&mut copy).with(frame.offload());
            offload::finish(&mut copy, &mut |bytes| {
                let written = recording.write_to(0, bytes);
                self.missing += u64::from(!written);
                true
            });
        }
    }

    fn frame<'a>(&'a mut self, slot: &'a mut Slot) -> Frame<'a> {
        self.inner.frame(slot)
    }

    fn release(&mut self, slot: Slot) {
        self.inner.release(slot);
    }

    fn wait_fds(&self) -> WaitFds {
        self.inner.wait_fds()
    }

    fn device_event(&mut self) {
        self.inner.device_event();
    }

    fn begin(&mut self) {
        self.inner.begin();
    }

    fn divide(&mut self, by: Divide) {
        self.inner.divide(by);
    }

    fn pack(&mut self) -> Vec<u8> {
        self.inner.pack()
    }

    fn take_over(&mut self, packed: &[&[u8]]) -> Result<(), Unreadable> {
        self.inner.take_over(packed)
    }

    fn take_charge(&mut self) {
        self.inner.take_charge();
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

    fn pack(&mut self) -> Vec<u8> {
        self.inner.pack()
    }

    fn take_over(&mut self, packed: &[&[u8]]) -> Result<(), Unreadable> {
        self.inner.take_over(packed)
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
    use crate::io::offload::tests::{plain, written};
    use crate::io::send;
    use crate::wire::Offload;

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
    fn a_large_unit_is_recorded_as_wires_carry_it_and_passes_as_it_is() {
        let path = std::env::temp_dir().join(format!("dispatcher-tee-large-{}.pcapng", std::process::id()));
        let memory = Memory::new(8);
        let (port, wire) = memory.port(8);
        let mut unit = written(&plain(&[7; 1000]));
        unit[50..52].fill(0xee);
        assert!(wire.inject_with(&unit, Offload::large(400)));
        let mut port = tee(port, "lan", &path).unwrap();
        let mut burst = Burst::new();
        port.rx.receive(&mut burst);
        let mut slot = burst.pop().unwrap();
        assert_eq!(port.rx.frame(&mut slot).bytes(), unit);
        assert!(send(&mut *port.rx, &mut *port.tx, slot));
        port.tx.flush();
        drop(port);
        let sent: Vec<_> = std::iter::from_fn(|| wire.take()).collect();
        let capture = Capture::open(&path).unwrap();
        let frames: Vec<_> =
            capture.frames().unwrap().map(|f| f.map(|f| (f.interface, f.bytes.to_vec())).unwrap()).collect();
        std::fs::remove_file(&path).unwrap();
        let of = |interface| frames.iter().filter(|(i, _)| *i == interface).map(|(_, f)| f.clone()).collect::<Vec<_>>();
        assert_eq!(of(0).iter().map(Vec::len).collect::<Vec<_>>(), [454, 454, 254]);
        assert!(of(0).iter().all(|frame| offload::checksums_right(frame)));
        assert!(of(1) == of(0) && sent == of(0));
        assert_eq!(memory.available(), 8);
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
