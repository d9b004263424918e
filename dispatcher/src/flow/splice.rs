//! The splice: one client connection and one backend connection made into one, by translating every segment.
//!
//! The backend was given the client's own initial sequence number, so client bytes have one number on both sides.
//! Server bytes differ by one constant, `K - B` (our cookie less the backend's ISN): added to what the backend sends,
//! taken from what the client acknowledges, selectively or not. Timestamps of the backend's clock differ from those we
//! began with by another constant. Windows are announced in the backend's scale and read in the one we offered.
//!
//! Everything here works on a whole frame in place, with checksums updated by difference (RFC 1624): a checksum that
//! was wrong stays wrong, so damage is still found by the receiver.

use super::{Key, Side};
use crate::pack::{Pack, Packer, Unpacker, Unreadable, packed};
use crate::wire::checksum::Change;
use crate::wire::options::SegmentOptions;
use crate::wire::packet::{Ip, Tcp};
use crate::wire::{Addr, Family, Seq, SeqDelta};
use core::hint::select_unpredictable;

/// RFC 7323, section 2.3.
pub const LARGEST_SHIFT: u8 = 14;

/// A window field's change of scale: read with one shift, written with another.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rescale {
    from: u8,
    to: u8,
}

impl Rescale {
    /// Fields come in shifted by `from` and go out shifted by `to`.
    pub fn new(from: u8, to: u8) -> Rescale {
        Rescale { from, to }
    }

    /// The field as the other side must read it. Rounded down, so that no more is promised than was.
    #[inline]
    pub fn apply(self, window: u16) -> u16 {
        if self.from == self.to {
            return window;
        }
        let bytes = u32::from(window) << self.from;
        u16::try_from(bytes >> self.to).unwrap_or(u16::MAX)
    }

    /// Shifts that RFC 7323 (section 2.3) has.
    pub fn can_be(self) -> bool {
        self.from.max(self.to) <= LARGEST_SHIFT
    }

    /// Bytes that a field stands for where it comes in.
    #[inline(always)]
    pub fn bytes(self, window: u16) -> u32 {
        u32::from(window) << self.from
    }
}

/// What is done about timestamps.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Clock {
    /// Neither side uses them.
    #[default]
    Unused,
    /// Added to the backend's TSval, taken from the client's TSecr.
    Shift(u32),
    /// The client uses them, the backend does not: they are overwritten with NOPs on the way to it. A client that was
    /// promised timestamps gets none back, which RFC 7323 (section 3.2) lets it tolerate; seen only until the
    /// backend's options are known.
    Erase,
}

/// The constants of one flow's translation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Splice {
    /// From the backend's sequence numbers to those the client knows.
    pub seq: SeqDelta,
    /// Timestamps.
    pub clock: Clock,
    /// For window fields on their way to the backend.
    pub to_server: Rescale,
    /// For window fields on their way to the client.
    pub to_client: Rescale,
}

/// Where a translated segment goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Endpoints {
    /// New source.
    pub src: (Addr, u16),
    /// New destination.
    pub dst: (Addr, u16),
}

impl Endpoints {
    /// From our own address to the other end of a flow, of which `arriving` comes to us from that end.
    #[inline]
    pub fn answering(arriving: &Key) -> Endpoints {
        Endpoints { src: (arriving.dst, arriving.dport), dst: (arriving.src, arriving.sport) }
    }
}

impl Splice {
    /// What is added to the server's sequence numbers, and taken from the client's acknowledgements. From which side a frame comes nobody can
    /// predict, so that no branch asks.
    #[inline(always)]
    fn shifts(&self, from: Side) -> (u32, u32) {
        let shift = self.seq.0;
        (select_unpredictable(from == Side::Server, shift, 0), select_unpredictable(from == Side::Client, shift, 0))
    }

    /// A frame's numbers in the client's view: sequence and acknowledgement.
    #[inline(always)]
    pub fn client_view(&self, from: Side, seq: Seq, ack: Seq) -> (Seq, Seq) {
        (seq + self.shifts(from).0, ack)
    }

    /// A frame's numbers as the other side must read them.
    #[inline(always)]
    pub fn other_view(&self, from: Side, seq: Seq, ack: Seq) -> (Seq, Seq) {
        let (up, down) = self.shifts(from);
        (seq + up, ack - down)
    }

    /// The scale change for windows that come from this side.
    #[inline(always)]
    pub fn rescale(&self, from: Side) -> Rescale {
        select_unpredictable(from == Side::Client, self.to_server, self.to_client)
    }

    /// Rewrites an IP packet with its TCP segment for the other side. `ack_floor` raises acknowledgements that lie before
    /// it (bytes that we have acknowledged ourselves already). Returns the sender's clock (TSval) in the client's view, if it shows one.
    #[inline]
    pub fn translate(
        &self,
        from: Side,
        frame: &mut [u8],
        ip: &Ip,
        tcp: &Tcp,
        to: &Endpoints,
        ack_floor: Option<Seq>,
    ) -> Option<u32> {
        let mut sum = Change::default();
        rewrite_addresses(frame, ip, to, &mut sum);
        let (seq, mut ack) = self.other_view(from, tcp.seq, tcp.ack);
        if let Some(floor) = ack_floor
            && ack.is_before(floor)
        {
            ack = floor;
        }
        let window = self.rescale(from).apply(tcp.window);
        let options = tcp.header + 20..tcp.payload;
        let clock = if options.is_empty() { None } else { self.translate_options(from, &mut frame[options], &mut sum) };
        let t = &mut frame[tcp.header..tcp.header + 20];
        sum.word(tcp.src_port, to.src.1);
        sum.word(tcp.dst_port, to.dst.1);
        sum.long(tcp.seq.0, seq.0);
        sum.long(tcp.ack.0, ack.0);
        sum.word(tcp.window, window);
        t[..2].copy_from_slice(&to.src.1.to_be_bytes());
        t[2..4].copy_from_slice(&to.dst.1.to_be_bytes());
        t[4..8].copy_from_slice(&seq.0.to_be_bytes());
        t[8..12].copy_from_slice(&ack.0.to_be_bytes());
        t[14..16].copy_from_slice(&window.to_be_bytes());
        let new = sum.apply(u16::from_be_bytes([t[16], t[17]]));
        t[16..18].copy_from_slice(&new.to_be_bytes());
        clock
    }

    /// Timestamps and SACK blocks. Options begin at an even offset of the segment, so offsets within them have the
    /// parity that the checksum sees.
    #[inline]
    fn translate_options(&self, from: Side, options: &mut [u8], sum: &mut Change) -> Option<u32> {
        let found = SegmentOptions::parse(options);
        let mut clock = None;
        if let Some((at, ts)) = found.timestamps {
            clock = Some(ts.val);
            match (self.clock, from) {
                (Clock::Shift(d), Side::Server) => {
                    let val = ts.val.wrapping_add(d);
                    put(options, at, ts.val, val, sum);
                    clock = Some(val);
                }
                // An echo of zero stands in segments that echo nothing (RFC 7323 section 3.2): those without ACK.
                (Clock::Shift(d), Side::Client) => put(options, at + 4, ts.ecr, ts.ecr.wrapping_sub(d), sum),
                (Clock::Erase, Side::Client) => erase(options, at - 2, 10, sum),
                (Clock::Erase, Side::Server) | (Clock::Unused, _) => {}
            }
        }
        // The backend's own SACK blocks speak of client bytes, whose numbers are the same on both sides.
        if let (Some((at, blocks)), Side::Client) = (found.sack, from) {
            for edge in 0..blocks * 2 {
                let at = at + edge * 4;
                let old = u32::from_be_bytes([options[at], options[at + 1], options[at + 2], options[at + 3]]);
                put(options, at, old, (Seq(old) + -self.seq).0, sum);
            }
        }
        clock
    }
}

/// Puts new addresses into the IP header; `sum` collects the change under the transport's pseudo header.
pub fn rewrite_addresses(frame: &mut [u8], ip: &Ip, to: &Endpoints, sum: &mut Change) {
    sum.bytes(ip.src.octets(), to.src.0.octets());
    sum.bytes(ip.dst.octets(), to.dst.0.octets());
    match ip.family {
        Family::V4 => {
            // The header's own checksum covers the same words and nothing else that changes.
            let h = &mut frame[ip.header..ip.header + 20];
            let new = sum.apply(u16::from_be_bytes([h[10], h[11]]));
            h[10..12].copy_from_slice(&new.to_be_bytes());
            h[12..16].copy_from_slice(to.src.0.octets());
            h[16..20].copy_from_slice(to.dst.0.octets());
        }
        Family::V6 => {
            frame[ip.header + 8..ip.header + 24].copy_from_slice(to.src.0.octets());
            frame[ip.header + 24..ip.header + 40].copy_from_slice(to.dst.0.octets());
        }
    }
}

fn put(options: &mut [u8], at: usize, old: u32, new: u32, sum: &mut Change) {
    sum.long_at(at, old, new);
    options[at..at + 4].copy_from_slice(&new.to_be_bytes());
}

/// Overwrites an option with NOPs. `len` is even.
fn erase(options: &mut [u8], at: usize, len: usize, sum: &mut Change) {
    for i in (at..at + len - 2).step_by(4).chain([at + len - 4]) {
        let old = u32::from_be_bytes([options[i], options[i + 1], options[i + 2], options[i + 3]]);
        put(options, i, old, 0x0101_0101, sum);
    }
}

packed!(Rescale { from, to });
packed!(Splice { seq, clock, to_server, to_client });

impl Pack for Clock {
    fn pack(&self, to: &mut Packer) {
        match self {
            Clock::Unused => 0u8.pack(to),
            Clock::Shift(shift) => (1u8, *shift).pack(to),
            Clock::Erase => 2u8.pack(to),
        }
    }
    fn unpack(from: &mut Unpacker<'_>) -> Result<Clock, Unreadable> {
        match u8::unpack(from)? {
            0 => Ok(Clock::Unused),
            1 => Ok(Clock::Shift(u32::unpack(from)?)),
            2 => Ok(Clock::Erase),
            _ => Err(Unreadable::Impossible("Clock")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::build::{Link, Segment};
    use crate::wire::options::{SynOptions, Timestamps};
    use crate::wire::packet::{Flags, Packet, tcp_checksum_ok};
    use proptest::prelude::*;

    fn addr(s: &str) -> Addr {
        s.parse::<std::net::IpAddr>().unwrap().into()
    }

    fn splice() -> impl Strategy<Value = Splice> {
        (any::<u32>(), any::<Option<u32>>(), 0u8..15, 0u8..15).prop_map(|(d, ts, a, b)| Splice {
            seq: SeqDelta(d),
            clock: ts.map_or(Clock::Erase, Clock::Shift),
            to_server: Rescale::new(a, b),
            to_client: Rescale::new(b, a),
        })
    }

    proptest! {
        /// The slow way: read everything, build the expected segment from scratch with full checksums, compare bytes.
        #[test]
        fn a_translated_segment_equals_one_built_from_scratch(
            s in splice(), v6: bool, from_client: bool, seq: u32, ack: u32, window: u16,
            ts: Option<(u32, u32)>, sack in proptest::collection::vec(any::<u32>(), 0..3), pad in 0usize..4,
            payload in proptest::collection::vec(any::<u8>(), 0..60), floor: Option<u32>,
        ) {
            let net = if v6 { ["fd00::1", "fd00::2", "fd00:1::3", "fd00:1::4"] } else { ["10.0.0.1", "10.0.0.2", "10.1.0.3", "10.1.0.4"] };
            let from = if from_client { Side::Client } else { Side::Server };
            let build = |ts: Option<(u32, u32)>, erased: bool, sack: &[u32]| {
                let mut o = vec![1u8; pad];
                if let Some((v, e)) = ts {
                    if erased { o.extend([1; 10]); } else {
                        o.extend([8, 10]);
                        o.extend(v.to_be_bytes());
                        o.extend(e.to_be_bytes());
                    }
                }
                if sack.len() == 2 {
                    o.extend([5, 10]);
                    sack.iter().for_each(|x| o.extend(x.to_be_bytes()));
                }
                while o.len() % 4 != 0 { o.push(0); }
                o
            };
            let options = build(ts, false, &sack);
            let segment = Segment {
                link: Link::default(), src: (addr(net[0]), 1000), dst: (addr(net[1]), 443), seq: Seq(seq), ack: Seq(ack),
                flags: Flags::ACK, window, options: &options, payload: &payload,
            };
            let mut frame = [0u8; 300];
            let n = segment.write(&mut frame);
            let p = Packet::parse(&frame[..n]).unwrap();
            let t = Tcp::parse(&frame[..n], &p.ip).unwrap();
            let to = Endpoints { src: (addr(net[2]), 2000), dst: (addr(net[3]), 8443) };
            s.translate(from, &mut frame[..n], &p.ip, &t, &to, floor.map(Seq));

            let shift = if let Clock::Shift(d) = s.clock { d } else { 0 };
            let (mut seq2, mut ack2) = (seq, ack);
            if from_client { ack2 = ack.wrapping_sub(s.seq.0) } else { seq2 = seq.wrapping_add(s.seq.0) }
            if let Some(f) = floor && (f.wrapping_sub(ack2) as i32) > 0 { ack2 = f }
            let ts2 = ts.map(|(v, e)| if from_client { (v, e.wrapping_sub(shift)) } else { (v.wrapping_add(shift), e) });
            let sack2: Vec<u32> = sack.iter().map(|x| if from_client { x.wrapping_sub(s.seq.0) } else { *x }).collect();
            let options2 = build(ts2, from_client && s.clock == Clock::Erase, &sack2);
            let scale = s.rescale(from);
            let expected = Segment {
                src: to.src, dst: to.dst, seq: Seq(seq2), ack: Seq(ack2),
                window: ((u64::from(window) << scale.from) >> scale.to).min(65535) as u16,
                options: &options2, ..segment
            };
            let mut want = [0u8; 300];
            let m = expected.write(&mut want);
            prop_assert!(tcp_checksum_ok(&frame, &Packet::parse(&frame[..n]).unwrap().ip));
            prop_assert_eq!(&frame[..n], &want[..m]);
        }
    }

    #[test]
    fn a_wrong_checksum_stays_wrong() {
        let segment = Segment {
            link: Link::default(),
            src: (addr("10.0.0.1"), 1),
            dst: (addr("10.0.0.2"), 2),
            seq: Seq(1),
            ack: Seq(2),
            flags: Flags::ACK,
            window: 9,
            options: &[],
            payload: b"data",
        };
        let mut frame = [0u8; 100];
        let n = segment.write(&mut frame);
        frame[n - 1] ^= 1;
        let p = Packet::parse(&frame[..n]).unwrap();
        let t = Tcp::parse(&frame[..n], &p.ip).unwrap();
        let to = Endpoints { src: (addr("10.0.0.3"), 3), dst: (addr("10.0.0.4"), 4) };
        Splice { seq: SeqDelta(5), ..Splice::default() }.translate(Side::Server, &mut frame[..n], &p.ip, &t, &to, None);
        assert!(!tcp_checksum_ok(&frame, &Packet::parse(&frame[..n]).unwrap().ip));
    }

    #[test]
    fn syn_options_are_not_mistaken_for_segment_options() {
        let mut out = [0; 40];
        let o =
            SynOptions { mss: Some(1), wscale: Some(2), sack_permitted: true, timestamps: Some(Timestamps::default()) };
        let n = o.write(&mut out);
        let found = SegmentOptions::parse(&out[..n]);
        assert!(found.sack.is_none() && found.timestamps.is_some());
    }
}
