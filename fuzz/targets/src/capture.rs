//! Captures from anyone.

use dispatcher::capture::Capture;
use dispatcher::replay::decode::{Transport, decode};
use std::net::SocketAddr;

/// A capture file.
pub fn capture(bytes: &[u8]) {
    let Ok(capture) = Capture::from_bytes(bytes.to_vec()) else { return };
    let Ok(mut frames) = capture.frames() else { return };
    let mut number = 0;
    let mut time = dispatcher::time::Time::ZERO;
    let mut at = 0;
    while let Some(frame) = frames.next() {
        let Ok(frame) = frame else {
            assert!(frames.next().is_none(), "one error, and it is the last word");
            return;
        };
        number += 1;
        assert_eq!(frame.number, number);
        assert!(frame.time >= time, "time runs backwards");
        time = frame.time;
        assert!(frame.bytes.len() <= bytes.len() && frame.original_len >= frame.bytes.len());
        if let Ok(decoded) = decode(&frame) {
            let family = |a: SocketAddr| a.is_ipv4();
            assert_eq!(family(decoded.src), family(decoded.dst));
            let payload = match decoded.transport {
                Transport::Tcp(s) => s.payload,
                Transport::Udp { payload, .. } => payload,
            };
            assert!(payload.len() <= frame.bytes.len());
        }
        assert!(frames.position() > at || frame.bytes.is_empty(), "the file is walked through");
        at = frames.position();
    }
}
