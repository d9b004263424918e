//! Writing captures: pcapng with any number of named Ethernet interfaces, block after block, nothing kept.

use super::LinkType;
use std::io::{self, Write};

/// A pcapng file being written: nanosecond time stamps, little-endian.
pub struct PcapngWriter<W: Write> {
    out: W,
    interfaces: u32,
}

impl<W: Write> PcapngWriter<W> {
    /// Begins the file with its section header, which names `application`.
    pub fn new(mut out: W, application: &str) -> io::Result<PcapngWriter<W>> {
        let mut body = Vec::with_capacity(64);
        body.extend_from_slice(&0x1a2b_3c4d_u32.to_le_bytes());
        body.extend_from_slice(&1u16.to_le_bytes());
        body.extend_from_slice(&0u16.to_le_bytes());
        // Length of the section: unknown, it is a stream.
        body.extend_from_slice(&u64::MAX.to_le_bytes());
        option(&mut body, 4, application.as_bytes());
        end_of_options(&mut body);
        block(&mut out, 0x0a0d_0d0a, &[&body])?;
        Ok(PcapngWriter { out, interfaces: 0 })
    }

    /// Describes another interface; frames refer to it by the index returned.
    pub fn interface(&mut self, name: &str, link: LinkType) -> io::Result<u32> {
        let mut body = Vec::with_capacity(64);
        body.extend_from_slice(&link.0.to_le_bytes());
        body.extend_from_slice(&[0; 2]);
        // No limit on the length of frames.
        body.extend_from_slice(&0u32.to_le_bytes());
        option(&mut body, 2, name.as_bytes());
        option(&mut body, 9, &[9]);
        end_of_options(&mut body);
        block(&mut self.out, 1, &[&body])?;
        self.interfaces += 1;
        Ok(self.interfaces - 1)
    }

    /// Writes one frame, with a comment if there is something to be said about it.
    ///
    /// # Panics
    /// When the interface was not described: a mistake of the caller's that would spoil the file.
    pub fn frame(&mut self, interface: u32, unix_nanos: u64, frame: &[u8], comment: Option<&str>) -> io::Result<()> {
        self.cut_frame(interface, unix_nanos, (frame, frame.len()), comment)
    }

    /// The same of a frame of which not all is there: its bytes, and how many it had.
    ///
    /// # Panics
    /// As [`PcapngWriter::frame`].
    pub fn cut_frame(
        &mut self,
        interface: u32,
        unix_nanos: u64,
        (frame, original): (&[u8], usize),
        comment: Option<&str>,
    ) -> io::Result<()> {
        assert!(interface < self.interfaces, "interface not described");
        let word = |n: usize| u32::try_from(n).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput));
        let (len, original) = (word(frame.len())?, word(original.max(frame.len()))?);
        let mut head = [0; 20];
        head[..4].copy_from_slice(&interface.to_le_bytes());
        head[4..8].copy_from_slice(&((unix_nanos >> 32) as u32).to_le_bytes());
        head[8..12].copy_from_slice(&(unix_nanos as u32).to_le_bytes());
        head[12..16].copy_from_slice(&len.to_le_bytes());
        head[16..].copy_from_slice(&original.to_le_bytes());
        let mut tail = Vec::new();
        pad(&mut tail, frame.len());
        if let Some(comment) = comment {
            option(&mut tail, 1, comment.as_bytes());
            end_of_options(&mut tail);
        }
        block(&mut self.out, 6, &[&head, frame, &tail])
    }

    /// Says how many frames were lost on their way into the file so far (interface statistics, `isb_ifdrop`).
    ///
    /// # Panics
    /// As [`PcapngWriter::frame`].
    pub fn dropped(&mut self, interface: u32, unix_nanos: u64, frames: u64) -> io::Result<()> {
        assert!(interface < self.interfaces, "interface not described");
        let mut body = Vec::with_capacity(32);
        body.extend_from_slice(&interface.to_le_bytes());
        body.extend_from_slice(&((unix_nanos >> 32) as u32).to_le_bytes());
        body.extend_from_slice(&(unix_nanos as u32).to_le_bytes());
        option(&mut body, 5, &frames.to_le_bytes());
        end_of_options(&mut body);
        block(&mut self.out, 5, &[&body])
    }

    /// Where it is written to.
    pub fn get_mut(&mut self) -> &mut W {
        &mut self.out
    }

    /// Writes out what is buffered and gives the writer back.
    pub fn finish(mut self) -> io::Result<W> {
        self.out.flush()?;
        Ok(self.out)
    }
}

fn block<W: Write>(out: &mut W, kind: u32, parts: &[&[u8]]) -> io::Result<()> {
    let len = 12 + parts.iter().map(|p| p.len()).sum::<usize>() as u32;
    out.write_all(&kind.to_le_bytes())?;
    out.write_all(&len.to_le_bytes())?;
    for part in parts {
        out.write_all(part)?;
    }
    out.write_all(&len.to_le_bytes())
}

/// An option; longer ones than the format allows are cut.
fn option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    let value = &value[..value.len().min(usize::from(u16::MAX))];
    body.extend_from_slice(&code.to_le_bytes());
    body.extend_from_slice(&(value.len() as u16).to_le_bytes());
    body.extend_from_slice(value);
    pad(body, value.len());
}

fn end_of_options(body: &mut Vec<u8>) {
    body.extend_from_slice(&[0; 4]);
}

fn pad(body: &mut Vec<u8>, len: usize) {
    body.extend_from_slice(&[0; 3][..len.next_multiple_of(4) - len]);
}
