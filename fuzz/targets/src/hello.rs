//! Hellos at the front of a stream, and streams followed.

use crate::{digest, oracle};
use ssl_parse::{ClientHello, Event, Follower, Framing, HelloWalk, Malformed, Outcome, ServerHello, Side};

/// Memory of the readers: as much for each, so that both give up on the same hellos.
const MEMORY: usize = 2048;

/// What a follower reports first, as a digest; none when it wants more. Warnings and ChangeCipherSpecs may stand around a hello.
fn first_event(side: Side, bytes: &[u8]) -> Option<Vec<u8>> {
    let mut follower = Follower::<MEMORY>::new(side);
    // In two slices, cut where the bytes say.
    let cut = bytes.iter().take(8).fold(7usize, |sum, b| sum * 31 + usize::from(*b)) % (bytes.len() + 1);
    for mut slice in [&bytes[..cut], &bytes[cut..]] {
        while let Some(event) = follower.next_event(&mut slice) {
            if matches!(event, Event::Alert { .. } | Event::ChangeCipherSpec) {
                continue;
            }
            let mut out = vec![];
            digest::event(&mut out, &event);
            return Some(out);
        }
    }
    None
}

/// An answer to some bytes stands for all that begin with them: checked for prefixes, at some lengths.
fn never_taken_back(bytes: &[u8], whole: &Outcome<()>, needs: usize, mut ask: impl FnMut(&[u8]) -> Outcome<()>) {
    let mut len = bytes.len();
    for step in [1, 1, 3, 5, 40, 200] {
        len = len.saturating_sub(step);
        let before = ask(&bytes[..len]);
        assert!(before == Outcome::NeedMore || before == *whole, "{before:?} became {whole:?} at {len}");
        if needs > len {
            assert_eq!(before, Outcome::NeedMore, "complete too early");
        }
    }
}

/// The front of a client's stream.
pub fn client_hello(bytes: &[u8]) {
    let mut scratch = [0; MEMORY];
    let outcome = ssl_parse::client_hello(bytes, &mut scratch);
    let plain = outcome.map(|_| ());
    let first = first_event(Side::Client, bytes);
    let mut consumed = 0;
    match outcome {
        Outcome::Complete(hello) => {
            consumed = hello.consumed;
            assert!((1..=bytes.len()).contains(&consumed) && hello.session_id.len() <= 255);
            let mut one_shot = vec![];
            digest::client_hello(&mut one_shot, &hello);
            // What is all in one record is read in place, however long; the follower must hold it.
            let skipped = first.as_ref().is_some_and(|first| first[0] == 7) && consumed > MEMORY;
            assert!(skipped || Some(one_shot) == first, "one shot, and followed");
            if hello.framing == Framing::Tls && bytes[0] == 22 && bytes.len() >= 9 {
                let len = usize::from(u16::from_be_bytes([bytes[3], bytes[4]]));
                let message = 4 + u32::from_be_bytes([0, bytes[6], bytes[7], bytes[8]]) as usize;
                // Not one behind an empty record.
                if len > 0 && message <= len && 5 + message <= bytes.len() {
                    oracle::client_hello(&hello, &bytes[5..5 + message]);
                    let bare = ClientHello::parse(&bytes[9..5 + message], Framing::Tls, hello.record_version);
                    assert_eq!(bare.map(|bare| ClientHello { consumed, ..bare }), Ok(hello));
                }
            }
        }
        Outcome::NeedMore => {
            assert!(first.is_none_or(|first| first[0] == 7), "one shot wants more, followed does not");
        }
        Outcome::NotTls => assert_eq!(first, Some(vec![13]), "not TLS"),
        // What is too long, the follower passes over, and sees other faults later.
        Outcome::Malformed(_) => {}
    }
    never_taken_back(bytes, &plain, consumed, |b| ssl_parse::client_hello(b, &mut [0; MEMORY]).map(|_| ()));
    walked(bytes);
    if let Some(hello) = ssl_parse::client_hello_so_far(bytes, &mut [0; 150]) {
        assert!(hello.is_ambiguous());
        digest::client_hello(&mut vec![], &hello);
    }
}

/// A walk in two steps answers what reading with memory enough would.
fn walked(bytes: &[u8]) {
    let mut walk = HelloWalk::default();
    for part in [&bytes[..bytes.len() / 3], bytes] {
        let mut scratch = vec![0; part.len()];
        let outcome = ssl_parse::client_hello(part, &mut scratch);
        // What announces more than there is has no memory given here.
        if outcome != Outcome::Malformed(Malformed::TooLong) {
            let walked = walk.advance(part);
            match outcome {
                // A message whose beginning cannot be read is whole all the same.
                Outcome::Malformed(Malformed::Truncated) => assert!(walked.complete().is_some()),
                _ => assert_eq!(walked, outcome.map(|hello| hello.consumed)),
            }
        }
    }
}

/// The front of a server's stream.
pub fn server_hello(bytes: &[u8]) {
    let mut scratch = [0; MEMORY];
    let outcome = ssl_parse::server_hello(bytes, &mut scratch);
    let plain = outcome.map(|_| ());
    if let Outcome::Complete(hello) = outcome {
        let mut one_shot = vec![];
        digest::server_hello(&mut one_shot, &hello);
        let first = first_event(Side::Server, bytes);
        let skipped = first.as_ref().is_some_and(|first| first[0] == 7) && bytes.len() > MEMORY;
        assert!(skipped || Some(one_shot) == first, "one shot, and followed");
        let len = usize::from(u16::from_be_bytes([bytes[3], bytes[4]]));
        if bytes[0] == 22 && len >= 4 && bytes.len() >= 9 {
            let message = 4 + u32::from_be_bytes([0, bytes[6], bytes[7], bytes[8]]) as usize;
            if message <= len && 5 + message <= bytes.len() {
                oracle::server_hello(&hello, &bytes[5..5 + message]);
                assert_eq!(ServerHello::parse(&bytes[9..5 + message], hello.record_version), Ok(hello));
            }
        }
    }
    never_taken_back(bytes, &plain, 0, |b| ssl_parse::server_hello(b, &mut [0; MEMORY]).map(|_| ()));
}

fn followed<'a, const N: usize>(side: Side, slices: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut follower = Follower::<N>::new(side);
    let mut all = vec![];
    for slice in slices {
        let (mut input, done) = (slice, follower.is_done());
        while let Some(event) = follower.next_event(&mut input) {
            assert!(!done, "an event after the last");
            if let Event::LongTicketBytes(bytes) = event {
                assert!(!bytes.is_empty());
            }
            digest::event(&mut all, &event);
        }
        assert!(input.is_empty(), "bytes left over");
    }
    let resumed = follower.resumed();
    all.extend([u8::from(follower.is_done()), resumed.map_or(2, u8::from)]);
    all
}

/// One byte for the side, two for the cuts, then a stream.
pub fn follower(bytes: &[u8]) {
    let Some((&[side, a, b], stream)) = bytes.split_first_chunk() else { return };
    let side = if side & 1 == 0 { Side::Client } else { Side::Server };
    // Slices of two lengths in turn.
    let (a, b) = (usize::from(a) + 1, usize::from(b) * 8 + 1);
    let slices = || {
        let (mut rest, mut turn) = (stream, false);
        core::iter::from_fn(move || {
            let n = (if turn { b } else { a }).min(rest.len());
            turn = !turn;
            let (slice, after) = rest.split_at(n);
            rest = after;
            (n > 0).then_some(slice)
        })
    };
    assert_eq!(followed::<MEMORY>(side, slices()), followed::<MEMORY>(side, core::iter::once(stream)));
    // Single bytes, as long as that is quick.
    let piece = if stream.len() <= 400 { 1 } else { 61 };
    assert_eq!(followed::<150>(side, slices()), followed::<150>(side, stream.chunks(piece)));
}
