//! Datagrams.

use crate::digest;
use ssl_parse::{Event, Outcome, Side, dtls};

/// One byte for the side, then datagrams, each behind its length in two bytes (the last as long as there are bytes).
pub fn dtls(bytes: &[u8]) {
    let Some((&side, mut rest)) = bytes.split_first() else { return };
    let side = if side & 1 == 0 { Side::Client } else { Side::Server };
    let mut follower = dtls::Follower::<512>::new(side);
    let mut first = true;
    while let Some((&len, after)) = rest.split_first_chunk() {
        let (datagram, after) = after.split_at(usize::from(u16::from_le_bytes(len)).min(after.len()));
        rest = after;
        read_records(datagram);
        let mut events = 0;
        let mut begins = None;
        follower.feed(datagram, |event| {
            if events == 0 {
                let mut out = vec![];
                digest::event(&mut out, &event);
                begins = Some(out);
            }
            if let Event::ClientHello(h) = event {
                assert!(h.session_id.len() <= 255);
            }
            events += 1;
        });
        assert!(events <= 1 + datagram.len(), "more events than bytes");
        let outcome = dtls::client_hello(datagram);
        if first
            && side == Side::Client
            && let Outcome::Complete(hello) = outcome
        {
            let mut one_shot = vec![];
            digest::client_hello(&mut one_shot, &hello);
            assert_eq!(Some(one_shot), begins, "one shot, and followed");
        }
        first = false;
    }
}

/// Records and fragments take bytes off the front, and give no others.
fn read_records(mut datagram: &[u8]) {
    let total = datagram.len();
    let mut taken = 0;
    while !datagram.is_empty() {
        let before = datagram.len();
        let Ok(record) = dtls::Record::read(&mut datagram) else {
            assert_eq!(before, datagram.len(), "what cannot be read is left");
            break;
        };
        taken += 13 + record.fragment.len();
        assert_eq!(taken + datagram.len(), total);
        let mut fragments = record.fragment;
        while !fragments.is_empty() {
            let before = fragments.len();
            match dtls::Fragment::read(&mut fragments) {
                Ok(_) => assert!(fragments.len() + 12 <= before),
                Err(_) => break,
            }
        }
    }
}
