use super::super::Requests;
use super::*;
use lb::{BackendId, Config, Millis};

const SEEN: Sighting = Sighting { backend: BackendId(1), client: 7, now: Millis(1000) };

fn of(value: &str) -> Identity {
    Identity::cookie(b"SID", value.as_bytes())
}

/// A server's stream in pieces, in answer to what the client has asked.
struct Server {
    responses: Responses,
    pending: Pending,
    affinity: Affinity,
    more: bool,
}

impl Server {
    fn asked(requests: &[u8], offered: Option<&str>) -> Server {
        let (mut responses, mut pending) = (Responses::default(), Pending::new());
        responses.restart(b"SID", offered.map(of));
        let mut reader = Requests::default();
        reader.feed(requests, &mut pending);
        Server { responses, pending, affinity: Affinity::single(Config::new(3)), more: true }
    }

    fn says(&mut self, stream: &[u8], piece: usize) {
        for bytes in stream.chunks(piece) {
            self.more = self.more && self.responses.feed(bytes, &mut self.pending, &mut self.affinity, SEEN);
        }
    }

    fn leads(&self, value: &str, at: u64) -> bool {
        self.affinity.lookup(&[of(value)], Millis(at), |_| true).decision.is_some()
    }
}

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// Of all values that are tried those that have rows, and whether it is read on; the same in pieces of any size.
#[track_caller]
fn learned(requests: &[u8], stream: &[u8]) -> (Vec<&'static str>, bool) {
    let all = |piece| {
        let mut server = Server::asked(requests, None);
        server.says(stream, piece);
        let rows: Vec<_> = ["one", "two", "three", "evil"].into_iter().filter(|v| server.leads(v, 1000)).collect();
        assert_eq!(rows.len(), server.affinity.census(Millis(1000)).cookies, "{}", stream.escape_ascii());
        (rows, server.more)
    };
    let whole = all(stream.len());
    for piece in 1..stream.len().min(40) {
        assert_eq!(all(piece), whole, "{} in pieces of {piece}", stream.escape_ascii());
    }
    whole
}

#[test]
fn the_cookie_of_the_name_is_learned_and_no_other() {
    let head =
        "HTTP/1.1 200 OK\r\nSet-Cookie: A=b\r\nset-cookie:SID=one; Path=/\r\nSet-Cookie2: SID=two\r\nX: SID=three\r\n";
    assert_eq!(learned(GET, format!("{head}Content-Length: 2\r\n\r\nhi").as_bytes()), (vec!["one"], true));
    // Not before its head is whole.
    assert_eq!(learned(GET, head.as_bytes()).0, [""; 0]);
    assert_eq!(learned(GET, b"HTTP/1.1 200\r\nSet-Cookie: sid=one\r\nSet-Cookie: SID\r\n\r\n").0, [""; 0]);
    assert_eq!(learned(GET, b"HTTP/1.0 200 OK\nSet-Cookie: SID=one\n\n"), (vec!["one"], false));
    assert_eq!(
        learned(GET, b"HTTP/1.1 302 Found\r\nSet-Cookie:\r\n SID=one;\r\n\tPath=/\r\n\r\n"),
        (vec!["one"], false)
    );
}

#[test]
fn every_response_teaches_whose_beginning_is_known_to_the_byte() {
    let requests = [GET, GET, GET].concat();
    let first = b"HTTP/1.1 200 OK\r\nSet-Cookie: SID=one\r\nContent-Length: 11\r\n\r\nHTTP/1.1 20".as_slice();
    let second = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nSet-Cookie: SID=two\r\n\r\n6\r\n\r\n\r\n\r\n\r\n0\r\nSet-Cookie: SID=evil\r\n\r\n";
    let third = b"HTTP/1.1 304 Not Modified\r\nContent-Length: 999\r\nSet-Cookie: SID=three\r\n\r\n".as_slice();
    assert_eq!(learned(&requests, &[first, second, third].concat()), (vec!["one", "two", "three"], true));
    // Interim responses answer nothing, and set nothing.
    let interim = b"HTTP/1.1 100 Continue\r\nSet-Cookie: SID=evil\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n";
    assert_eq!(learned(GET, &[interim.as_slice(), first].concat()), (vec!["one"], true));
}

/// What would be read as a head within a body, if one did not know how long that is.
#[test]
fn bytes_of_a_body_are_never_a_head() {
    let evil = "HTTP/1.1 200 OK\r\nSet-Cookie: SID=evil\r\nContent-Length: 0\r\n\r\n";
    let n = evil.len();
    let set = "Set-Cookie: SID=one\r\n";
    for (requests, stream) in [
        // A body of its length.
        ("GET", format!("HTTP/1.1 200 OK\r\n{set}Content-Length: {n}\r\n\r\n{evil}")),
        // To the end of the connection.
        ("GET", format!("HTTP/1.1 200 OK\r\n{set}\r\n{evil}")),
        ("GET", format!("HTTP/1.0 200 OK\r\n{set}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n{evil}")),
        // In two ways at once.
        ("GET", format!("HTTP/1.1 200 OK\r\n{set}Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n{evil}")),
        ("GET", format!("HTTP/1.1 200 OK\r\n{set}Content-Length: 0\r\nContent-Length: {n}\r\n\r\n{evil}")),
        ("GET", format!("HTTP/1.1 200 OK\r\n{set}Content-Length: 0, {n}\r\n\r\n{evil}")),
        ("GET", format!("HTTP/1.1 200 OK\r\n{set}Content-Length:\r\n 0\r\n\r\n{evil}")),
        ("GET", format!("HTTP/1.1 200 OK\r\n{set}Content-Length : {n}\r\nContent-Length: 0\r\n\r\n{evil}")),
        ("GET", format!("HTTP/1.1 200 OK\r\n{set}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n{evil}")),
        ("GET", format!("HTTP/1.1 200 OK\r\n{set}Transfer-Encoding: chunked\r\n\r\n0;x\n\r\n{evil}")),
        ("GET", format!("HTTP/1.1 200 OK\r\n{set}Content-Length: 2000000\r\n\r\n{evil}")),
        // It is HTTP no longer.
        ("GET", format!("HTTP/1.1 200 OK\r\n{set}Content-Length: 0\r\n\r\nHTTP/1.1 101 Switching\r\n\r\n{evil}")),
        ("CONNECT", format!("HTTP/1.1 200 OK\r\n{set}\r\n{evil}")),
    ] {
        let requests = [format!("{requests} / HTTP/1.1\r\n\r\n").as_bytes(), GET, GET].concat();
        let (rows, _) = learned(&requests, stream.as_bytes());
        assert_eq!(rows, ["one"], "{stream}");
    }
}

/// A response to HEAD says how long its body would be, and has none: who does not know what was asked takes the next one for it.
#[test]
fn the_answer_to_a_request_for_the_head_alone_has_no_body() {
    let requests = [b"HEAD / HTTP/1.1\r\n\r\n".as_slice(), GET].concat();
    let inner = "HTTP/1.1 200 OK\r\nSet-Cookie: SID=evil\r\n\r\n";
    // Its length leads into the next response's body, which is the client's to write.
    let next = format!("HTTP/1.1 200 OK\r\nSet-Cookie: SID=two\r\nContent-Length: {}\r\n\r\n{inner}", inner.len());
    let into = next.len() - inner.len();
    let stream = format!("HTTP/1.1 200 OK\r\nContent-Length: {into}\r\n\r\n{next}");
    assert_eq!(learned(&requests, stream.as_bytes()), (vec!["two"], true));
    // Not known what was asked: the first response is read, and none behind it.
    assert_eq!(learned(b"GET /a b HTTP/1.1\r\n\r\n", stream.as_bytes()), (vec![], false));
}

#[test]
fn a_response_that_nothing_was_asked_for_teaches_nothing_unless_it_is_the_first() {
    let timeout = b"HTTP/1.1 408 Request Timeout\r\nSet-Cookie: SID=one\r\nContent-Length: 0\r\n\r\n".as_slice();
    assert_eq!(learned(b"GET / HT", timeout), (vec!["one"], false));
    let first = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".as_slice();
    assert_eq!(learned(GET, &[first, timeout].concat()), (vec![], false));
}

#[test]
fn what_is_no_http_is_not_read_on() {
    for stream in [
        "SSH-2.0-x\r\n",
        "HTTP/2.0 200 OK\r\n",
        "HTTP/1.1 20 OK\r\n",
        "HTTP/1.1 2000 OK\r\n",
        "ICY 200 OK\r\n",
        "HTTP/1.1  200 OK\r\n",
    ] {
        let rest = "Set-Cookie: SID=one\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(learned(GET, format!("{stream}{rest}").as_bytes()), (vec![], false), "{stream}");
    }
    let long = format!("HTTP/1.1 200 OK\r\nSet-Cookie: SID=one; X={}\r\nContent-Length: 0\r\n\r\n", "x".repeat(3000));
    assert_eq!(learned(GET, long.as_bytes()), (vec![], true), "of a line of which a part is missing");
}

#[test]
fn the_first_answer_tells_whether_the_session_goes_on() {
    let answer = |set: &str| format!("HTTP/1.1 200 OK\r\n{set}Content-Length: 0\r\n\r\n");
    for (set, resumed, counts) in [
        ("", Some(true), (1, 0)),
        ("Set-Cookie: SID=old; Path=/\r\n", Some(true), (1, 0)),
        ("Set-Cookie: SID=new\r\n", Some(false), (0, 1)),
        ("Set-Cookie: SID=; Max-Age=0\r\n", None, (0, 0)),
    ] {
        let mut server = Server::asked(&[GET, GET].concat(), Some("old"));
        server.says(answer(set).as_bytes(), 1000);
        assert_eq!(server.responses.resumed(), resumed, "{set}");
        // Of a later one nothing can be said: its request may have brought another.
        server.says(answer("Set-Cookie: SID=other\r\n").as_bytes(), 1000);
        let met = server.affinity.metrics().of(BackendId(1), lb::IdentityKind::Cookie);
        assert_eq!((met.accepted, met.refused), counts, "{set}");
    }
}

#[test]
fn a_row_lives_as_long_as_the_cookie_and_goes_when_the_server_deletes_it() {
    let answer = |set: &str| {
        format!(
            "HTTP/1.1 200 OK\r\nDate: Tue, 28 Jul 2026 10:00:00 GMT\r\nSet-Cookie: SID={set}\r\nContent-Length: 0\r\n\r\n"
        )
    };
    let mut server = Server::asked(&[GET, GET].concat(), Some("one"));
    server.says(answer("one; Max-Age=60").as_bytes(), 1000);
    server.says(answer("two; Expires=Tue, 28 Jul 2026 12:30:00 GMT").as_bytes(), 1000);
    assert!(server.leads("one", 61_000) && !server.leads("one", 61_001));
    assert!(server.leads("two", 9_001_000) && !server.leads("two", 9_001_001), "longer than a session");
    // Deleted: by the server that has it, in answer to the client that made it.
    server.responses.restart(b"SID", Some(of("two")));
    server.pending.push(Method::Other);
    server.more = true;
    server.says(b"HTTP/1.1 200 OK\r\nSet-Cookie: SID=deleted; expires=Thu, 01-Jan-1970 00:00:01 GMT\r\n\r\n", 1000);
    assert!(!server.leads("two", 1000) && server.leads("one", 1000) && !server.leads("deleted", 1000));
}

/// Heads and bodies by the thousand, as a hostile server may send them: memory stays what it is, and all is read in the end or given up.
#[test]
fn an_absurd_number_of_cookies_is_the_last_few() {
    let many: String = (0..1000).map(|n| format!("Set-Cookie: SID=v{n}\r\n")).collect();
    let mut server = Server::asked(GET, None);
    server.says(format!("HTTP/1.1 200 OK\r\n{many}\r\n").as_bytes(), 1460);
    let rows: Vec<_> = (0..1000).filter(|n| server.leads(&format!("v{n}"), 1000)).collect();
    assert_eq!(rows, [996, 997, 998, 999]);
}
