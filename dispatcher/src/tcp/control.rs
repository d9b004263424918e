//! Segments of our own without payload: acknowledgements, resets, SYNs, probes.

use crate::flow::Endpoints;
use crate::wire::Seq;
use crate::wire::build::{Link, Segment};
use crate::wire::options::{SynOptions, Timestamps, write_timestamps};
use crate::wire::packet::Flags;
use arrayvec::ArrayVec;

/// TCP options as they are sent.
pub type Options = ArrayVec<u8, 40>;

/// What differs between the segments we send on a flow.
#[derive(Clone, Debug)]
pub struct ControlSegment {
    /// Sequence number, as the receiver counts.
    pub seq: Seq,
    /// Acknowledgement, likewise.
    pub ack: Seq,
    /// Flags.
    pub flags: Flags,
    /// Window field.
    pub window: u16,
    /// Options.
    pub options: Options,
}

impl ControlSegment {
    /// An acknowledgement.
    pub fn ack(seq: Seq, ack: Seq, window: u16, options: Options) -> ControlSegment {
        ControlSegment { seq, ack, flags: Flags::ACK, window, options }
    }

    /// A reset, that acknowledges something or not.
    pub fn reset(seq: Seq, ack: Option<Seq>) -> ControlSegment {
        let flags = if ack.is_some() { Flags::RST.with(Flags::ACK) } else { Flags::RST };
        ControlSegment { seq, ack: ack.unwrap_or_default(), flags, window: 0, options: Options::new() }
    }

    /// As a segment between these.
    pub fn segment(&self, link: Link, ends: &Endpoints) -> Segment<'_> {
        Segment {
            link,
            src: ends.src,
            dst: ends.dst,
            seq: self.seq,
            ack: self.ack,
            flags: self.flags,
            window: self.window,
            options: &self.options,
            payload: &[],
        }
    }
}

/// A SYN's options.
pub fn syn_options(options: &SynOptions) -> Options {
    let mut bytes = [0; 40];
    let n = options.write(&mut bytes);
    let mut all = Options::from(bytes);
    all.truncate(n);
    all
}

/// The timestamps option alone, or nothing.
pub fn timestamps(stamp: Option<Timestamps>) -> Options {
    let mut all = Options::new();
    if let Some(stamp) = stamp {
        _ = all.try_extend_from_slice(&write_timestamps(stamp));
    }
    all
}
