//! Plain HTTP/1 whose sessions are followed by a cookie.

use super::*;
use dispatcher::tcp::Class;
use lb::affinity::Census;
use lb::{Algorithm, PoolSpec, RouteSpec};
use sim::config::{pool, server_ip};

const SERVERS: usize = 3;

fn following(config: Config) -> Config {
    config.policy(|p| p.cookie = Some("SID".parse().unwrap())).pool(|pool| pool.balance = Algorithm::RoundRobin)
}

fn world() -> Bench {
    Bench::new(following(two_armed(SERVERS, false)), false)
}

fn get(cookie: &str) -> Vec<u8> {
    let cookie = if cookie.is_empty() { String::new() } else { format!("Cookie: a=b; SID={cookie}\r\n") };
    format!("GET / HTTP/1.1\r\nHost: shop.example\r\n{cookie}\r\n").into_bytes()
}

fn ok(set: &str) -> Vec<u8> {
    let set = if set.is_empty() { String::new() } else { format!("Set-Cookie: SID={set}; Path=/\r\n") };
    format!("HTTP/1.1 200 OK\r\n{set}Content-Length: 2\r\n\r\nhi").into_bytes()
}

/// One connection after the other, each from another port; what has been sent in either direction of the present one.
struct Visits {
    b: Bench,
    n: u16,
    sent: u32,
    heard: u32,
}

impl Visits {
    fn new(b: Bench) -> Visits {
        Visits { b, n: 0, sent: 0, heard: 0 }
    }

    fn dialled(&self) -> usize {
        (0..).find(|i| server_ip(*i, false) == self.b.dialled.ip()).unwrap()
    }

    /// A client connects, says `first` in these pieces, and its server takes it; which one.
    fn begin(&mut self, client: u8, first: &[u8], cuts: &[usize]) -> usize {
        self.n += 1;
        self.b.client = SocketAddr::new(client_ip(usize::from(client), false), 20_000 + self.n);
        self.b.client_syn(&SynOptions { mss: Some(1460), ..SynOptions::default() });
        let bounds: Vec<usize> = [&[0], cuts, &[first.len()]].concat();
        for two in bounds.windows(2) {
            self.b.client_sends(seg(ACK, 1 + two[0] as u32, 1, &first[two[0]..two[1]]));
        }
        let mss = written(&SynOptions { mss: Some(1460), ..SynOptions::default() });
        let (out, v) = self.b.server_sends(Seg { options: &mss, window: 60000, ..seg(SYN_ACK, 0, 1, &[]) });
        assert_eq!(v, Verdict::Hold);
        assert_eq!(out.iter().flat_map(|o| o.payload().to_vec()).collect::<Vec<_>>(), first);
        (self.sent, self.heard) = (first.len() as u32, 0);
        self.dialled()
    }

    /// The server says this, in segments of so many bytes; each reaches the client as it is.
    fn answer(&mut self, bytes: &[u8], most: usize) {
        for part in bytes.chunks(most) {
            let (out, v) = self.b.server_sends(Seg { window: 60000, ..seg(ACK, 1 + self.heard, 1 + self.sent, part) });
            assert!(matches!(v, Verdict::Forward(_)), "{v:?}");
            assert_eq!(out[0].payload(), part);
            self.heard += part.len() as u32;
        }
    }

    /// The client asks for more on the same connection.
    fn ask(&mut self, bytes: &[u8]) {
        let (out, _) = self.b.client_sends(seg(ACK, 1 + self.sent, 1 + self.heard, bytes));
        assert_eq!(out[0].payload(), bytes);
        self.sent += bytes.len() as u32;
    }

    /// The client goes, and what is told of it.
    fn end(&mut self) -> Kept {
        let before = self.b.told.len();
        self.b.client_sends(seg(RST, 1 + self.sent, 0, &[]));
        if self.b.told.len() == before {
            // The server had not acknowledged all: it is told when the reset has held.
            self.b.wait(Duration::from_secs(3));
        }
        assert_eq!(self.b.told.len(), before + 1);
        self.b.told.last().unwrap().clone()
    }

    /// A whole visit: which server, and what is told.
    fn visit(&mut self, client: u8, cookie: &str, set: &str) -> (usize, Kept) {
        let server = self.begin(client, &get(cookie), &[]);
        self.answer(&ok(set), 1460);
        (server, self.end())
    }

    fn rows(&self) -> Census {
        self.b.engine.sessions(self.b.now).census
    }

    fn finish(mut self) {
        self.b.wait(Duration::from_secs(400));
        self.b.assert_empty();
    }
}

#[test]
fn a_cookie_leads_back_to_the_server_that_set_it_from_any_address() {
    let mut v = Visits::new(world());
    let homes: Vec<usize> = (0..12).map(|c| v.visit(c, "", &format!("s{c}")).0).collect();
    assert_eq!((0..SERVERS).map(|s| homes.iter().filter(|h| **h == s).count()).collect::<Vec<_>>(), [4; SERVERS]);
    assert_eq!(v.rows(), Census { cookies: 12, ..Census::default() });
    for round in 0..3 {
        for c in 0..12u8 {
            let (server, told) = v.visit((c + round) % 12, &format!("s{c}"), "");
            assert_eq!(server, homes[usize::from(c)]);
            assert_eq!((told.class, told.reason_word(), told.resumed), (Class::NonSecure, "cookie", Some(true)));
            assert_eq!((&told.offered[..], told.decided), (&["cookie"][..], told.backend));
        }
    }
    // One that nobody set is balanced, and said to be unknown: it makes no row.
    let (_, told) = v.visit(1, "invented", "");
    assert_eq!((told.reason_word(), told.decided, told.resumed), ("balanced", None, Some(true)));
    let (_, told) = v.visit(1, "", "");
    assert_eq!((told.offered.len(), told.resumed), (0, None));
    let met = v.b.engine.sessions(v.b.now).metrics.kind(lb::IdentityKind::Cookie);
    assert_eq!((met.offered, met.promised, met.accepted, met.unknown), (37, 36, 37, 1));
    assert_eq!(v.rows().cookies, 12);
    v.finish();
}

#[test]
fn a_request_leads_the_same_however_it_is_cut_and_reaches_its_server_as_it_was() {
    let mut v = Visits::new(world());
    let homes: Vec<usize> = (0..3).map(|c| v.visit(c, "", &format!("s{c}")).0).collect();
    let pad = "x".repeat(3000);
    for (n, head) in [
        "GET / HTTP/1.1\r\nHost: a\r\nCookie: SID=s1\r\n\r\n".to_string(),
        "POST /form HTTP/1.0\ncookie: SID=\"s1\"\n\nbody".into(),
        "\r\nGET http://a/ HTTP/1.1\r\nCookie: x=y;\r\n SID=s1;z\r\n\r\n".into(),
        format!("GET / HTTP/1.1\r\nX: {pad}\r\nCookie: SID=s1\r\n\r\n"),
    ]
    .iter()
    .enumerate()
    {
        let head = head.as_bytes();
        for cut in (1..head.len()).filter(|at| *at < 80 || at % 191 == 0) {
            assert_eq!(v.begin(7, head, &[cut]), homes[1], "{n} at {cut}");
            v.end();
        }
    }
    v.finish();
}

/// A login: the server gives the session another name, in the middle of a connection.
#[test]
fn a_cookie_that_is_set_later_in_a_connection_is_learned_as_well() {
    for most in [1460, 100, 7] {
        let mut v = Visits::new(world());
        let home = v.begin(1, &get(""), &[]);
        v.answer(&ok("first"), most);
        v.ask(b"POST /login HTTP/1.1\r\nContent-Length: 20\r\n\r\nHEAD / HTTP/1.1\r\n\r\n");
        v.ask(b"xy");
        v.answer(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n", most);
        v.answer(b"Set-Cookie: SID=second\r\n\r\n4\r\nwell\r\n0\r\n\r\n", most);
        v.ask(&get("second"));
        v.answer(&ok("third"), most);
        v.end();
        for cookie in ["first", "second", "third"] {
            assert_eq!(v.visit(9, cookie, "").0, home, "{cookie} in segments of {most}");
        }
        assert_eq!(v.rows().cookies, 3);
        v.finish();
    }
}

#[test]
fn no_client_makes_a_row_by_what_a_server_repeats_of_it() {
    let evil = "HTTP/1.1 200 OK\r\nSet-Cookie: SID=evil\r\nContent-Length: 0\r\n\r\n";
    // The body says what the client wrote; a HEAD that says how long the body would be; two lengths; a smuggled request.
    let length = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{evil}", evil.len());
    let into = length.len() - evil.len();
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {into}\r\n\r\n{length}");
    let ask = |method: &str, more: &str| format!("{method} / HTTP/1.1\r\nHost: a\r\n{more}\r\n");
    let smuggled = format!("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n{}", ask("HEAD", ""));
    for (requests, answers) in [
        (ask("GET", "") + &ask("GET", ""), length.clone()),
        (ask("HEAD", "") + &ask("GET", ""), head.clone()),
        (ask("POST", &smuggled) + &ask("GET", ""), ok_text() + &head),
        (ask("GET", "Content-Length: 1\r\nContent-Length: 0\r\n") + "x", ok_text() + evil),
        (ask("GET", ""), format!("HTTP/1.1 200 OK\r\n\r\n{evil}")),
        (ask("GET", "Upgrade: x\r\n"), format!("HTTP/1.1 101 Switching Protocols\r\n\r\n{evil}")),
    ] {
        for most in [1460, 11] {
            let mut v = Visits::new(world());
            v.begin(1, requests.as_bytes(), &[]);
            v.answer(answers.as_bytes(), most);
            assert_eq!(v.rows().cookies, 0, "{requests:?} {answers:?}");
            v.end();
            v.finish();
        }
    }
}

fn ok_text() -> String {
    String::from_utf8(ok("")).unwrap()
}

/// What the server may have got in another form than was read here: nothing that depends on it is believed.
#[test]
fn what_a_client_says_twice_and_not_the_same_is_followed_no_further() {
    for (what, learned) in [("same", 2), ("other", 1), ("damaged", 1), ("urgent", 1), ("gap", 1)] {
        let mut v = Visits::new(world());
        v.begin(1, &get(""), &[]);
        v.answer(&ok("first"), 1460);
        let next = get("first");
        let mut other = next.clone();
        let n = next.len();
        other[..4].copy_from_slice(b"HEAD");
        match what {
            "same" => {
                v.ask(&next);
                v.b.client_sends(seg(ACK, 1 + v.sent - n as u32, 1 + v.heard, &next));
            }
            "other" => {
                v.ask(&other[..4]);
                v.b.client_sends(seg(ACK, 1 + v.sent - 4, 1 + v.heard, &next[..4]));
                v.ask(&next[4..]);
            }
            "damaged" => {
                let mut frame = v.b.client_frame(&seg(ACK, 1 + v.sent, 1 + v.heard, &other));
                *frame.last_mut().unwrap() ^= 1;
                v.b.hand_in(0, &frame);
                v.ask(&next);
            }
            "urgent" => {
                v.b.client_sends(seg(ACK.with(Flags::URG), 1 + v.sent, 1 + v.heard, b""));
                v.ask(&next);
            }
            _ => {
                let (at, heard) = (1 + v.sent, 1 + v.heard);
                v.b.client_sends(seg(ACK, at + 4, heard, &next[4..]));
                v.b.client_sends(seg(ACK, at, heard, &next[..4]));
                v.sent += n as u32;
            }
        }
        v.answer(&ok("second"), 1460);
        assert_eq!(v.rows().cookies, learned, "{what}");
        v.end();
        v.finish();
    }
}

#[test]
fn what_a_server_sends_out_of_order_or_twice_is_read_in_order_and_once() {
    let mut v = Visits::new(world());
    let home = v.begin(1, &get(""), &[]);
    let all = [ok("first"), b"HTTP/1.1 200 OK\r\n".to_vec()].concat();
    let at = |from: usize, to: usize| Seg { window: 60000, ..seg(ACK, 1 + from as u32, 1 + v.sent, &all[from..to]) };
    let parts = [at(20, 40), at(40, all.len()), at(20, 40), at(0, 20), at(0, all.len())];
    for (n, part) in parts.into_iter().enumerate() {
        assert_eq!(v.rows().cookies, 0, "before {n}");
        v.b.server_sends(part);
        if n == 3 {
            break;
        }
    }
    assert_eq!(v.rows().cookies, 1);
    v.end();
    assert_eq!(v.visit(2, "first", "").0, home);
    // A segment that its receiver drops, since it is damaged, teaches nothing; said again it does.
    v.begin(3, &get(""), &[]);
    let answer = ok("again");
    let whole = Seg { window: 60000, ..seg(ACK, 1, 1 + v.sent, &answer) };
    let mut frame = v.b.server_frame(&whole);
    *frame.last_mut().unwrap() ^= 1;
    v.b.hand_in(1, &frame);
    assert_eq!(v.rows().cookies, 1);
    v.b.server_sends(whole);
    assert_eq!(v.rows().cookies, 2);
    v.end();
    v.finish();
}

#[test]
fn a_browser_that_connects_in_advance_is_led_by_what_it_asks_in_the_end() {
    let mut v = Visits::new(world());
    let home = v.visit(1, "", "mine").0;
    for (idle, first) in [(20, ""), (5, "GET / HTT")] {
        v.visit(2, "", "");
        v.n += 1;
        v.b.client = SocketAddr::new(client_ip(1, false), 20_000 + v.n);
        v.b.client_syn(&SynOptions { mss: Some(1460), ..SynOptions::default() });
        v.b.client_sends(seg(ACK, 1, 1, first.as_bytes()));
        assert!(v.b.wait(Duration::from_secs(idle)).iter().all(|o| o.port == 0), "nobody is dialled yet");
        let request = get("mine");
        v.b.client_sends(seg(ACK, 1 + first.len() as u32, 1, &request[first.len()..]));
        assert_eq!(v.dialled(), home);
        v.b.client_sends(seg(RST, 1 + request.len() as u32, 0, &[]));
    }
    // For half a minute; then a server gets what there is, and by what can be read of it.
    let unfinished = b"GET / HTTP/1.1\r\nCookie: SID=mine\r\nX: y";
    for (first, n) in [(&unfinished[..], 1), (b"", 0)] {
        v.n += 1;
        v.b.client = SocketAddr::new(client_ip(1, false), 20_000 + v.n);
        v.b.client_syn(&SynOptions { mss: Some(1460), ..SynOptions::default() });
        v.b.client_sends(seg(ACK, 1, 1, first));
        v.b.wait(Duration::from_secs(29));
        let dialled = v.b.engine.counters().dials;
        v.b.wait(Duration::from_secs(2));
        assert!(v.b.engine.counters().dials > dialled);
        let said = v.b.engine.counters();
        assert_eq!(said.silent, 1 - n);
        if n == 1 {
            assert_eq!(v.dialled(), home);
        }
        v.b.client_sends(seg(RST, 1 + first.len() as u32, 0, &[]));
    }
    v.finish();
}

#[test]
fn what_is_no_request_is_balanced_at_once_and_a_request_that_is_too_long_as_it_stands() {
    let mut v = Visits::new(world());
    let home = v.visit(1, "", "mine").0;
    for plain in [&b"SSH-2.0-OpenSSH_9.2 x\r\n"[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\0\0\0\x55", b"QUIT\r\n"] {
        v.begin(1, plain, &[]);
        assert_eq!(v.end().class, Class::NonSecure);
    }
    // Its cookie stands before what there is no room for.
    let endless = format!("GET / HTTP/1.1\r\nCookie: SID=mine\r\nX: {}", "x".repeat(40_000));
    for _ in 0..3 {
        v.n += 1;
        v.b.client = SocketAddr::new(client_ip(1, false), 20_000 + v.n);
        v.b.client_syn(&SynOptions { mss: Some(1460), ..SynOptions::default() });
        for (at, part) in endless.as_bytes().chunks(1400).enumerate() {
            v.b.client_sends(seg(ACK, 1 + at as u32 * 1400, 1, part));
        }
        assert_eq!(v.dialled(), home);
        v.b.client_sends(seg(RST, 1, 0, &[]));
        v.b.wait(Duration::from_secs(400));
    }
    v.finish();
}

#[test]
fn a_host_leads_to_a_pool_as_a_server_name_does_and_cookies_lead_within_it() {
    let mut config = following(two_armed(4, false));
    let named = |name: &str, from: usize, to: usize| {
        let backends = pool(to, false).backends.split_off(from);
        PoolSpec { name: name.into(), balance: Algorithm::RoundRobin, backends, ..PoolSpec::default() }
    };
    config.wanted.pools = vec![named("default", 0, 2), named("api", 2, 4)];
    let sni = ["api.example", "*.api.example"].map(|name| name.parse().unwrap()).to_vec();
    config.wanted.services[0].routes = vec![RouteSpec { sni, alpn: vec![], pool: "api".into() }];
    let mut v = Visits::new(Bench::new(config.clone(), false));
    let ask = |host: &str, more: &str| format!("GET / HTTP/1.1\r\nHost: {host}\r\n{more}\r\n").into_bytes();
    for (host, api) in
        [("api.example", true), ("API.example:80", true), ("x.api.example.", true), ("shop.example", false)]
    {
        for _ in 0..3 {
            let server = v.begin(1, &ask(host, ""), &[]);
            assert_eq!(server >= 2, api, "{host}");
            assert_eq!(v.end().pool.as_deref(), Some(if api { "api" } else { "default" }));
        }
    }
    let home = v.begin(1, &ask("api.example", ""), &[]);
    v.answer(&ok("mine"), 1460);
    v.end();
    for _ in 0..5 {
        assert_eq!(v.begin(2, &ask("x.api.example", "Cookie: SID=mine\r\n"), &[]), home);
        v.end();
        // The same cookie under a name of another pool leads nobody out of it.
        assert!(v.begin(2, &ask("shop.example", "Cookie: SID=mine\r\n"), &[]) < 2);
        v.end();
    }
    v.finish();
    // Names alone are enough: no cookie is followed, and none learned.
    let mut v = Visits::new(Bench::new(config.policy(|p| p.cookie = None), false));
    assert!(v.begin(1, &ask("api.example", ""), &[5]) >= 2);
    v.answer(&ok("mine"), 1460);
    assert_eq!((v.end().reason_word(), v.rows().cookies, v.b.engine.watched()), ("balanced", 0, 0));
    v.finish();
}

#[test]
fn without_a_cookie_nobody_waits_for_a_request_and_nothing_is_read() {
    let mut v = Visits::new(Bench::new(two_armed(1, false), false));
    v.begin(1, b"GET / H", &[]);
    assert_eq!(v.b.engine.watched(), 0);
    v.answer(&ok("mine"), 1460);
    v.end();
    assert_eq!(v.rows(), Census::default());
    v.finish();
}

#[test]
fn a_connection_that_finds_no_place_to_be_read_in_is_served_all_the_same() {
    let limits = Limits { watches: 2, ..two_armed(1, false).limits };
    let mut v = Visits::new(Bench::new(Config { limits, ..following(two_armed(SERVERS, false)) }, false));
    let mut open = vec![];
    for c in 0..5 {
        v.begin(c, &get(""), &[]);
        open.push((v.b.client, v.b.dialled, v.b.dialled_from, v.b.cookie, v.sent));
        assert!(v.b.engine.watched() <= 2);
    }
    assert_eq!(v.b.engine.counters().unwatched, 3);
    for (n, (client, dialled, from, cookie, sent)) in open.into_iter().enumerate() {
        (v.b.client, v.b.dialled, v.b.dialled_from, v.b.cookie) = (client, dialled, from, cookie);
        (v.sent, v.heard) = (sent, 0);
        v.answer(&ok(&format!("s{n}")), 1460);
        v.end();
    }
    assert_eq!(v.rows().cookies, 2);
    v.finish();
}

/// A body that is long is forwarded like any other, without being looked at.
#[test]
fn a_reading_ends_where_a_body_is_long_and_after_a_minute_of_silence() {
    let mut v = Visits::new(world());
    v.begin(1, &get(""), &[]);
    v.answer(b"HTTP/1.1 200 OK\r\nSet-Cookie: SID=a\r\nContent-Length: 5000000\r\n\r\n", 1460);
    assert_eq!((v.b.engine.watched(), v.rows().cookies), (0, 1));
    v.end();
    v.begin(1, &get(""), &[]);
    v.answer(&ok("b"), 1460);
    // Places are looked at in turn, ten times a second.
    let mut waits = |seconds: u64| {
        for _ in 0..10 * seconds {
            v.b.wait(ms(100));
            v.b.poll();
        }
        v.b.engine.watched()
    };
    assert_eq!([waits(59), waits(3)], [1, 0]);
    v.ask(&get("b"));
    v.answer(&ok("c"), 1460);
    v.end();
    assert_eq!(v.rows().cookies, 2);
    v.finish();
}

#[test]
fn a_session_goes_when_its_server_deletes_it_or_sets_others_instead() {
    let mut v = Visits::new(world());
    let (home, _) = v.visit(1, "", "mine");
    let (server, told) = v.visit(1, "mine", "; Max-Age=0");
    assert_eq!((server, told.reason_word(), v.rows().cookies), (home, "cookie", 0));
    let (home, _) = v.visit(1, "", "again");
    // Refused twice to the client that made it, as any session.
    for n in 0..2 {
        let (server, told) = v.visit(1, "again", &format!("new{n}"));
        assert_eq!((server, told.resumed), (home, Some(false)));
    }
    assert_eq!(v.visit(1, "again", "").1.reason_word(), "balanced");
    v.finish();
}
