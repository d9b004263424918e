//! Servers of several manners, good and bad: smoltcp and rustls, in given time.

use dispatcher::time::Time;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{NoServerSessionStorage, ProducesTickets, StoresServerSessions};
use rustls::{ServerConfig, ServerConnection};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr};
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

/// What a server does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Manner {
    /// TLS 1.2 and 1.3 with tickets.
    Tls,
    /// The same behind a PROXY header, without which it closes.
    BehindProxyHeader,
    /// TLS 1.2 alone, with tickets.
    Tls12,
    /// Its tickets are the numbers of sessions that it keeps.
    Stateful,
    /// Completes no handshake without one of two server names, [`NAMES`].
    NeedsName,
    /// It issues none.
    NoTickets,
    /// It issues tickets, and takes none.
    Forgets,
    /// HTTP within TLS, with this status.
    TlsHttp(u16),
    /// HTTP.
    Plain(u16),
    /// Says this, and closes.
    Says(&'static str),
    /// Takes connections, and says nothing.
    Mute,
    /// Takes connections, and closes them.
    Closes,
    /// Takes connections, and resets them.
    Resets,
    /// Nobody listens.
    Refuses,
    /// Nothing comes back.
    Dead,
}

/// By which a server is asked that needs one.
pub const NAMES: [&str; 2] = ["api.example.com", "shop.example.com"];

/// What it has seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Seen {
    /// Requests for connections.
    pub knocks: usize,
    /// Connections that its application has heard of.
    pub accepted: usize,
    /// Of these: that were reset.
    pub resets: usize,
    /// Of these: that were closed in order by both ends.
    pub ended: usize,
    /// Errors that it would log.
    pub errors: usize,
    /// Of TLS: that it was told to be at their end.
    pub close_notifies: usize,
}

struct Connection {
    socket: SocketHandle,
    tls: Option<ServerConnection>,
    out: Vec<u8>,
    request: Vec<u8>,
    header: Vec<u8>,
    answered: bool,
    known: bool,
    closed: bool,
    notified: bool,
}

/// A server.
pub struct Server {
    address: SocketAddr,
    manner: Manner,
    interface: Interface,
    link: Link,
    sockets: SocketSet<'static>,
    connections: Vec<Connection>,
    config: Option<Arc<ServerConfig>>,
    names: Arc<Recording>,
    /// What it has seen.
    pub seen: Seen,
}

/// Connections that it takes at once.
const LISTENERS: usize = 16;

fn instant(now: Time) -> Instant {
    Instant::from_micros((now.as_nanos() / 1000) as i64)
}

impl Server {
    pub fn new(address: SocketAddr, manner: Manner) -> Server {
        let mut link = Link::default();
        let mut interface = Interface::new(Config::new(HardwareAddress::Ip), &mut link, Instant::ZERO);
        let whole = if address.is_ipv4() { 32 } else { 128 };
        interface.update_ip_addrs(|all| all.push(IpCidr::new(IpAddress::from(address.ip()), whole)).unwrap());
        let names = Arc::new(Recording::new());
        let mut server = Server {
            address,
            manner,
            interface,
            link,
            sockets: SocketSet::new(vec![]),
            connections: vec![],
            config: None,
            names,
            seen: Seen::default(),
        };
        server.become_(manner);
        server
    }

    /// It is started anew, and another one.
    pub fn become_(&mut self, manner: Manner) {
        self.manner = manner;
        self.names = Arc::new(Recording::new());
        self.config = config(manner, &self.names);
        self.sockets = SocketSet::new(vec![]);
        self.connections.clear();
        if manner != Manner::Refuses {
            (0..LISTENERS).for_each(|_| self.listen());
        }
    }

    /// Key names of the tickets that it issued.
    pub fn issued_names(&self) -> Vec<[u8; 16]> {
        self.names.names.lock().unwrap().clone()
    }

    /// Server names of the hellos that it was told, where it asks for them.
    pub fn asked_for(&self) -> Vec<String> {
        self.names.asked.lock().unwrap().clone()
    }

    fn listen(&mut self) {
        let buffer = || SocketBuffer::new(vec![0; 16384]);
        let mut socket = Socket::new(buffer(), buffer());
        // What a lost reset has left here goes as at real servers.
        socket.set_timeout(Some(smoltcp::time::Duration::from_secs(5)));
        socket.listen(self.address.port()).unwrap();
        let socket = self.sockets.add(socket);
        self.connections.push(Connection {
            socket,
            tls: None,
            out: vec![],
            request: vec![],
            header: vec![],
            answered: false,
            known: false,
            closed: false,
            notified: false,
        });
    }

    pub fn receive(&mut self, packet: &[u8], now: Time) {
        if self.manner == Manner::Dead {
            return;
        }
        let header = if packet[0] >> 4 == 4 { 20 } else { 40 };
        let flags = packet[header + 13];
        self.seen.knocks += usize::from(flags & 0x12 == 2);
        if flags & 4 != 0 {
            let port = u16::from_be_bytes([packet[header], packet[header + 1]]);
            let sockets = &self.sockets;
            let hit = self.connections.iter().any(|c| {
                let socket: &Socket<'_> = sockets.get(c.socket);
                c.known && socket.remote_endpoint().is_some_and(|r| r.port == port) && socket.is_active()
            });
            self.seen.resets += usize::from(hit);
        }
        self.link.arrived.push_back(packet.to_vec());
        self.work(now);
    }

    pub fn poll(&mut self, now: Time) -> Vec<Vec<u8>> {
        self.work(now);
        core::mem::take(&mut self.link.leaving)
    }

    fn work(&mut self, now: Time) {
        self.interface.poll(instant(now), &mut self.link, &mut self.sockets);
        for at in 0..self.connections.len() {
            self.serve(at);
        }
        self.interface.poll(instant(now), &mut self.link, &mut self.sockets);
        // Those that are over make room for others.
        let mut at = 0;
        while at < self.connections.len() {
            let c = &self.connections[at];
            let socket: &Socket<'_> = self.sockets.get(c.socket);
            let over = c.known && matches!(socket.state(), State::Closed | State::TimeWait);
            if over {
                let gone = self.connections.swap_remove(at);
                self.sockets.remove(gone.socket);
                self.listen();
            } else {
                at += 1;
            }
        }
    }

    fn serve(&mut self, at: usize) {
        let Server { manner, sockets, connections, seen, config, .. } = self;
        let c = &mut connections[at];
        let socket: &mut Socket<'_> = sockets.get_mut(c.socket);
        if !matches!(socket.state(), State::Established | State::CloseWait) && !c.known {
            return;
        }
        if !c.known {
            c.known = true;
            seen.accepted += 1;
            c.tls = config.clone().map(|config| ServerConnection::new(config).unwrap());
            if *manner == Manner::Resets {
                socket.abort();
            }
            if *manner == Manner::Closes {
                socket.close();
            }
            if let Manner::Says(text) = *manner {
                socket.send_slice(text.as_bytes()).unwrap();
                seen.ended += 1;
                socket.close();
            }
        }
        let mut heard = vec![];
        while socket.can_recv() {
            let got = socket.recv(|bytes| {
                heard.extend_from_slice(bytes);
                (bytes.len(), ())
            });
            if got.is_err() {
                break;
            }
        }
        if *manner == Manner::BehindProxyHeader && c.header.len() < 16 {
            let rest = (16 - c.header.len()).min(heard.len());
            c.header.extend(heard.drain(..rest));
            if c.header.len() == 16 && c.header != b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0" {
                seen.errors += 1;
                socket.close();
                return;
            }
        }
        if let Some(tls) = &mut c.tls {
            let mut bytes = &heard[..];
            while !bytes.is_empty() {
                if tls.read_tls(&mut bytes).unwrap_or(0) == 0 {
                    break;
                }
                match tls.process_new_packets() {
                    Ok(state) => {
                        let mut inner = vec![0; state.plaintext_bytes_to_read()];
                        tls.reader().read_exact(&mut inner).unwrap();
                        c.request.extend(inner);
                        if state.peer_has_closed() && !c.notified {
                            c.notified = true;
                            seen.close_notifies += 1;
                        }
                    }
                    Err(_) => {
                        seen.errors += 1;
                        c.closed = true;
                        break;
                    }
                }
            }
        } else {
            c.request.extend(heard);
        }
        let answer = match *manner {
            Manner::Plain(status) | Manner::TlsHttp(status) => Some(status),
            _ => None,
        };
        let asked = c.request.windows(4).any(|w| w == b"\r\n\r\n") || c.tls.is_none() && c.request.len() > 100;
        if let Some(status) = answer.filter(|_| asked && !c.answered) {
            c.answered = true;
            let text = format!("HTTP/1.1 {status} X\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
            match &mut c.tls {
                Some(tls) => {
                    tls.writer().write_all(text.as_bytes()).unwrap();
                    tls.send_close_notify();
                }
                None => c.out.extend(text.as_bytes()),
            }
        }
        if let Some(tls) = &mut c.tls {
            while tls.wants_write() {
                tls.write_tls(&mut c.out).unwrap();
            }
        }
        if socket.can_send() {
            let sent = socket.send_slice(&c.out).unwrap_or(0);
            c.out.drain(..sent);
        }
        // The client has no more to say, or we have not.
        let ends = socket.state() == State::CloseWait || c.answered && c.out.is_empty() || c.closed && c.out.is_empty();
        if ends
            && socket.is_open()
            && !matches!(socket.state(), State::FinWait1 | State::FinWait2 | State::LastAck | State::Closing)
        {
            if socket.state() == State::CloseWait && c.tls.as_ref().is_some_and(|tls| tls.is_handshaking()) {
                seen.errors += 1;
            }
            seen.ended += 1;
            socket.close();
        }
    }
}

fn config(manner: Manner, names: &Arc<Recording>) -> Option<Arc<ServerConfig>> {
    let versions: &[&rustls::SupportedProtocolVersion] = match manner {
        Manner::Tls | Manner::BehindProxyHeader | Manner::TlsHttp(_) => rustls::ALL_VERSIONS,
        Manner::Tls12 => &[&rustls::version::TLS12],
        Manner::NeedsName => rustls::ALL_VERSIONS,
        Manner::Stateful | Manner::NoTickets | Manner::Forgets => &[&rustls::version::TLS13],
        _ => return None,
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let cert = CertificateDer::from(include_bytes!("../../../testdata/checks/server.cert.der").to_vec());
    let key = PrivatePkcs8KeyDer::from(include_bytes!("../../../testdata/checks/server.key.der").to_vec());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert], PrivateKeyDer::from(key))
        .unwrap();
    if manner == Manner::NeedsName {
        config.cert_resolver = Arc::new(Picky { inner: config.cert_resolver.clone(), names: names.clone() });
    }
    match manner {
        Manner::Stateful => {}
        Manner::Forgets => config.session_storage = Arc::new(Forgetful),
        Manner::NoTickets => {
            config.send_tls13_tickets = 0;
            config.session_storage = Arc::new(NoServerSessionStorage {});
        }
        _ => {
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.ticketer = names.clone();
        }
    }
    Some(Arc::new(config))
}

/// Tickets of rustls', whose names are noted.
#[derive(Debug)]
struct Recording {
    inner: Arc<dyn ProducesTickets>,
    names: Mutex<Vec<[u8; 16]>>,
    /// Server names of the hellos.
    asked: Mutex<Vec<String>>,
}

/// Has no certificate for whoever says none of the names.
#[derive(Debug)]
struct Picky {
    inner: Arc<dyn rustls::server::ResolvesServerCert>,
    names: Arc<Recording>,
}

impl rustls::server::ResolvesServerCert for Picky {
    fn resolve(&self, hello: rustls::server::ClientHello<'_>) -> Option<Arc<rustls::sign::CertifiedKey>> {
        let name = hello.server_name().unwrap_or_default().to_string();
        self.names.asked.lock().unwrap().push(name.clone());
        NAMES.contains(&name.as_str()).then(|| self.inner.resolve(hello)).flatten()
    }
}

impl Recording {
    fn new() -> Recording {
        Recording {
            inner: rustls::crypto::ring::Ticketer::new().unwrap(),
            names: Mutex::default(),
            asked: Mutex::default(),
        }
    }
}

impl ProducesTickets for Recording {
    fn enabled(&self) -> bool {
        true
    }
    fn lifetime(&self) -> u32 {
        self.inner.lifetime()
    }
    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let ticket = self.inner.encrypt(plain)?;
        self.names.lock().unwrap().push(ticket[..16].try_into().unwrap());
        Some(ticket)
    }
    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.inner.decrypt(cipher)
    }
}

/// Says that it keeps sessions.
#[derive(Debug)]
struct Forgetful;

impl StoresServerSessions for Forgetful {
    fn put(&self, _: Vec<u8>, _: Vec<u8>) -> bool {
        true
    }
    fn get(&self, _: &[u8]) -> Option<Vec<u8>> {
        None
    }
    fn take(&self, _: &[u8]) -> Option<Vec<u8>> {
        None
    }
    fn can_cache(&self) -> bool {
        true
    }
}

#[derive(Default)]
struct Link {
    arrived: VecDeque<Vec<u8>>,
    leaving: Vec<Vec<u8>>,
}

struct Arrived(Vec<u8>);
struct Leaving<'a>(&'a mut Vec<Vec<u8>>);

impl Device for Link {
    type RxToken<'a> = Arrived;
    type TxToken<'a> = Leaving<'a>;
    fn receive(&mut self, _: Instant) -> Option<(Arrived, Leaving<'_>)> {
        Some((Arrived(self.arrived.pop_front()?), Leaving(&mut self.leaving)))
    }
    fn transmit(&mut self, _: Instant) -> Option<Leaving<'_>> {
        Some(Leaving(&mut self.leaving))
    }
    fn capabilities(&self) -> DeviceCapabilities {
        let mut can = DeviceCapabilities::default();
        can.medium = Medium::Ip;
        can.max_transmission_unit = 1500;
        can
    }
}

impl RxToken for Arrived {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Leaving<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut packet = vec![0; len];
        let done = f(&mut packet);
        self.0.push(packet);
        done
    }
}
