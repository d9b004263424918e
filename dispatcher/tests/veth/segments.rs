//! Large TCP segments, and what wires carry of them.

use dispatcher::io;
use dispatcher::wire::build::{Link, Segment};
use dispatcher::wire::packet::{Flags, Vlans};
use dispatcher::wire::{Addr, Frame, Mac, Offload, Seq};
use std::net::IpAddr;

/// A TCP segment with timestamps, numbered and open, and its frame's bytes.
pub fn tcp(v6: bool, seq: u32, flags: u8, len: usize, vlan: bool) -> Vec<u8> {
    let address = |n| if v6 { Addr::from(IpAddr::from([n; 16])) } else { Addr::v4([10, 9, 0, n]) };
    let payload: Vec<u8> = (0..len).map(|i| (i * 31 + i / 251) as u8 ^ seq as u8).collect();
    let segment = Segment {
        link: Link {
            dst: Mac([2, 0, 0, 0, 0, 9]),
            src: Mac([2, 0, 0, 0, 0, 8]),
            vlans: if vlan { Vlans::from_ids(&[100]) } else { Vlans::NONE },
        },
        src: (address(1), 443),
        dst: (address(2), 50_000),
        seq: Seq(seq),
        ack: Seq(1),
        flags: Flags(flags),
        window: 500,
        options: &[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2],
        payload: &payload,
    };
    let mut frame = vec![0; segment.frame_len()];
    segment.write(&mut frame);
    frame
}

/// A frame as wires carry it.
pub fn finished(frame: &[u8], offload: Offload) -> Vec<Vec<u8>> {
    let (mut bytes, mut all) = (frame.to_vec(), Vec::new());
    io::finish(&mut Frame::whole(&mut bytes).with(offload), &mut |piece| {
        all.push(piece.to_vec());
        true
    });
    all
}
