//! Real handshakes against what tshark saw in them.

mod common;

use common::{connections, datagram_events, events, hex, line};
use ssl_parse::{Event, Framing, Outcome, Side, client_hello, dtls, server_hello};

const NOTED: [&str; 3] = ["ch ", "sh ", "nst "];

fn noted(events: Vec<String>) -> Vec<String> {
    events.into_iter().filter(|e| NOTED.iter().any(|n| e.starts_with(n))).collect()
}

#[test]
fn streams_hold_what_the_oracle_says_in_any_slicing() {
    for connection in connections().iter().filter(|c| !c.datagrams) {
        let mut whole_events = None;
        for slice in [usize::MAX, 1, 2, 3, 7, 100, 536] {
            let all: Vec<Vec<String>> = [Side::Client, Side::Server]
                .map(|side| events::<16384>(side, connection.stream(side).chunks(slice)))
                .into();
            let mut found = all.concat();
            assert!(
                found.contains(&format!("resumed {:?}, done true", connection.resumed)) || connection.resumed.is_none(),
                "{}: {found:#?}",
                connection.name
            );
            assert!(
                !found.iter().any(|e| e.starts_with("Malformed") || e.starts_with("NotTls")),
                "{}: {found:#?}",
                connection.name
            );
            if let Some(whole) = &whole_events {
                assert_eq!(&all, whole, "{} in slices of {slice}", connection.name);
            }
            whole_events = Some(all);
            found = noted(found);
            assert_eq!(found, connection.expected, "{} in slices of {slice}", connection.name);
        }
    }
}

#[test]
fn datagrams_hold_what_the_oracle_says() {
    for connection in connections().iter().filter(|c| c.datagrams) {
        let of = |side| connection.pieces.iter().filter(move |(s, _)| *s == side).map(|(_, d)| d.as_slice());
        let found = [
            datagram_events::<2048>(Side::Client, of(Side::Client)),
            datagram_events::<2048>(Side::Server, of(Side::Server)),
        ]
        .concat();
        assert!(!found.iter().any(|e| e.starts_with("Malformed")), "{}: {found:#?}", connection.name);
        assert_eq!(noted(found), connection.expected, "{}", connection.name);
        let mut server = dtls::Follower::<2048>::new(Side::Server);
        of(Side::Server).for_each(|datagram| server.feed(datagram, |_| {}));
        assert_eq!(server.resumed(), connection.resumed, "{}", connection.name);
    }
}

#[test]
fn every_proper_prefix_of_a_good_hello_needs_more() {
    for connection in connections().iter().filter(|c| !c.datagrams) {
        let stream = connection.stream(Side::Client);
        let mut scratch = [0; 4096];
        let Outcome::Complete(hello) = client_hello(stream, &mut scratch) else { panic!("{}", connection.name) };
        assert_eq!(line(&Event::ClientHello(hello)).as_ref(), connection.expected.first(), "{}", connection.name);
        let consumed = hello.consumed;
        for cut in 0..consumed {
            let mut scratch = [0; 4096];
            assert_eq!(
                client_hello(&stream[..cut], &mut scratch),
                Outcome::NeedMore,
                "{} cut at {cut}",
                connection.name
            );
        }
        let mut scratch = [0; 4096];
        assert!(
            matches!(client_hello(&stream[..consumed], &mut scratch), Outcome::Complete(h) if h.consumed == consumed)
        );
    }
}

#[test]
fn server_hellos_read_at_once_are_those_followed() {
    for connection in connections().iter().filter(|c| !c.datagrams) {
        let mut scratch = [0; 4096];
        let found = server_hello(connection.stream(Side::Server), &mut scratch).complete();
        let expected = connection.expected.iter().find(|e| e.starts_with("sh "));
        assert_eq!(found.and_then(|h| line(&Event::ServerHello(h))).as_ref(), expected, "{}", connection.name);
    }
}

#[test]
fn a_hello_in_one_record_needs_no_scratch_and_one_over_records_says_so() {
    for connection in connections().iter().filter(|c| !c.datagrams) {
        let over_records = connection.name == "tls13_hello_over_records";
        let outcome = client_hello(connection.stream(Side::Client), &mut []);
        assert_eq!(outcome.complete().is_none(), over_records, "{}", connection.name);
    }
}

#[test]
fn datagrams_of_dtls_begin_with_a_hello_and_streams_do_not() {
    for connection in connections() {
        let first = &connection.pieces[0].1;
        match dtls::client_hello(first) {
            Outcome::Complete(hello) => {
                assert!(connection.datagrams && hello.framing == Framing::Dtls && hello.consumed == first.len());
                assert_eq!(hello.dtls_cookie.map(hex).as_deref(), Some(""));
                assert_eq!(client_hello(first, &mut []), Outcome::NotTls);
            }
            outcome => assert!(!connection.datagrams && outcome == Outcome::NotTls, "{}", connection.name),
        }
    }
}
