//! What must hold of any bytes.

mod common;

use common::{connections, datagram_events, events, events_with, line, message, records};
use proptest::prelude::*;
use ssl_parse::{
    ClientHello, Event, Follower, Framing, Outcome, ProtocolVersion, Side, client_hello, client_hello_so_far, dtls,
    server_hello, sslv2,
};

/// Slices of `bytes` between the cuts, wherever they are.
fn slices<'a>(bytes: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let mut cuts: Vec<_> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
    cuts.extend([0, bytes.len()]);
    cuts.sort_unstable();
    cuts.windows(2).map(|w| &bytes[w[0]..w[1]]).collect()
}

/// A stream or datagram of the test data with some bytes changed, and perhaps cut.
fn damaged() -> impl Strategy<Value = (bool, Side, Vec<u8>)> {
    let pieces: Vec<_> =
        connections().into_iter().flat_map(|c| c.pieces.into_iter().map(move |(s, d)| (c.datagrams, s, d))).collect();
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    (prop::sample::select(pieces), changes, any::<prop::sample::Index>(), any::<bool>()).prop_map(
        |((datagram, side, mut bytes), changes, cut, is_cut)| {
            // Most of what matters is near the front.
            let reach = bytes.len().min(700);
            for (index, value) in changes {
                let at = index.index(reach);
                bytes[at] = value;
            }
            if is_cut {
                bytes.truncate(cut.index(bytes.len()));
            }
            (datagram, side, bytes)
        },
    )
}

/// Reads as a user does, every borrowed list to its end.
fn read_all(bytes: &[u8]) {
    let mut scratch = [0; 2048];
    let look = |outcome: Outcome<ClientHello<'_>>| {
        if let Outcome::Complete(h) = outcome {
            assert!(h.session_id.len() <= 255 && h.consumed <= bytes.len() && h.consumed > 0);
            assert_eq!(h.psk.is_some(), h.psk_identities().count() > 0);
            h.cipher_suites.count();
            h.extensions.count();
            h.key_shares.map(Iterator::count);
            h.alpn.map(Iterator::count);
        }
    };
    look(client_hello(bytes, &mut scratch));
    look(sslv2::client_hello(bytes));
    look(dtls::client_hello(bytes));
    server_hello(bytes, &mut scratch);
    client_hello_so_far(bytes, &mut scratch);
}

fn saved<const N: usize>(follower: &Follower<N>) -> Vec<u8> {
    let mut bytes = Vec::new();
    follower.save(|piece| bytes.extend_from_slice(piece));
    bytes
}

/// Goes on in another one, which has read something else before.
fn carry<const N: usize>(follower: &mut Follower<N>) {
    let bytes = saved(follower);
    let mut other = Follower::new(Side::Client);
    other.feed(&[22, 3, 1, 0, 60, 1, 0, 0, 56, 3, 3, 9, 9, 9], |_| ());
    let mut left = bytes.as_slice();
    assert!(other.restore(&mut left).is_some() && left.is_empty(), "{follower:?}");
    assert_eq!(saved(&other), bytes);
    *follower = other;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), side in any::<bool>()) {
        read_all(&bytes);
        let side = if side { Side::Client } else { Side::Server };
        events::<256>(side, [bytes.as_slice()]);
        datagram_events::<256>(side, [bytes.as_slice()]);
    }

    #[test]
    fn damaged_handshakes_give_the_same_events_in_any_slicing(
        (datagram, side, bytes) in damaged(), cuts in prop::collection::vec(any::<usize>(), 0..12),
    ) {
        read_all(&bytes);
        if datagram {
            datagram_events::<256>(side, [bytes.as_slice()]);
        } else {
            prop_assert_eq!(events::<4096>(side, slices(&bytes, &cuts)), events::<4096>(side, [bytes.as_slice()]));
            prop_assert_eq!(events::<150>(side, slices(&bytes, &cuts)), events::<150>(side, bytes.chunks(1)));
        }
    }

    #[test]
    fn a_follower_that_is_written_down_and_read_again_anywhere_reports_the_same(
        (datagram, side, bytes) in damaged(), cuts in prop::collection::vec(any::<usize>(), 0..12),
    ) {
        if !datagram {
            prop_assert_eq!(events_with::<4096>(side, slices(&bytes, &cuts), carry), events::<4096>(side, [&bytes[..]]));
            // With little memory, tickets come in pieces.
            prop_assert_eq!(events_with::<64>(side, slices(&bytes, &cuts), carry), events::<64>(side, [&bytes[..]]));
            prop_assert_eq!(events_with::<64>(side, bytes.chunks(1), carry), events::<64>(side, [&bytes[..]]));
        }
    }

    #[test]
    fn whatever_is_read_as_a_follower_s_state_follows_on_or_is_refused(
        (_, side, bytes) in damaged(),
        at in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        garbage in prop::collection::vec(any::<u8>(), 0..120),
    ) {
        let mut follower = Follower::<150>::new(side);
        let (before, behind) = bytes.split_at(at.index(bytes.len() + 1));
        follower.feed(before, |_| ());
        let mut state = saved(&follower);
        for (at, to) in changes {
            let at = at.index(state.len());
            state[at] = to;
        }
        for state in [&state[..], &garbage] {
            let mut follower = Follower::<150>::new(side);
            if follower.restore(&mut &state[..]).is_some() {
                follower.feed(behind, |_| ());
                follower.feed(&bytes, |_| ());
            }
        }
    }

    /// Two readers written apart, one at once and one byte by byte.
    #[test]
    fn the_follower_begins_with_what_the_one_shot_reader_says((datagram, _, bytes) in damaged()) {
        let mut scratch = [0; 4096];
        let outcome = client_hello(&bytes, &mut scratch);
        // Behind what may stand before a hello, and between its pieces.
        let passed = |event: &String| event.starts_with("Alert") || event == "ChangeCipherSpec";
        let first = events::<4096>(Side::Client, bytes.chunks(1)).into_iter().find(|event| !passed(event)).unwrap();
        prop_assert_eq!(outcome == Outcome::NotTls, first == "NotTls");
        if let Outcome::Complete(hello) = outcome {
            prop_assert_eq!(line(&Event::ClientHello(hello)), Some(first));
        } else if !datagram && outcome == Outcome::NeedMore {
            prop_assert!(first.starts_with("resumed"), "{}", first);
        }
    }

    /// Once an answer is final, no byte to come changes it: a dispatcher has acted on it.
    #[test]
    fn answers_about_a_growing_stream_are_never_taken_back((datagram, _, bytes) in damaged()) {
        let mut answer = None;
        for len in 0..=bytes.len().min(2000) {
            let mut scratch = [0; 1024];
            let stream = &bytes[..len];
            let now = match client_hello(stream, &mut scratch) {
                Outcome::NeedMore => None,
                other => Some(format!("{other:?}")),
            };
            prop_assert!(answer.is_none() || answer == now, "{:?} became {:?} at {}", answer, now, len);
            answer = now;
        }
        prop_assert!(!datagram || answer.is_none() || answer.as_deref() == Some("NotTls"));
    }

    #[test]
    fn how_a_hello_is_cut_into_records_does_not_matter(
        which in any::<prop::sample::Index>(), lengths in prop::collection::vec(1_usize..600, 1..10),
    ) {
        let hellos: Vec<_> = connections()
            .into_iter()
            .filter(|c| !c.datagrams && !c.name.starts_with("sslv2") && !c.name.ends_with("records"))
            .map(|c| c.stream(Side::Client).to_vec())
            .collect();
        let stream = &hellos[which.index(hellos.len())];
        let hello = client_hello(stream, &mut []).complete().unwrap();
        let body = &stream[9..hello.consumed];
        prop_assert_eq!(ClientHello::parse(body, Framing::Tls, hello.record_version).map(|h| ClientHello { consumed: hello.consumed, ..h }), Ok(hello));

        let cut = records(22, &message(1, body), &lengths);
        for len in 0..cut.len() {
            let mut scratch = [0; 4096];
            prop_assert_eq!(client_hello(&cut[..len], &mut scratch), Outcome::NeedMore);
        }
        let mut scratch = [0; 4096];
        let joined = client_hello(&cut, &mut scratch).complete().unwrap();
        let same = ClientHello { consumed: hello.consumed, record_version: hello.record_version, ..joined };
        prop_assert_eq!(same, hello);
        prop_assert_eq!(joined.record_version, ProtocolVersion(0x0301));
        prop_assert_eq!(joined.consumed, cut.len());
    }
}
