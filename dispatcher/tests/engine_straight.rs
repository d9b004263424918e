//! Plain frames of known flows go straight, and come out as the ladder would have let them out: byte for byte, count for count.
//!
//! The bench and the world compare every frame with an engine that knows the ladder only ([`sim::twin`]); here are the frames about which they could
//! differ, at the borders of what is plain. That most frames do go straight is seen where no ladder could have been: they are taken without one.

use dispatcher::engine::{Config, PortId, Verdict};
use dispatcher::wire::options::{SynOptions, Timestamps, write_timestamps};
use dispatcher::wire::packet::{Packet, Tcp};
use dispatcher::wire::{Frame, Mac};
use sim::config::{one_armed, two_armed};
use sim::rng::Rng;
use sim::script::*;

const HTTP: &[u8] = b"GET / HTTP/1.0\r\n\r\n";

/// A bench with one spliced connection, with timestamps or without.
fn spliced(config: Config, stamps: bool) -> Bench {
    let mut b = Bench::new(config, false);
    if !stamps {
        b.splice(HTTP);
        return b;
    }
    b.dial_with(&linux(), HTTP);
    let options =
        written(&SynOptions { wscale: Some(3), timestamps: Some(Timestamps { val: 999, ecr: 5001 }), ..linux() });
    b.server_sends(Seg { window: 60000, options: &options, ..seg(SYN_ACK, 0, 1, &[]) });
    let options = write_timestamps(Timestamps { val: 1000, ecr: 5001 });
    b.server_sends(Seg { window: 600, options: &options, ..seg(ACK, 1, 1 + HTTP.len() as u32, &[]) });
    b
}

/// Whether the engine takes it straight, without a ladder to fall back on; the frame is gone afterwards.
fn goes_straight(b: Bench, port: u8, frame: &[u8]) -> bool {
    let mut engine = b.engine.into_engine();
    let mut buffer = vec![0; 256 + frame.len()];
    buffer[64..64 + frame.len()].copy_from_slice(frame);
    let mut frame = Frame::new(&mut buffer, 64, frame.len());
    let mut look = engine.look(frame.bytes());
    engine.look_again(&mut look);
    let verdict = engine.straight(PortId(port), look, &mut frame, b.now);
    assert!(matches!(verdict, None | Some(Verdict::Forward(_))));
    verdict.is_some()
}

#[test]
fn ordinary_frames_of_both_sides_go_straight() {
    for config in [two_armed(1, false), one_armed(1, false)] {
        for stamps in [false, true] {
            let last = (config.ports.len() - 1) as u8;
            for payload in [&b""[..], b"x", &[7; 1400]] {
                for (from_client, greeting) in [(true, &b""[..]), (false, b""), (true, b"hello"), (false, b"hello")] {
                    let mut b = spliced(config.clone(), stamps);
                    let said = greeting.len() as u32;
                    if said > 0 {
                        let frame = ordinary(&b, false, greeting, stamps, 0);
                        b.hand_in(usize::from(last), &frame);
                    }
                    let frame = ordinary(&b, from_client, payload, stamps, said);
                    let port = if from_client { 0 } else { last };
                    let which = format!("from the client: {from_client}, behind {said}: {} bytes", payload.len());
                    assert!(goes_straight(b, port, &frame), "{which}");
                }
            }
        }
    }
}

/// The next segment of one side, the server having said so many bytes.
fn ordinary(b: &Bench, from_client: bool, payload: &[u8], stamps: bool, said: u32) -> Vec<u8> {
    let stamp = b.stamp(6000);
    let options = if stamps { &stamp[..] } else { &[] };
    let (seq, ack) = if from_client { (19, 1 + said) } else { (1 + said, 19) };
    let segment = Seg { options, ..seg(ACK, seq, ack, payload) };
    if from_client { b.client_frame(&segment) } else { b.server_frame(&segment) }
}

/// One thing about an ordinary frame is another: each byte of the headers in turn, lengths, what stands around it. The twins compare what comes of it, and
/// of an ordinary frame behind it.
#[test]
fn a_frame_that_differs_in_one_byte_from_an_ordinary_one_meets_the_same_fate_by_both_ways() {
    let mut rng = Rng::new(7);
    for stamps in [false, true] {
        let options = if stamps { 12 } else { 0 };
        for at in 0..14 + 40 + options {
            for from_client in [false, true] {
                for value in [0, 0xff, rng.u64() as u8, rng.u64() as u8] {
                    let mut b = spliced(two_armed(1, false), stamps);
                    let hand = |b: &mut Bench, change: Option<usize>| {
                        let mut frame = ordinary(b, from_client, b"sixsix", stamps, 0);
                        if let Some(at) = change {
                            frame[at] = if frame[at] == value { !value } else { value };
                        }
                        b.hand_in(usize::from(!from_client), &frame)
                    };
                    hand(&mut b, None);
                    hand(&mut b, Some(at));
                    hand(&mut b, None);
                    assert!(b.engine.is_compared());
                }
            }
        }
    }
}

#[test]
fn padding_is_cut_off_and_short_frames_are_none() {
    let mut b = spliced(two_armed(1, false), true);
    let whole = ordinary(&b, true, b"sixsix", true, 0);
    for len in 0..whole.len() {
        b.hand_in(0, &whole[..len]);
    }
    for padding in 0..30 {
        let (out, verdict) = b.hand_in(0, &[&whole[..], &vec![0x55; padding]].concat());
        assert!(matches!(verdict, Verdict::Forward(_)));
        assert_eq!(out[0].bytes.len(), whole.len());
    }
    assert!(b.engine.is_compared());
}

#[test]
fn a_client_behind_another_router_is_followed_as_by_the_ladder() {
    let mut b = spliced(two_armed(1, false), false);
    let answer = ordinary(&b, false, b"answer", false, 0);
    let mut moved = ordinary(&b, true, b"", false, 0);
    moved[6..12].copy_from_slice(&STRANGER_MAC.0);
    for (port, frame, to) in [(1, &answer, CLIENT_MAC), (0, &moved, SERVER_MAC), (1, &answer, STRANGER_MAC)] {
        let (out, _) = b.hand_in(port, frame);
        assert_eq!(Mac(out[0].bytes[..6].try_into().unwrap()), to);
    }
}

/// A frame that goes straight says what one that is built anew would.
#[test]
fn what_comes_out_has_right_checksums_and_the_other_sides_numbers() {
    let mut b = spliced(two_armed(1, false), true);
    let frame = ordinary(&b, false, b"answer", true, 0);
    let (out, _) = b.hand_in(1, &frame);
    let (ip, tcp) = (out[0].ip(), out[0].tcp());
    assert_eq!((ip.dst.socket(tcp.dst_port), tcp.seq), (b.client, b.cookie + 1));
    let sum = dispatcher::wire::checksum::Sum::default().add_bytes(&out[0].bytes[ip.header..ip.payload]).checksum();
    assert_eq!(sum, 0, "the IP header's own");
    let before = Packet::parse(&frame).unwrap();
    let before = Tcp::parse(&frame, &before.ip).unwrap();
    assert_eq!((tcp.flags, out[0].payload()), (before.flags, &b"answer"[..]));
}
