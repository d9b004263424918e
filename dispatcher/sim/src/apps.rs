//! What runs on the hosts of the [`crate::world`]: a client that writes, reads and checks; a server that understands a
//! handful of requests and keeps TLS sessions of its own.

use crate::rng::Rng;
use crate::tls::{Flight, Hello};
use core::time::Duration;
use dispatcher::time::Time;
use siphasher::sip::SipHasher13;
use smoltcp::socket::tcp;
use ssl_parse::Outcome;
use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};

fn digest(bytes: &[u8]) -> [u8; 8] {
    SipHasher13::new().hash(bytes).to_le_bytes()
}

/// Bytes that differ from place to place.
pub fn pattern(n: usize) -> Vec<u8> {
    (0..n).map(|i| (i * 7 + i / 251) as u8).collect()
}

/// "Send so many bytes, then close."
pub fn get(n: usize) -> Vec<u8> {
    [&b"G"[..], &(n as u32).to_be_bytes()].concat()
}

/// "Send so many bytes, then reset."
pub fn get_and_reset(n: usize) -> Vec<u8> {
    [&b"R"[..], &(n as u32).to_be_bytes()].concat()
}

/// One write of a client.
#[derive(Clone, Debug)]
pub struct Write {
    /// What is written.
    pub bytes: Vec<u8>,
    /// Not before so long after the write before it (the first: after the connection stands).
    pub pause: Duration,
    /// Not while more bytes than this wait for an acknowledgement: an initial window.
    pub outstanding: usize,
    /// Not before so many bytes were received.
    pub received: usize,
}

impl Write {
    /// At once.
    pub fn now(bytes: impl Into<Vec<u8>>) -> Write {
        Write { bytes: bytes.into(), pause: Duration::ZERO, outstanding: usize::MAX, received: 0 }
    }
}

/// What the client must get.
#[derive(Clone, Debug)]
pub enum Expect {
    /// These bytes.
    Exactly(Vec<u8>),
    /// A server's flight that answers this hello, and these bytes behind it.
    Tls {
        /// The hello that was sent.
        hello: Vec<u8>,
        /// What comes behind the flight.
        then: Vec<u8>,
    },
    /// A response to this request, and these bytes as its body.
    Http {
        /// The head of the request that was sent.
        head: Vec<u8>,
        /// What comes behind the response's head.
        then: Vec<u8>,
    },
    /// Nothing in particular.
    Anything,
}

/// A careful host's pause before it closes (see `Stack::careful` of the world).
#[derive(Default, Clone, Copy)]
pub struct Quiet {
    /// When it will be over.
    pub until: Option<Time>,
}

impl Quiet {
    fn is_over(&mut self, socket: &tcp::Socket<'_>, now: Time) -> bool {
        if socket.send_queue() > 0 {
            self.until = None;
            return false;
        }
        let over = now >= *self.until.get_or_insert(now + Duration::from_millis(100));
        if over {
            self.until = None;
        }
        over
    }
}

/// How the connection ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Closing {
    /// The client closes when it has all it expects.
    ClientFirst,
    /// The client closes its direction when all is written, and reads on.
    Half,
    /// The client closes when the server has.
    ServerFirst,
    /// The client resets when it has all it expects.
    Abort,
    /// Never, of its own accord.
    Never,
}

/// What a client does on one connection.
#[derive(Clone, Debug)]
pub struct Plan {
    /// In this order.
    pub writes: Vec<Write>,
    /// What must come back.
    pub expect: Expect,
    /// How it ends.
    pub closing: Closing,
}

impl Plan {
    /// Sends the bytes and expects them back.
    pub fn echo(bytes: &[u8]) -> Plan {
        Plan { writes: vec![Write::now(bytes)], expect: Expect::Exactly(bytes.to_vec()), closing: Closing::ClientFirst }
    }

    /// Asks for so many bytes; the server closes.
    pub fn get(n: usize) -> Plan {
        Plan { writes: vec![Write::now(get(n))], expect: Expect::Exactly(pattern(n)), closing: Closing::ServerFirst }
    }

    /// A TLS client: the hello, and when the flight has come, bytes that come back.
    pub fn tls(hello: &Hello, body: &[u8]) -> Plan {
        Plan::tls_bytes(hello.bytes(), body)
    }

    /// A client of plain HTTP: a request of this host, with a cookie or without, whose body comes back in the response; the server closes.
    pub fn http(host: &str, cookie: Option<&[u8]>, pad: usize, body: &[u8]) -> Plan {
        let cookie = cookie.map_or(String::new(), |id| format!("Cookie: a=b; {COOKIE}={}\r\n", hex(id)));
        let pad = "x".repeat(pad);
        let n = body.len();
        let head = format!("POST / HTTP/1.1\r\nHost: {host}\r\nX-Pad: {pad}\r\n{cookie}Content-Length: {n}\r\n\r\n");
        let head = head.into_bytes();
        let writes = vec![Write::now([&head[..], body].concat())];
        Plan { writes, expect: Expect::Http { head, then: body.to_vec() }, closing: Closing::ClientFirst }
    }

    /// As [`Plan::tls`], the hello given as bytes.
    pub fn tls_bytes(hello: Vec<u8>, body: &[u8]) -> Plan {
        let mut writes = vec![Write::now(hello.clone())];
        if !body.is_empty() {
            writes.push(Write { received: 1, ..Write::now(body) });
        }
        Plan { writes, expect: Expect::Tls { hello, then: body.to_vec() }, closing: Closing::ClientFirst }
    }

    /// The first write in pieces of `size` bytes with a pause before each, at most `outstanding` bytes unacknowledged.
    pub fn dripping(mut self, size: usize, pause: Duration, outstanding: usize) -> Plan {
        let first = self.writes.remove(0);
        let pieces = first.bytes.chunks(size).map(|c| Write { bytes: c.to_vec(), pause, outstanding, received: 0 });
        self.writes.splice(0..0, pieces.collect::<Vec<_>>());
        self
    }

    /// The same with another end.
    pub fn closing(self, closing: Closing) -> Plan {
        Plan { closing, ..self }
    }
}

/// How a client's connection ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// Not yet.
    Open,
    /// Both directions closed in order, or reset by the client itself.
    Closed,
    /// Reset by the other end.
    Reset,
}

/// A client's side of one connection.
pub struct ClientConn {
    /// Its socket.
    pub handle: smoltcp::iface::SocketHandle,
    /// From here.
    pub local: SocketAddr,
    /// What it does.
    pub plan: Plan,
    written: usize,
    last_write: Time,
    /// All that came.
    pub received: Vec<u8>,
    /// Every byte is checked when it comes: both ends mean well.
    pub watched: bool,
    checked: usize,
    flight_len: usize,
    established: bool,
    saw_fin: bool,
    aborted: bool,
    /// For careful hosts.
    pub quiet: Quiet,
    /// How it ended.
    pub outcome: Ended,
}

impl ClientConn {
    /// A connection about to be made.
    pub fn new(handle: smoltcp::iface::SocketHandle, local: SocketAddr, plan: Plan, now: Time) -> ClientConn {
        ClientConn {
            handle,
            local,
            plan,
            written: 0,
            last_write: now,
            received: vec![],
            watched: false,
            checked: 0,
            flight_len: 0,
            established: false,
            saw_fin: false,
            aborted: false,
            quiet: Quiet::default(),
            outcome: Ended::Open,
        }
    }

    /// When the next write may be due.
    pub fn due(&self) -> Option<Time> {
        let next = self.plan.writes.get(self.written)?;
        (self.established && next.pause > Duration::ZERO).then(|| self.last_write + next.pause)
    }

    /// All that is expected is there.
    pub fn complete(&self) -> bool {
        match &self.plan.expect {
            Expect::Exactly(bytes) => self.received.len() >= bytes.len(),
            Expect::Tls { then, .. } | Expect::Http { then, .. } => match self.flight() {
                Some(f) => self.received.len() >= f.len + then.len(),
                None => false,
            },
            Expect::Anything => false,
        }
    }

    /// Panics when what was received is not what was expected (a prefix of it, while the connection was cut short).
    pub fn check(&self) {
        let prefix = |got: &[u8], want: &[u8]| {
            let at = got.iter().zip(want).position(|(a, b)| a != b);
            assert!(
                at.is_none() && got.len() <= want.len(),
                "{}: {} of {} bytes, differ at {at:?}",
                self.local,
                got.len(),
                want.len()
            );
        };
        match &self.plan.expect {
            Expect::Exactly(bytes) => prefix(&self.received, bytes),
            Expect::Tls { hello, then } => {
                let Some(f) = self.flight() else { return };
                assert_eq!(f.hello_digest, digest(hello), "{}: the server read another hello", self.local);
                if self.received.len() >= f.len {
                    let first = 5 + usize::from(u16::from_be_bytes([self.received[3], self.received[4]]));
                    assert_eq!(f.rest_digest, digest(&self.received[first..f.len]), "{}: the flight", self.local);
                    prefix(&self.received[f.len..], then);
                }
            }
            Expect::Http { head, then } => {
                let Some(f) = self.flight() else { return };
                assert_eq!(f.hello_digest, digest(head), "{}: the server read another request", self.local);
                prefix(&self.received[f.len..], then);
            }
            Expect::Anything => {}
        }
    }

    /// As [`ClientConn::check`], of the bytes that are new.
    pub fn check_new(&mut self) {
        match &self.plan.expect {
            Expect::Exactly(bytes) => {
                let (from, to) = (self.checked, self.received.len());
                assert!(
                    bytes.get(from..to) == Some(&self.received[from..]),
                    "{}: other bytes at {from}..{to}",
                    self.local
                );
                self.checked = to;
            }
            // The flight as a whole, once it is there; what is behind it, piece by piece.
            Expect::Tls { then, .. } | Expect::Http { then, .. } if self.checked > 0 => {
                let (from, to) = (self.checked, self.received.len());
                let begin = self.flight_len;
                let wanted = then.get(from - begin..to - begin);
                assert!(wanted == Some(&self.received[from..]), "{}: other bytes at {from}..{to}", self.local);
                self.checked = to;
            }
            Expect::Tls { .. } | Expect::Http { .. } => {
                if let Some(flight) = self.flight().filter(|f| self.received.len() >= f.len) {
                    self.check();
                    (self.flight_len, self.checked) = (flight.len, self.received.len());
                }
            }
            Expect::Anything => {}
        }
    }

    /// What the server's hello says, or the head of its response, which is told as if it were one: its cookie as the session's ID.
    pub fn flight(&self) -> Option<FlightSeen> {
        if matches!(self.plan.expect, Expect::Http { .. }) {
            return response_seen(&self.received);
        }
        let mut scratch = vec![0; 20000];
        let Outcome::Complete(hello) = ssl_parse::server_hello(&self.received, &mut scratch) else { return None };
        let r = hello.random;
        Some(FlightSeen {
            server: usize::from(r[0]),
            resumed: r[1] == 1,
            session_id: hello.session_id.to_vec(),
            hello_digest: r[8..16].try_into().unwrap(),
            len: u32::from_le_bytes(r[16..20].try_into().unwrap()) as usize,
            rest_digest: r[20..28].try_into().unwrap(),
            ticket: ticket_in(&self.received),
        })
    }

    /// Reads, writes and closes as far as it can; true when it did anything.
    pub fn step(&mut self, socket: &mut tcp::Socket<'_>, now: Time, careful: bool) -> bool {
        if self.outcome != Ended::Open {
            return false;
        }
        let mut active = false;
        self.established |= matches!(socket.state(), tcp::State::Established | tcp::State::CloseWait);
        if !self.established {
            if socket.state() == tcp::State::Closed {
                self.outcome = Ended::Reset;
                return true;
            }
            return false;
        }
        active |= drain(socket, &mut self.received, &mut self.saw_fin);
        while let Some(w) = self.plan.writes.get_mut(self.written) {
            let ready = socket.can_send()
                && now >= self.last_write + w.pause
                && socket.send_queue() < w.outstanding
                && self.received.len() >= w.received;
            if !ready {
                break;
            }
            let n = socket.send_slice(&w.bytes).unwrap_or(0);
            if n == 0 && !w.bytes.is_empty() {
                break;
            }
            w.bytes.drain(..n);
            active = true;
            if !w.bytes.is_empty() {
                break;
            }
            self.written += 1;
            self.last_write = now;
            if self.plan.writes.get(self.written).is_some_and(|w| w.outstanding != usize::MAX) {
                // One segment at a time.
                break;
            }
        }
        let all_written = self.written == self.plan.writes.len();
        let close = match self.plan.closing {
            Closing::ClientFirst => all_written && (self.complete() || self.saw_fin),
            Closing::Half => all_written,
            Closing::ServerFirst => self.saw_fin,
            Closing::Never => false,
            Closing::Abort => {
                if all_written && self.complete() && !self.aborted {
                    socket.abort();
                    self.aborted = true;
                    self.outcome = Ended::Closed;
                    return true;
                }
                false
            }
        };
        let close = close && (!careful || self.quiet.is_over(socket, now));
        if close && matches!(socket.state(), tcp::State::Established | tcp::State::CloseWait) {
            socket.close();
            active = true;
        }
        match socket.state() {
            tcp::State::Closed if self.saw_fin => self.outcome = Ended::Closed,
            tcp::State::Closed => self.outcome = Ended::Reset,
            tcp::State::TimeWait => self.outcome = Ended::Closed,
            _ => {}
        }
        active
    }
}

/// What a server's hello tells its client.
pub struct FlightSeen {
    /// The server's index.
    pub server: usize,
    /// It says that the session was resumed.
    pub resumed: bool,
    /// In its hello.
    pub session_id: Vec<u8>,
    /// Issued in the flight.
    pub ticket: Option<Vec<u8>>,
    /// Bytes of the whole flight.
    pub len: usize,
    hello_digest: [u8; 8],
    rest_digest: [u8; 8],
}

/// The ticket in a flight of [`Flight`].
fn ticket_in(mut stream: &[u8]) -> Option<Vec<u8>> {
    while stream.len() >= 9 {
        let n = 5 + usize::from(u16::from_be_bytes([stream[3], stream[4]]));
        if stream.len() < n {
            return None;
        }
        if stream[0] == 22 && stream[5] == 4 {
            return Some(stream[15..n].to_vec());
        }
        stream = &stream[n..];
    }
    None
}

/// The name of the cookie by which servers of plain HTTP know their sessions.
pub const COOKIE: &str = "SID";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn of_hex(text: &str) -> Vec<u8> {
    (0..text.len() / 2).filter_map(|i| u8::from_str_radix(text.get(2 * i..2 * i + 2)?, 16).ok()).collect()
}

/// Where the head ends that the stream begins with.
fn head_len(stream: &[u8]) -> Option<usize> {
    stream.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4)
}

/// The value of a field of a head; of several of its name the last.
fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).next_back()
}

/// What the first final response says.
fn response_seen(received: &[u8]) -> Option<FlightSeen> {
    let mut at = 0;
    loop {
        let len = head_len(&received[at..])?;
        let head = core::str::from_utf8(&received[at..at + len]).ok()?;
        at += len;
        if head.starts_with("HTTP/1.1 100 ") {
            continue;
        }
        let set =
            field(head, "Set-Cookie").and_then(|set| set.strip_prefix(COOKIE)?.strip_prefix('=')?.split(';').next());
        return Some(FlightSeen {
            server: field(head, "X-Server")?.parse().ok()?,
            resumed: field(head, "X-Known")? == "1",
            session_id: set.map(of_hex).unwrap_or_default(),
            hello_digest: of_hex(field(head, "X-Digest")?).try_into().ok()?,
            len: at,
            rest_digest: [0; 8],
            ticket: None,
        });
    }
}

/// How a server begins.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Manner {
    /// Waits for the client.
    Listens,
    /// Speaks first, then sends back what it gets.
    Greets(Vec<u8>),
}

/// What a server is and remembers.
pub struct Server {
    /// Its number.
    pub index: usize,
    /// How it begins.
    pub manner: Manner,
    /// It chooses TLS 1.3 when that is offered.
    pub tls13: bool,
    /// It issues tickets instead of session IDs.
    pub issues_tickets: bool,
    /// Connections begin with a PROXY header.
    pub expects_proxy_header: bool,
    /// And that may be of either version, with more behind the addresses, and name nobody.
    pub header_of_others: bool,
    /// First bytes of its tickets.
    pub ticket_key: [u8; 16],
    sessions: HashSet<Vec<u8>>,
    rng: Rng,
    /// Clients named by PROXY headers, and what they connected to.
    pub proxied: Vec<(SocketAddr, SocketAddr)>,
    /// Peers as the TCP connection shows them.
    pub peers: Vec<SocketAddr>,
    /// Connections accepted.
    pub accepted: usize,
    /// Sessions resumed.
    pub resumed: usize,
    /// Identities offered that it did not know.
    pub refused: usize,
    /// Connections that were reset.
    pub resets: usize,
    /// How long it works before it answers a hello.
    pub works: Duration,
}

impl Server {
    /// One that knows no session yet.
    pub fn new(index: usize, seed: u64) -> Server {
        let mut rng = Rng::new(seed ^ (index as u64) << 32);
        Server {
            index,
            manner: Manner::Listens,
            tls13: false,
            issues_tickets: false,
            expects_proxy_header: false,
            header_of_others: false,
            ticket_key: rng.bytes(16).try_into().unwrap(),
            sessions: HashSet::new(),
            rng,
            proxied: vec![],
            peers: vec![],
            accepted: 0,
            resumed: 0,
            refused: 0,
            resets: 0,
            works: Duration::ZERO,
        }
    }

    /// Started anew: no session is remembered.
    pub fn forget_sessions(&mut self) {
        self.sessions.clear();
    }

    /// A new ticket, or PSK identity, under this server's key.
    pub fn ticket(&mut self) -> Vec<u8> {
        [&self.ticket_key[..], &self.rng.bytes(100)].concat()
    }

    /// The flight that answers a hello; none when it is no hello.
    fn answer(&mut self, wire: &[u8]) -> Option<Vec<u8>> {
        let mut scratch = vec![0; 70000];
        let Outcome::Complete(hello) = ssl_parse::client_hello(wire, &mut scratch) else { return None };
        let mut flight = Flight {
            tls13: self.tls13 && hello.offers_1_3(),
            session_id: hello.session_id.to_vec(),
            psk_selected: false,
            ticket: None,
            resumed: false,
            random: [0; 32],
        };
        let offered;
        if flight.tls13 {
            let ids: Vec<&[u8]> = hello.psk_identities().map(|p| p.identity).collect();
            offered = !ids.is_empty();
            flight.psk_selected = ids.first().is_some_and(|id| id.starts_with(&self.ticket_key));
            flight.resumed = flight.psk_selected;
        } else if self.issues_tickets {
            let ticket = hello.ticket.unwrap_or_default();
            offered = !ticket.is_empty();
            flight.resumed = ticket.starts_with(&self.ticket_key);
            if !flight.resumed {
                flight.session_id.clear();
                flight.ticket = Some(self.ticket());
            }
        } else {
            offered = !flight.session_id.is_empty();
            flight.resumed = self.sessions.contains(&flight.session_id);
            if !flight.resumed {
                flight.session_id = self.rng.bytes(32);
                self.sessions.insert(flight.session_id.clone());
            }
        }
        if offered {
            if flight.resumed { self.resumed += 1 } else { self.refused += 1 }
        }
        let plain = flight.bytes();
        let first = 5 + usize::from(u16::from_be_bytes([plain[3], plain[4]]));
        flight.random[0] = self.index as u8;
        flight.random[1] = u8::from(flight.resumed);
        flight.random[8..16].copy_from_slice(&digest(wire));
        flight.random[16..20].copy_from_slice(&(plain.len() as u32).to_le_bytes());
        flight.random[20..28].copy_from_slice(&digest(&plain[first..]));
        Some(flight.bytes())
    }
}

impl Server {
    /// The response to a request whose head this is, with this body: sometimes behind an interim one, its cookie among others.
    fn respond(&mut self, head: &[u8], body: &[u8]) -> Vec<u8> {
        let text = core::str::from_utf8(head).expect("it was read");
        let cookie = field(text, "Cookie").and_then(|all| all.split("; ").find_map(|one| one.strip_prefix(COOKIE)));
        let offered = cookie.and_then(|value| value.strip_prefix('=')).map(of_hex);
        let known = offered.as_ref().is_some_and(|id| self.sessions.contains(id));
        if offered.is_some() {
            if known { self.resumed += 1 } else { self.refused += 1 }
        }
        let mut out = String::new();
        if self.rng.per_mille(200) {
            out += "HTTP/1.1 100 Continue\r\n\r\n";
        }
        out += &format!("HTTP/1.1 200 OK\r\nX-Server: {}\r\nX-Known: {}\r\n", self.index, u8::from(known));
        out += &format!("X-Digest: {}\r\n", hex(&digest(head)));
        if !known {
            let id = self.rng.bytes(32);
            out += &format!("Set-Cookie: lang=en\r\nSet-Cookie: {COOKIE}={}; Path=/\r\n", hex(&id));
            self.sessions.insert(id);
        }
        out += &format!("Content-Length: {}\r\n\r\n", body.len());
        [out.as_bytes(), body].concat()
    }
}

#[derive(PartialEq, Eq, Debug)]
enum Talk {
    ProxyHeader,
    Begins,
    Echo,
    Ends,
    Resets,
}

/// A server's side of one connection.
pub struct ServerConn {
    /// Its socket.
    pub handle: smoltcp::iface::SocketHandle,
    talk: Talk,
    accepted: bool,
    received: Vec<u8>,
    out: Vec<u8>,
    at: usize,
    saw_fin: bool,
    /// For careful hosts.
    pub quiet: Quiet,
    /// When it has worked long enough at a hello.
    pub works: Option<Time>,
    /// Nothing more to do.
    pub done: bool,
}

impl ServerConn {
    /// On a listening socket.
    pub fn new(handle: smoltcp::iface::SocketHandle) -> ServerConn {
        ServerConn {
            handle,
            talk: Talk::Begins,
            accepted: false,
            received: vec![],
            out: vec![],
            at: 0,
            saw_fin: false,
            quiet: Quiet::default(),
            works: None,
            done: false,
        }
    }

    /// Reads, understands, writes and closes as far as it can; true when it did anything.
    pub fn step(&mut self, server: &mut Server, socket: &mut tcp::Socket<'_>, now: Time, careful: bool) -> bool {
        if matches!(socket.state(), tcp::State::Listen | tcp::State::SynReceived) || self.done {
            return false;
        }
        let mut active = false;
        if !self.accepted {
            if socket.state() == tcp::State::Closed {
                self.done = true;
                return true;
            }
            self.accepted = true;
            server.accepted += 1;
            if let Some(peer) = socket.remote_endpoint() {
                server.peers.push(SocketAddr::new(peer.addr.into(), peer.port));
            }
            if server.expects_proxy_header {
                self.talk = Talk::ProxyHeader;
            }
            if let Manner::Greets(banner) = &server.manner {
                self.out.extend(banner);
                if self.talk == Talk::Begins {
                    self.talk = Talk::Echo;
                }
            }
        }
        active |= drain(socket, &mut self.received, &mut self.saw_fin);
        self.talk(server, now);
        while self.at < self.out.len() && socket.can_send() {
            match socket.send_slice(&self.out[self.at..]) {
                Ok(0) | Err(_) => break,
                Ok(n) => {
                    self.at += n;
                    active = true;
                }
            }
        }
        let ends = self.saw_fin || self.talk == Talk::Ends;
        let said = self.at == self.out.len() && (!careful || !ends || self.quiet.is_over(socket, now));
        let open = matches!(socket.state(), tcp::State::Established | tcp::State::CloseWait);
        if said && open && (self.saw_fin || self.talk == Talk::Ends) {
            socket.close();
            active = true;
        }
        if said && open && self.talk == Talk::Resets && socket.send_queue() == 0 {
            socket.abort();
            self.done = true;
            return true;
        }
        if socket.state() == tcp::State::Closed {
            if !self.saw_fin {
                server.resets += 1;
            }
            self.done = true;
            active = true;
        } else if socket.state() == tcp::State::TimeWait {
            // Left to the socket.
        }
        active
    }

    /// Behind a header.
    fn begins(&mut self, server: &Server) {
        self.talk = if matches!(server.manner, Manner::Greets(_)) { Talk::Echo } else { Talk::Begins };
    }

    /// Understands what was received, as far as it goes.
    fn talk(&mut self, server: &mut Server, now: Time) {
        if self.talk == Talk::ProxyHeader && server.header_of_others && self.received.first() == Some(&b'P') {
            let Some(end) = self.received.windows(2).position(|two| two == b"\r\n") else { return };
            let line = core::str::from_utf8(&self.received[..end]).expect("a line of PROXY version 1");
            if let ["PROXY", "TCP4" | "TCP6", client, to, port, to_port] = line.split(' ').collect::<Vec<_>>()[..] {
                let end = |ip: &str, port: &str| SocketAddr::new(ip.parse().unwrap(), port.parse().unwrap());
                server.proxied.push((end(client, port), end(to, to_port)));
            } else {
                assert_eq!(line, "PROXY UNKNOWN");
            }
            self.received.drain(..end + 2);
            self.begins(server);
        }
        if self.talk == Talk::ProxyHeader && self.received.len() >= 16 {
            let h = &self.received;
            let of_others = server.header_of_others;
            let local = of_others && h[12] == 0x20;
            assert!(
                h[..12] == *b"\r\n\r\n\0\r\nQUIT\n" && (h[12] == 0x21 || local),
                "the signature of PROXY version 2"
            );
            let n = 16 + usize::from(u16::from_be_bytes([h[14], h[15]]));
            if h.len() < n {
                return;
            }
            let (size, addr): (usize, fn(&[u8]) -> IpAddr) = match h[13] {
                0x11 => (4, |b| <[u8; 4]>::try_from(b).unwrap().into()),
                0x21 => (16, |b| <[u8; 16]>::try_from(b).unwrap().into()),
                x => panic!("PROXY family {x:#x}"),
            };
            assert!(n == 16 + 2 * size + 4 || of_others && n > 16 + 2 * size + 4);
            let port = |at: usize| u16::from_be_bytes([h[at], h[at + 1]]);
            let ports = 16 + 2 * size;
            let client = SocketAddr::new(addr(&h[16..16 + size]), port(ports));
            let to = SocketAddr::new(addr(&h[16 + size..ports]), port(ports + 2));
            if !local {
                server.proxied.push((client, to));
            }
            self.received.drain(..n);
            self.begins(server);
        }
        if self.talk == Talk::Begins {
            match self.received.first() {
                Some(b'P') => {
                    let Some(n) = head_len(&self.received) else { return };
                    let text = core::str::from_utf8(&self.received[..n]).ok();
                    let length = text.and_then(|text| field(text, "Content-Length")?.parse().ok());
                    // One who means well asks for no more.
                    let Some(body) = length.filter(|n: &usize| *n < 1 << 20) else {
                        self.talk = Talk::Resets;
                        return;
                    };
                    if self.received.len() < n + body {
                        return;
                    }
                    self.out.extend(server.respond(&self.received[..n], &self.received[n..n + body]));
                    self.received.drain(..n + body);
                    self.talk = Talk::Echo;
                }
                Some(b'G' | b'R') if self.received.len() >= 5 => {
                    let n = u32::from_be_bytes(self.received[1..5].try_into().unwrap()) as usize;
                    // A client that means well asks for less.
                    self.out.extend(pattern(n.min(1 << 20)));
                    self.talk = if self.received[0] == b'G' { Talk::Ends } else { Talk::Resets };
                }
                Some(b'G' | b'R') | None => {}
                Some(22) => {
                    let Some(n) = hello_len(&self.received) else { return };
                    if server.works > Duration::ZERO && now < *self.works.get_or_insert(now + server.works) {
                        return;
                    }
                    self.works = None;
                    match server.answer(&self.received[..n]) {
                        Some(flight) => {
                            self.out.extend(flight);
                            self.received.drain(..n);
                            self.talk = Talk::Echo;
                        }
                        None => self.talk = Talk::Resets,
                    }
                }
                Some(_) => self.talk = Talk::Echo,
            }
        }
        if self.talk == Talk::Echo {
            self.out.append(&mut self.received);
        }
    }
}

/// Bytes on the wire of the hello that the stream begins with; none while incomplete.
fn hello_len(stream: &[u8]) -> Option<usize> {
    let (mut at, mut joined) = (0, vec![]);
    loop {
        let n = usize::from(u16::from_be_bytes([*stream.get(at + 3)?, *stream.get(at + 4)?]));
        joined.extend(stream.get(at + 5..at + 5 + n)?);
        at += 5 + n;
        if joined.len() >= 4 && joined.len() >= 4 + u32::from_be_bytes([0, joined[1], joined[2], joined[3]]) as usize {
            return Some(at);
        }
    }
}

/// Takes what a socket has received, and notes the end. Whether there was anything.
fn drain(socket: &mut tcp::Socket<'_>, received: &mut Vec<u8>, saw_fin: &mut bool) -> bool {
    let (before, mut buf) = (received.len(), [0; 8192]);
    loop {
        match socket.recv_slice(&mut buf) {
            Ok(0) | Err(tcp::RecvError::InvalidState) => break,
            Ok(n) => received.extend(&buf[..n]),
            Err(tcp::RecvError::Finished) => {
                *saw_fin = true;
                break;
            }
        }
    }
    received.len() > before
}
