//! A port whose wire is a recording: it receives the frames of a capture as fast as they are taken, then is exhausted;
//! what it sends goes into another capture, or nowhere.

use super::arena::Arena;
use super::{BURST, Burst, HEADROOM, Loss, MAX_LINK_HEADER, OpenError, Port, Receiver, Slot, Traffic, Transmitter};
use crate::capture::pcapng::PcapngWriter;
use crate::capture::{Capture, Frames, LinkType};
use crate::wire::packet::{Ethernet, Ip};
use crate::wire::{Frame, Mac};
use std::fs::File;
use std::io::BufWriter;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// A port over the capture at `input`; frames longer than `mtu` and its link header are dropped.
pub fn open(input: &Path, output: Option<&PathBuf>, mtu: u16) -> Result<Port, OpenError> {
    let wrong = |e: &dyn core::fmt::Display| OpenError(format!("pcap:{}: {e}", input.display()));
    // The frames borrow from the capture, and both belong to the port. Ports live as long as the process: so may the
    // mapping.
    let capture: &'static Capture = Box::leak(Box::new(Capture::open(input).map_err(|e| wrong(&e))?));
    let frames = capture.frames().map_err(|e| wrong(&e))?;
    let max_frame = usize::from(mtu) + MAX_LINK_HEADER;
    let out = match output {
        Some(path) => Some(Recording::create(path, "sent")?),
        None => None,
    };
    Ok(Port {
        description: format!("pcap, {} bytes recorded", capture.as_bytes().len()),
        rx: Box::new(PcapReceiver {
            frames: Some(frames),
            arena: Arena::new(BURST, HEADROOM + max_frame),
            max_frame,
            traffic: Traffic::default(),
        }),
        tx: Box::new(PcapTransmitter { out, traffic: Traffic::default() }),
    })
}

/// Whom a capture's frames to one of `addresses` are addressed to on the link: the port's MAC address, if they are to
/// be taken for ours.
pub fn destination(input: &Path, addresses: &[IpAddr]) -> Result<Option<Mac>, OpenError> {
    let wrong = |e: &dyn core::fmt::Display| OpenError(format!("pcap:{}: {e}", input.display()));
    let capture = Capture::open(input).map_err(|e| wrong(&e))?;
    for frame in capture.frames().map_err(|e| wrong(&e))? {
        // Damage further on is told when it is met.
        let Ok(frame) = frame else { break };
        if frame.link != LinkType::ETHERNET {
            return Err(wrong(&"not an Ethernet capture"));
        }
        let Ok(ethernet) = Ethernet::parse(frame.bytes) else { continue };
        let Ok(ip) = Ip::parse(frame.bytes, ethernet.payload, ethernet.ethertype) else { continue };
        if !ethernet.dst.is_group() && addresses.contains(&ip.dst.ip()) {
            return Ok(Some(ethernet.dst));
        }
    }
    Ok(None)
}

struct PcapReceiver {
    /// None behind the last frame, or the first damage.
    frames: Option<Frames<'static>>,
    arena: Arena,
    max_frame: usize,
    traffic: Traffic,
}

impl Receiver for PcapReceiver {
    fn receive(&mut self, burst: &mut Burst) {
        while !burst.is_full()
            && self.arena.available() > 0
            && let Some(frames) = &mut self.frames
        {
            match frames.next() {
                Some(Ok(frame)) if frame.link != LinkType::ETHERNET => self.traffic.lost(Loss::RxNotEthernet, 1),
                Some(Ok(frame)) if frame.missing() > 0 => self.traffic.lost(Loss::RxTruncated, 1),
                Some(Ok(frame)) if frame.bytes.len() > self.max_frame => self.traffic.lost(Loss::RxOversized, 1),
                Some(Ok(frame)) => {
                    if let Some(slot) = self.arena.copy_in(HEADROOM, frame.bytes) {
                        self.traffic.passed(slot.len());
                        burst.push(slot);
                    }
                }
                Some(Err(_)) => {
                    // The rest of a damaged file: how many frames it would have been, nobody knows.
                    self.traffic.lost(Loss::RxTruncated, 1);
                    self.frames = None;
                }
                None => self.frames = None,
            }
        }
    }

    fn frame<'a>(&'a mut self, slot: &'a mut Slot) -> Frame<'a> {
        self.arena.frame(slot)
    }

    fn release(&mut self, slot: Slot) {
        self.arena.release(slot);
    }

    fn exhausted(&self) -> bool {
        self.frames.is_none()
    }

    fn traffic(&mut self) -> Traffic {
        self.traffic
    }
}

struct PcapTransmitter {
    out: Option<Recording>,
    traffic: Traffic,
}

impl Transmitter for PcapTransmitter {
    fn takes(&self, _: &Slot) -> bool {
        false
    }

    fn transmit(&mut self, slot: Slot) -> Result<(), Slot> {
        Err(slot)
    }

    fn transmit_copy(&mut self, frame: &[u8]) -> bool {
        if let Some(out) = &mut self.out
            && !out.write(frame)
        {
            self.traffic.lost(Loss::TxRefused, 1);
            return false;
        }
        self.traffic.passed(frame.len());
        true
    }

    fn flush(&mut self) {}

    fn traffic(&mut self) -> Traffic {
        self.traffic
    }
}

/// A capture being written, stamped with the time of day.
pub(super) struct Recording {
    writer: PcapngWriter<BufWriter<File>>,
    interfaces: [u32; 2],
    failed: bool,
}

impl Recording {
    /// Begins a file; an interface for each direction is described in it as it is needed.
    pub(super) fn create(path: &Path, name: &str) -> Result<Recording, OpenError> {
        let wrong = |e: std::io::Error| OpenError(format!("{}: cannot be written: {e}", path.display()));
        let file = File::create(path).map_err(wrong)?;
        let mut writer = PcapngWriter::new(BufWriter::with_capacity(1 << 18, file), "dispatcher").map_err(wrong)?;
        let first = writer.interface(name, LinkType::ETHERNET).map_err(wrong)?;
        Ok(Recording { writer, interfaces: [first, first], failed: false })
    }

    /// Describes a second interface, for [`Recording::write_to`] 1.
    pub(super) fn second(mut self, name: &str) -> Result<Recording, OpenError> {
        let wrong = |e: std::io::Error| OpenError(format!("cannot be written: {e}"));
        self.interfaces[1] = self.writer.interface(name, LinkType::ETHERNET).map_err(wrong)?;
        Ok(self)
    }

    pub(super) fn write(&mut self, frame: &[u8]) -> bool {
        self.write_to(0, frame)
    }

    /// False when the frame was not written; after the first time (a full disk) nothing is, so that the file is not
    /// damaged in its middle.
    pub(super) fn write_to(&mut self, interface: usize, frame: &[u8]) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64);
        self.failed = self.failed || self.writer.frame(self.interfaces[interface], now, frame, None).is_err();
        !self.failed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::send;

    const CAPTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../testdata/captures/vlan8021q_openssl_nginx.pcap");

    #[test]
    fn a_capture_sent_on_is_the_capture() {
        let out = std::env::temp_dir().join(format!("dispatcher-pcap-{}.pcapng", std::process::id()));
        let mut port = open(Path::new(CAPTURE), Some(&out), 1500).unwrap();
        let mut burst = Burst::new();
        let mut frames = 0;
        while !port.rx.exhausted() {
            port.rx.receive(&mut burst);
            for slot in burst.drain(..) {
                frames += 1;
                assert!(send(&mut *port.rx, &mut *port.tx, slot));
            }
            port.tx.flush();
        }
        assert_eq!((port.rx.traffic().frames, port.tx.traffic().frames), (frames, frames));
        drop(port);
        let (a, b) = (Capture::open(Path::new(CAPTURE)).unwrap(), Capture::open(&out).unwrap());
        let bytes = |c: &Capture| c.frames().unwrap().map(|f| f.unwrap().bytes.to_vec()).collect::<Vec<_>>();
        let copied = bytes(&b);
        std::fs::remove_file(&out).unwrap();
        assert_eq!(frames, 299);
        assert!(bytes(&a) == copied);
    }

    #[test]
    fn what_cannot_be_sent_on_is_counted() {
        let mut port = open(Path::new(CAPTURE), None, 600).unwrap();
        let (mut burst, mut frames) = (Burst::new(), 0);
        while !port.rx.exhausted() {
            port.rx.receive(&mut burst);
            frames += burst.len() as u64;
            burst.drain(..).for_each(|slot| port.rx.release(slot));
        }
        let traffic = port.rx.traffic();
        assert!(traffic.lost_to(Loss::RxOversized) > 0);
        assert_eq!(frames + traffic.lost_to(Loss::RxOversized), 299);
    }

    #[test]
    fn the_link_address_of_a_server_is_found() {
        let server = "10.0.0.1".parse().unwrap();
        assert!(destination(Path::new(CAPTURE), &[server]).unwrap().is_some());
        assert_eq!(destination(Path::new(CAPTURE), &["192.0.2.1".parse().unwrap()]).unwrap(), None);
        let manifest = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"));
        assert!(destination(manifest, &[server]).unwrap_err().0.contains("not a pcap"));
    }
}
