//! Reading captures: pcap (microseconds, nanoseconds, both byte orders) and pcapng, in place.
//!
//! The file is mapped, and every frame borrows from the mapping: a frame of an absurd length costs nothing, because it
//! is refused before anything is done with it. A capture whose end is missing, as of a recorder that was killed, yields
//! the frames that are whole and then one error; so does damage in the middle. Callers report what the frames gave and
//! then the error: nobody should take half a capture for a whole one.
//!
//! [`pcapng`] writes them.

pub mod pcapng;

use crate::time::Time;
use memmap2::Mmap;
use pcap_parser::pcapng::{
    parse_enhancedpacketblock_be, parse_enhancedpacketblock_le, parse_interfacedescriptionblock_be,
    parse_interfacedescriptionblock_le, parse_sectionheaderblock, parse_simplepacketblock_be,
    parse_simplepacketblock_le,
};
use pcap_parser::traits::PcapNGPacketBlock;
use pcap_parser::{
    EnhancedPacketBlock, InterfaceDescriptionBlock, OptionCode, PcapHeader, SimplePacketBlock, parse_pcap_frame,
    parse_pcap_frame_be, parse_pcap_frame_modified, parse_pcap_header,
};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Longest frame believed, bytes: twice the largest segment that Linux hands to a capture before it is cut into wire
/// frames (BIG TCP). A record that claims more is damage.
pub const MAX_FRAME: usize = 1 << 20;

/// Longest capture taken from a pipe, which cannot be mapped, bytes.
pub const MAX_PIPED: u64 = 1 << 30;

/// Most interfaces in one section of a pcapng file.
const MAX_INTERFACES: usize = 1 << 16;

/// Why a capture, or the rest of it, cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The operating system will not let us.
    #[error("cannot be read: {0}")]
    Io(#[from] std::io::Error),
    /// No bytes at all.
    #[error("is empty")]
    Empty,
    /// Not one of the two formats.
    #[error("is not a pcap or pcapng capture")]
    NotACapture,
    /// A capture, packed.
    #[error("is compressed ({0}); unpack it first")]
    Compressed(&'static str),
    /// More than [`MAX_PIPED`] bytes from a pipe.
    #[error("comes from a pipe and is larger than {MAX_PIPED} bytes; save it to a file first")]
    PipeTooLong,
    /// The file ends within a record.
    #[error("is cut off at byte {offset}, after frame {frame}")]
    CutOff {
        /// The last frame that is whole.
        frame: u64,
        /// Where the record begins that is not.
        offset: usize,
    },
    /// A record that cannot be.
    #[error("is damaged at byte {offset}, after frame {frame}: {why}")]
    Damaged {
        /// The last good frame.
        frame: u64,
        /// Where the bad record begins.
        offset: usize,
        /// What is wrong with it.
        why: &'static str,
    },
}

/// What a frame's first bytes are (tcpdump.org's LINKTYPE numbers).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct LinkType(pub u16);

impl LinkType {
    /// BSD loopback: address family in the recorder's byte order.
    pub const NULL: LinkType = LinkType(0);
    /// Ethernet.
    pub const ETHERNET: LinkType = LinkType(1);
    /// An IPv4 or IPv6 packet, nothing in front.
    pub const RAW: LinkType = LinkType(101);
    /// OpenBSD loopback: address family, big-endian.
    pub const LOOP: LinkType = LinkType(108);
    /// Linux "any" device, first form.
    pub const LINUX_SLL: LinkType = LinkType(113);
    /// IPv4 packets.
    pub const IPV4: LinkType = LinkType(228);
    /// IPv6 packets.
    pub const IPV6: LinkType = LinkType(229);
    /// Linux "any" device, second form.
    pub const LINUX_SLL2: LinkType = LinkType(276);
}

/// One recorded frame.
#[derive(Clone, Copy, Debug)]
pub struct RecordedFrame<'a> {
    /// Running number within the file, from 1, as other tools count.
    pub number: u64,
    /// Since the first frame of the file. Never runs backwards, though the recorder's clock may have.
    pub time: Time,
    /// Nanoseconds since 1970, as recorded.
    pub unix_nanos: u64,
    /// Index of the interface within its section; 0 in pcap.
    pub interface: u32,
    /// What the bytes begin with.
    pub link: LinkType,
    /// The frame, as far as it was recorded.
    pub bytes: &'a [u8],
    /// Bytes the frame had on the wire; more than `bytes` when the recorder cut it (snap length).
    pub original_len: usize,
}

impl RecordedFrame<'_> {
    /// Bytes that the recorder cut off.
    pub fn missing(&self) -> usize {
        self.original_len.saturating_sub(self.bytes.len())
    }
}

enum Bytes {
    Mapped(Mmap),
    Owned(Vec<u8>),
}

/// A capture, open.
pub struct Capture {
    bytes: Bytes,
}

impl Capture {
    /// Opens and recognises a capture. Regular files are mapped; pipes are read, up to [`MAX_PIPED`].
    pub fn open(path: &Path) -> Result<Capture, CaptureError> {
        let file = File::open(path)?;
        let meta = file.metadata()?;
        if meta.is_dir() {
            return Err(std::io::Error::from(std::io::ErrorKind::IsADirectory).into());
        }
        let bytes = if meta.is_file() {
            if meta.len() == 0 {
                return Err(CaptureError::Empty);
            }
            // SAFETY: the mapping is private and only read. Should another process cut the file meanwhile, reading
            // ends this process by SIGBUS: no worse than a file that vanishes from under any tool that maps it.
            Bytes::Mapped(unsafe { Mmap::map(&file)? })
        } else {
            let mut bytes = Vec::new();
            file.take(MAX_PIPED + 1).read_to_end(&mut bytes)?;
            if bytes.len() as u64 > MAX_PIPED {
                return Err(CaptureError::PipeTooLong);
            }
            Bytes::Owned(bytes)
        };
        Capture::recognised(bytes)
    }

    /// A capture held in memory.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Capture, CaptureError> {
        Capture::recognised(Bytes::Owned(bytes))
    }

    fn recognised(bytes: Bytes) -> Result<Capture, CaptureError> {
        let capture = Capture { bytes };
        capture.frames()?;
        Ok(capture)
    }

    /// All bytes of the file.
    pub fn as_bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Mapped(map) => map,
            Bytes::Owned(vec) => vec,
        }
    }

    /// The frames, from the first. Fails where [`Capture::open`] has succeeded only if the file changed meanwhile.
    pub fn frames(&self) -> Result<Frames<'_>, CaptureError> {
        Frames::new(self.as_bytes())
    }
}

/// An interface of a pcapng section.
struct Interface {
    link: LinkType,
    /// Longest frame recorded, bytes; 0: no limit.
    snaplen: u32,
    /// Units of a time stamp in a second.
    units_per_second: u64,
    /// Seconds to add to a time stamp.
    offset: i64,
}

enum Format {
    Pcap { layout: PcapLayout, nanos: bool, link: LinkType },
    Pcapng { big_endian: bool, interfaces: Vec<Interface> },
}

#[derive(Clone, Copy)]
enum PcapLayout {
    Little,
    Big,
    /// A patched libpcap of 1999: eight more bytes in each record.
    Modified,
}

/// The frames of a capture in the order of the file. After an error there are no more.
pub struct Frames<'a> {
    data: &'a [u8],
    at: usize,
    format: Format,
    number: u64,
    first_nanos: Option<u64>,
    latest: Time,
    over: bool,
}

impl<'a> Frames<'a> {
    fn new(data: &'a [u8]) -> Result<Frames<'a>, CaptureError> {
        if data.is_empty() {
            return Err(CaptureError::Empty);
        }
        let magic = match data.first_chunk::<4>() {
            Some(m) => *m,
            None => return Err(CaptureError::NotACapture),
        };
        let (format, at) = match magic {
            [0x0a, 0x0d, 0x0d, 0x0a] => {
                // The section header itself is read as the first block.
                let Some(order) = data.get(8..12) else { return Err(CaptureError::CutOff { frame: 0, offset: 0 }) };
                if order != [0x1a, 0x2b, 0x3c, 0x4d] && order != [0x4d, 0x3c, 0x2b, 0x1a] {
                    return Err(CaptureError::NotACapture);
                }
                (Format::Pcapng { big_endian: false, interfaces: Vec::new() }, 0)
            }
            [0x1f, 0x8b, ..] => return Err(CaptureError::Compressed("gzip")),
            [0x28, 0xb5, 0x2f, 0xfd] => return Err(CaptureError::Compressed("zstd")),
            [0xfd, b'7', b'z', b'X'] => return Err(CaptureError::Compressed("xz")),
            [b'B', b'Z', b'h', _] => return Err(CaptureError::Compressed("bzip2")),
            _ => match parse_pcap_header(data) {
                Ok((_, header)) => (pcap_format(&header), header.size()),
                Err(pcap_parser::nom::Err::Incomplete(_)) if is_pcap_magic(magic) => {
                    return Err(CaptureError::CutOff { frame: 0, offset: 0 });
                }
                Err(_) => return Err(CaptureError::NotACapture),
            },
        };
        Ok(Frames { data, at, format, number: 0, first_nanos: None, latest: Time::ZERO, over: false })
    }

    /// Bytes of the file already walked over, for a progress bar.
    pub fn position(&self) -> usize {
        self.at
    }

    fn damaged(&self, why: &'static str) -> CaptureError {
        CaptureError::Damaged { frame: self.number, offset: self.at, why }
    }

    fn cut_off(&self) -> CaptureError {
        CaptureError::CutOff { frame: self.number, offset: self.at }
    }

    fn frame(
        &mut self,
        unix_nanos: u64,
        interface: u32,
        link: LinkType,
        bytes: &'a [u8],
        original_len: u32,
    ) -> RecordedFrame<'a> {
        self.number += 1;
        let first = *self.first_nanos.get_or_insert(unix_nanos);
        self.latest = self.latest.max(Time::from_nanos(unix_nanos.saturating_sub(first)));
        RecordedFrame {
            number: self.number,
            time: self.latest,
            unix_nanos,
            interface,
            link,
            bytes,
            original_len: (original_len as usize).max(bytes.len()),
        }
    }

    fn next_pcap(
        &mut self,
        layout: PcapLayout,
        nanos: bool,
        link: LinkType,
    ) -> Result<Option<RecordedFrame<'a>>, CaptureError> {
        let rest = &self.data[self.at..];
        if rest.is_empty() {
            return Ok(None);
        }
        let Some(len) = rest.get(8..12) else { return Err(self.cut_off()) };
        let len: [u8; 4] = [len[0], len[1], len[2], len[3]];
        let len = if matches!(layout, PcapLayout::Big) { u32::from_be_bytes(len) } else { u32::from_le_bytes(len) };
        if len as usize > MAX_FRAME {
            return Err(self.damaged("a record claims an absurd length"));
        }
        let parsed = match layout {
            PcapLayout::Little => parse_pcap_frame(rest),
            PcapLayout::Big => parse_pcap_frame_be(rest),
            PcapLayout::Modified => parse_pcap_frame_modified(rest),
        };
        let Ok((after, record)) = parsed else { return Err(self.cut_off()) };
        let (bytes, original) = (record.data, record.origlen);
        let fraction = u64::from(record.ts_usec) * if nanos { 1 } else { 1000 };
        let stamp = u64::from(record.ts_sec) * 1_000_000_000 + fraction;
        self.at = self.data.len() - after.len();
        Ok(Some(self.frame(stamp, 0, link, bytes, original)))
    }

    fn next_pcapng(&mut self) -> Result<Option<RecordedFrame<'a>>, CaptureError> {
        loop {
            let rest = &self.data[self.at..];
            if rest.is_empty() {
                return Ok(None);
            }
            let Some((&head, _)) = rest.split_first_chunk::<12>() else { return Err(self.cut_off()) };
            let section = head[..4] == [0x0a, 0x0d, 0x0d, 0x0a];
            if section {
                let big = match &head[8..] {
                    [0x1a, 0x2b, 0x3c, 0x4d] => true,
                    [0x4d, 0x3c, 0x2b, 0x1a] => false,
                    _ => return Err(self.damaged("a section without a byte order")),
                };
                self.format = Format::Pcapng { big_endian: big, interfaces: Vec::new() };
            }
            let Format::Pcapng { big_endian, .. } = self.format else { unreachable!("read as pcapng") };
            let word = |b: [u8; 4]| if big_endian { u32::from_be_bytes(b) } else { u32::from_le_bytes(b) };
            let kind = word([head[0], head[1], head[2], head[3]]);
            let len = word([head[4], head[5], head[6], head[7]]) as usize;
            if len < 12 || !len.is_multiple_of(4) {
                return Err(self.damaged("a block of an impossible length"));
            }
            let Some(block) = rest.get(..len) else {
                // Nothing in a capture is longer than a frame with its options, except secrets and name lists.
                let absurd = len > (64 << 20);
                return Err(if absurd { self.damaged("a block claims an absurd length") } else { self.cut_off() });
            };
            if word([block[len - 4], block[len - 3], block[len - 2], block[len - 1]]) as usize != len {
                return Err(self.damaged("a block whose two lengths differ"));
            }
            let frame = self.block(kind, big_endian, section, block)?;
            self.at += len;
            if frame.is_some() {
                return Ok(frame);
            }
        }
    }

    /// What one block says; a frame if it is one. Blocks of no interest (names, statistics, secrets) are stepped over.
    fn block(
        &mut self,
        kind: u32,
        big: bool,
        section: bool,
        block: &'a [u8],
    ) -> Result<Option<RecordedFrame<'a>>, CaptureError> {
        if section {
            let (_, header) =
                parse_sectionheaderblock(block).map_err(|_| self.damaged("a section header that cannot be read"))?;
            if header.major_version != 1 {
                return Err(self.damaged("a pcapng version that nobody has defined"));
            }
            return Ok(None);
        }
        match kind {
            0x0000_0001 => {
                let parse = if big { parse_interfacedescriptionblock_be } else { parse_interfacedescriptionblock_le };
                let (_, idb) = parse(block).map_err(|_| self.damaged("an interface that cannot be read"))?;
                let Some(interface) = interface(&idb, big) else {
                    return Err(self.damaged("an interface with an impossible time resolution"));
                };
                let Format::Pcapng { interfaces, .. } = &mut self.format else { unreachable!("read as pcapng") };
                if interfaces.len() >= MAX_INTERFACES {
                    return Err(self.damaged("too many interfaces"));
                }
                interfaces.push(interface);
                Ok(None)
            }
            0x0000_0006 => {
                let parse = if big { parse_enhancedpacketblock_be } else { parse_enhancedpacketblock_le };
                let (_, epb): (_, EnhancedPacketBlock<'a>) =
                    parse(block).map_err(|_| self.damaged("a frame that cannot be read"))?;
                let ticks = u64::from(epb.ts_high) << 32 | u64::from(epb.ts_low);
                let bytes = epb.data.get(..epb.caplen as usize).ok_or_else(|| self.damaged("a frame cut short"))?;
                self.stamped(epb.if_id, ticks, bytes, epb.origlen).map(Some)
            }
            // The Packet Block, obsolete since 2004 but still met.
            0x0000_0002 => {
                let word = |b: [u8; 4]| if big { u32::from_be_bytes(b) } else { u32::from_le_bytes(b) };
                let Some((head, rest)) = block[8..].split_first_chunk::<20>() else {
                    return Err(self.damaged("a frame that cannot be read"));
                };
                let at = |i: usize| word([head[i], head[i + 1], head[i + 2], head[i + 3]]);
                let id = if big { [head[0], head[1]] } else { [head[1], head[0]] };
                let ticks = u64::from(at(4)) << 32 | u64::from(at(8));
                let bytes =
                    rest[..rest.len() - 4].get(..at(12) as usize).ok_or_else(|| self.damaged("a frame cut short"))?;
                self.stamped(u32::from(u16::from_be_bytes(id)), ticks, bytes, at(16)).map(Some)
            }
            0x0000_0003 => {
                let parse = if big { parse_simplepacketblock_be } else { parse_simplepacketblock_le };
                let (_, spb): (_, SimplePacketBlock<'a>) =
                    parse(block).map_err(|_| self.damaged("a frame that cannot be read"))?;
                let Format::Pcapng { interfaces, .. } = &self.format else { unreachable!("read as pcapng") };
                let Some(first) = interfaces.first() else {
                    return Err(self.damaged("a frame of an interface that was not described"));
                };
                let snap = if first.snaplen == 0 { usize::MAX } else { first.snaplen as usize };
                let link = first.link;
                // It carries its original length only; what was kept of it follows from the snap length.
                let len = (spb.origlen as usize).min(snap).min(spb.data.len());
                let (bytes, original) = (&spb.data[..len], spb.orig_len());
                if len > MAX_FRAME {
                    return Err(self.damaged("a record claims an absurd length"));
                }
                // And no time: it is taken to be that of the frame before.
                let stamp = self.first_nanos.unwrap_or(0) + self.latest.as_nanos();
                Ok(Some(self.frame(stamp, 0, link, bytes, original)))
            }
            _ => Ok(None),
        }
    }

    fn stamped(
        &mut self,
        id: u32,
        ticks: u64,
        bytes: &'a [u8],
        original: u32,
    ) -> Result<RecordedFrame<'a>, CaptureError> {
        if bytes.len() > MAX_FRAME {
            return Err(self.damaged("a record claims an absurd length"));
        }
        let Format::Pcapng { interfaces, .. } = &self.format else { unreachable!("read as pcapng") };
        let Some(interface) = interfaces.get(id as usize) else {
            return Err(self.damaged("a frame of an interface that was not described"));
        };
        let nanos = i128::from(ticks) * 1_000_000_000 / i128::from(interface.units_per_second)
            + i128::from(interface.offset) * 1_000_000_000;
        let (nanos, link) = (u64::try_from(nanos.max(0)).unwrap_or(u64::MAX), interface.link);
        Ok(self.frame(nanos, id, link, bytes, original))
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = Result<RecordedFrame<'a>, CaptureError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        let next = match self.format {
            Format::Pcap { layout, nanos, link } => self.next_pcap(layout, nanos, link),
            Format::Pcapng { .. } => self.next_pcapng(),
        };
        self.over = !matches!(next, Ok(Some(_)));
        next.transpose()
    }
}

fn is_pcap_magic(magic: [u8; 4]) -> bool {
    matches!(u32::from_le_bytes(magic), 0xa1b2_c3d4 | 0xa1b2_3c4d | 0xa1b2_cd34 | 0xd4c3_b2a1 | 0x4d3c_b2a1)
}

fn pcap_format(header: &PcapHeader) -> Format {
    let layout = if header.is_modified_format() {
        PcapLayout::Modified
    } else if header.is_bigendian() {
        PcapLayout::Big
    } else {
        PcapLayout::Little
    };
    // The upper half of the field tells of frame check sequences; IP lengths cut those off.
    let link = LinkType((header.network.0 & 0xffff) as u16);
    Format::Pcap { layout, nanos: header.is_nanosecond_precision(), link }
}

fn interface(idb: &InterfaceDescriptionBlock<'_>, big_endian: bool) -> Option<Interface> {
    let option = |code| idb.options.iter().find(|o| o.code == code).map(|o| o.value());
    // if_tsresol: a negative power of ten, or of two when the high bit is set; microseconds without it.
    let resolution = option(OptionCode::IfTsresol).and_then(|v| v.first().copied()).unwrap_or(6);
    let units_per_second = match resolution {
        power @ 0..=19 => 10u64.pow(u32::from(power)),
        power @ 0x80..=0xbf => 1 << (power & 0x7f),
        _ => return None,
    };
    let offset = option(OptionCode::IfTsoffset)
        .and_then(|v| v.first_chunk::<8>().copied())
        .map_or(0, |b| if big_endian { i64::from_be_bytes(b) } else { i64::from_le_bytes(b) });
    Some(Interface { link: LinkType(idb.linktype.0 as u16), snaplen: idb.snaplen, units_per_second, offset })
}

#[cfg(test)]
mod tests;
