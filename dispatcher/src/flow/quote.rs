//! The packet that an ICMP error quotes: read, and made what its sender sent.

use super::Key;
use crate::wire::checksum::Change;
use crate::wire::packet::{Ip, protocol};
use crate::wire::{Addr, Family, Seq, SeqDelta};

/// The quoted packet: where it lies, and what is needed of it. A quote may be cut after eight bytes of TCP.
#[derive(Clone, Copy, Debug)]
pub struct Quote {
    header: usize,
    tcp: usize,
    /// Its addresses and ports, as it went out.
    pub key: Key,
    /// Its sequence number.
    pub seq: Seq,
}

impl Quote {
    /// The quoted IP and TCP headers, as far as they are there.
    pub fn read(b: &[u8], ip: &Ip) -> Option<Quote> {
        let header = ip.payload + 8;
        let q = b.get(header..ip.end)?;
        let (len, src, dst, proto) = match ip.family {
            Family::V4 => {
                let h = q.first_chunk::<20>()?;
                let v4 = |i: usize| Addr::v4([h[i], h[i + 1], h[i + 2], h[i + 3]]);
                (usize::from(h[0] & 15) * 4, v4(12), v4(16), h[9])
            }
            Family::V6 => {
                let h = q.first_chunk::<40>()?;
                let v6 = |i: usize| Addr(core::array::from_fn(|n| h[i + n]));
                (40, v6(8), v6(24), h[6])
            }
        };
        // A quote of the other family, or of IPv4 addresses in an IPv6 header, would lead to a flow that this packet cannot be about.
        let family = q[0] >> 4 == if ip.family == Family::V4 { 4 } else { 6 };
        if len < 20 || proto != protocol::TCP || !family || src.family() != ip.family || dst.family() != ip.family {
            return None;
        }
        let t = q.get(len..)?.first_chunk::<8>()?;
        let port = |i: usize| u16::from_be_bytes([t[i], t[i + 1]]);
        Some(Quote {
            header,
            tcp: header + len,
            key: Key { src, dst, sport: port(0), dport: port(2), protocol: protocol::TCP },
            seq: Seq(u32::from_be_bytes([t[4], t[5], t[6], t[7]])),
        })
    }

    /// Makes the quote what its sender sent: its addresses, ports and numbers, and the checksums over them, as far as they are
    /// quoted. Windows and options stay: who reads an error looks at none of them.
    pub fn rewrite(&self, b: &mut [u8], ip: &Ip, sent: &Key, seq: Seq, acks: SeqDelta) {
        let (old_src, old_dst) = (self.key.src, self.key.dst);
        let mut sum = Change::default();
        sum.bytes(old_src.octets(), sent.src.octets());
        sum.bytes(old_dst.octets(), sent.dst.octets());
        let h = self.header;
        match ip.family {
            Family::V4 => {
                let new = sum.apply(u16::from_be_bytes([b[h + 10], b[h + 11]]));
                b[h + 10..h + 12].copy_from_slice(&new.to_be_bytes());
                b[h + 12..h + 16].copy_from_slice(sent.src.octets());
                b[h + 16..h + 20].copy_from_slice(sent.dst.octets());
            }
            Family::V6 => {
                b[h + 8..h + 24].copy_from_slice(sent.src.octets());
                b[h + 24..h + 40].copy_from_slice(sent.dst.octets());
            }
        }
        let t = self.tcp;
        sum.word(self.key.sport, sent.sport);
        sum.word(self.key.dport, sent.dport);
        sum.long(self.seq.0, seq.0);
        b[t..t + 2].copy_from_slice(&sent.sport.to_be_bytes());
        b[t + 2..t + 4].copy_from_slice(&sent.dport.to_be_bytes());
        b[t + 4..t + 8].copy_from_slice(&seq.0.to_be_bytes());
        if t + 12 <= ip.end {
            let old = Seq(u32::from_be_bytes([b[t + 8], b[t + 9], b[t + 10], b[t + 11]]));
            let new = old + acks;
            sum.long(old.0, new.0);
            b[t + 8..t + 12].copy_from_slice(&new.0.to_be_bytes());
        }
        if t + 18 <= ip.end {
            let new = sum.apply(u16::from_be_bytes([b[t + 16], b[t + 17]]));
            b[t + 16..t + 18].copy_from_slice(&new.to_be_bytes());
        }
    }
}

/// Protocol, addresses and ports of the packet that an ICMP error quotes, as it went out; none when it is no error, or quotes no TCP.
pub fn quoted_key(b: &[u8], ip: &Ip) -> Option<Key> {
    let kind = *b.get(ip.payload..ip.end)?.first()?;
    let icmp = if ip.family == Family::V4 { protocol::ICMP } else { protocol::ICMPV6 };
    (ip.protocol == icmp && is_error(ip.family, kind)).then(|| Quote::read(b, ip)).flatten().map(|quote| quote.key)
}

/// Whether messages of this type are errors, which quote a packet (RFC 792, RFC 4443 section 2.1).
pub fn is_error(family: Family, kind: u8) -> bool {
    match family {
        Family::V4 => matches!(kind, 3 | 11 | 12),
        Family::V6 => matches!(kind, 1..=4),
    }
}
