//! A machine of the [`World`](crate::world::World): smoltcp's TCP on a card of its own, and what runs on it.

use crate::apps::{ClientConn, Ended, Plan, Server, ServerConn};
use crate::strict::{Judged, Strict};
use core::time::Duration;
use dispatcher::time::Time;
use dispatcher::wire::packet::{Packet, Tcp};
use smoltcp::iface::{Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp;
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpAddress, IpCidr, IpListenEndpoint};
use std::cell::Cell;
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

thread_local! {
    /// Milliseconds, for the timestamps of smoltcp, which asks a bare function.
    static CLOCK: Cell<u32> = const { Cell::new(0) };
}

/// Tells smoltcp what time it is, for its timestamps.
pub(crate) fn set_clock(now: Time) {
    CLOCK.with(|c| c.set(now.as_millis() as u32));
}

/// A network card, with what has arrived and what is to leave.
#[derive(Default)]
struct Card {
    rx: VecDeque<Vec<u8>>,
    tx: Vec<Vec<u8>>,
    mtu: usize,
}

struct Rx(Vec<u8>);
struct Tx<'a>(&'a mut Vec<Vec<u8>>);

impl RxToken for Rx {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Tx<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut b = vec![0; len];
        let r = f(&mut b);
        self.0.push(b);
        r
    }
}

impl Device for Card {
    type RxToken<'a> = Rx;
    type TxToken<'a> = Tx<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Rx, Tx<'_>)> {
        let frame = self.rx.pop_front()?;
        Some((Rx(frame), Tx(&mut self.tx)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Tx<'_>> {
        Some(Tx(&mut self.tx))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut c = DeviceCapabilities::default();
        c.medium = Medium::Ethernet;
        c.max_transmission_unit = self.mtu + 14;
        c
    }
}

/// TCP buffers and habits of a host.
#[derive(Clone, Copy, Debug)]
pub struct Stack {
    /// Of each socket, bytes.
    pub receive_buffer: usize,
    /// Of each socket, bytes.
    pub send_buffer: usize,
    /// Offers TCP timestamps.
    pub timestamps: bool,
    /// Largest IP packet, bytes.
    pub mtu: usize,
    /// Gives a connection up when nothing was acknowledged for so long.
    pub patience: Duration,
    /// Close only a while after all data was acknowledged. smoltcp 0.14 never repeats a FIN that was lost when a fast
    /// retransmission of the data before it comes in between, or acknowledgements that look like a call for one; over bad
    /// links that would look like our fault.
    pub careful: bool,
    /// Obeys resets as RFC 5961 says, where smoltcp obeys any in its window.
    pub strict: bool,
}

impl Default for Stack {
    fn default() -> Stack {
        Stack {
            receive_buffer: 200_000,
            send_buffer: 200_000,
            timestamps: true,
            mtu: 1500,
            patience: Duration::from_secs(120),
            careful: false,
            strict: false,
        }
    }
}

/// Connections that a server's backlog takes at once.
const LISTENING: usize = 64;

/// Forwards between hosts on its wire: who sends to its MAC with another address gets through.
pub(crate) struct Router {
    pub(crate) hosts: Vec<(IpAddr, [u8; 6])>,
}

/// A machine on one of the wires.
pub struct Host {
    /// Ethernet address.
    pub mac: [u8; 6],
    /// On the wire of this port of the dispatcher's.
    pub port: usize,
    /// Tag on its frames.
    pub vlan: Option<u16>,
    /// Frames to and from it vanish.
    pub dark: bool,
    /// Refuses: nobody listens.
    pub deaf: bool,
    /// Buffers and habits.
    pub stack: Stack,
    /// So many of its frames in a thousand are not what they should be.
    pub evil: u32,
    /// What it has been told about the paths to others, bytes of IP packets.
    pub(crate) path_mtu: usize,
    card: Card,
    iface: Interface,
    pub(crate) sockets: SocketSet<'static>,
    /// Connections as a client, all there ever were.
    pub conns: Vec<ClientConn>,
    /// What it is as a server.
    pub server: Option<Server>,
    pub(crate) server_conns: Vec<ServerConn>,
    pub(crate) listening: usize,
    pub(crate) next: Time,
    pub(crate) router: Option<Router>,
    next_port: u16,
    /// The last answers to SYNs, and to whom.
    syn_acks: VecDeque<(SocketAddr, Vec<u8>)>,
    strict: Strict,
}

impl Host {
    /// Connections as a server, those included whose handshake is not complete, that have not ended for it.
    pub fn connected(&self) -> usize {
        let over = |state| matches!(state, tcp::State::Closed | tcp::State::Listen | tcp::State::TimeWait);
        self.server_conns.iter().filter(|c| !over(self.sockets.get::<tcp::Socket<'_>>(c.handle).state())).count()
    }

    /// The `n`th of a world, without anything that runs on it. Its default route leads to `gateway`; of `random`, smoltcp chooses its
    /// ports and sequence numbers.
    pub(crate) fn new(
        n: usize,
        addresses: &[IpAddr],
        port: usize,
        stack: Stack,
        gateway: IpAddr,
        random: u64,
        now: Time,
    ) -> Host {
        let mac = [2, 0, 0, 1, 0, n as u8];
        let mut card = Card { mtu: stack.mtu, ..Card::default() };
        let mut config = smoltcp::iface::Config::new(HardwareAddress::Ethernet(EthernetAddress(mac)));
        config.random_seed = random;
        let mut iface = Interface::new(config, &mut card, instant(now));
        iface.update_ip_addrs(|a| {
            for ip in addresses {
                a.push(IpCidr::new(IpAddress::from(*ip), if ip.is_ipv4() { 16 } else { 64 })).expect("room");
            }
        });
        match gateway {
            IpAddr::V4(g) => drop(iface.routes_mut().add_default_ipv4_route(g)),
            IpAddr::V6(g) => drop(iface.routes_mut().add_default_ipv6_route(g)),
        }
        Host {
            mac,
            port,
            vlan: None,
            dark: false,
            deaf: false,
            stack,
            evil: 0,
            path_mtu: usize::MAX,
            card,
            iface,
            sockets: SocketSet::new(vec![]),
            conns: vec![],
            server: None,
            server_conns: vec![],
            listening: 0,
            next: now,
            router: None,
            next_port: 40_000,
            syn_acks: VecDeque::new(),
            strict: Strict::default(),
        }
    }

    /// Its first address, and the next of its ports.
    pub(crate) fn next_local(&mut self) -> SocketAddr {
        let from = self.iface.ip_addrs()[0].address().into();
        self.next_port += 1;
        SocketAddr::new(from, self.next_port - 1)
    }

    /// Starts a connection. Which of its connections it is.
    pub(crate) fn connect(&mut self, local: SocketAddr, to: SocketAddr, plan: Plan, now: Time) -> usize {
        let mut socket = new_socket(&self.stack);
        socket.set_nagle_enabled(false);
        let from = IpListenEndpoint { addr: Some(local.ip().into()), port: local.port() };
        socket.connect(self.iface.context(), (IpAddress::from(to.ip()), to.port()), from).expect("a free port");
        let handle = self.sockets.add(socket);
        self.conns.push(ClientConn::new(handle, local, plan, now));
        self.next = now;
        self.conns.len() - 1
    }

    /// Loses all memory of one of its connections as a client.
    pub(crate) fn forget(&mut self, conn: usize) {
        *self.sockets.get_mut::<tcp::Socket<'_>>(self.conns[conn].handle) = new_socket(&self.stack);
        self.conns[conn].outcome = Ended::Closed;
    }

    /// A frame arrives. What the host answers at once, if smoltcp is not to see it.
    pub(crate) fn take(&mut self, frame: Vec<u8>, now: Time) -> Option<Vec<u8>> {
        if self.heeds(&frame) {
            return None;
        }
        if self.stack.strict {
            match self.strict.judge(&frame, now) {
                Judged::Fine => {}
                Judged::Unheard => return None,
                Judged::Challenged(answer) => return Some(answer),
            }
        }
        if let Some(again) = self.answered_before(&frame) {
            return Some(again).filter(|again| !again.is_empty());
        }
        self.card.rx.push_back(frame);
        self.next = now;
        None
    }

    /// Resets that a strict host has not obeyed.
    pub fn doubted(&self) -> u64 {
        self.strict.doubted
    }

    pub(crate) fn has_address(&self, ip: IpAddr) -> bool {
        self.iface.ip_addrs().iter().any(|a| IpAddr::from(a.address()) == ip)
    }

    /// What the host has answered to this very SYN before, if a socket still waits for the handshake's end (empty behind
    /// that). Among several listening sockets of smoltcp another one would take a repeated SYN for a new connection; other
    /// stacks repeat their answer at once.
    fn answered_before(&self, frame: &[u8]) -> Option<Vec<u8>> {
        let p = Packet::parse(frame).ok()?;
        let t = Tcp::parse(frame, &p.ip).ok().filter(|t| t.is_bare_syn())?;
        let from = p.ip.src.socket(t.src_port);
        let state = self.server_conns.iter().find_map(|c| {
            let socket = self.sockets.get::<tcp::Socket<'_>>(c.handle);
            let theirs = socket.remote_endpoint().is_some_and(|r| SocketAddr::new(r.addr.into(), r.port) == from);
            (theirs && !matches!(socket.state(), tcp::State::Closed | tcp::State::TimeWait)).then(|| socket.state())
        })?;
        if state != tcp::State::SynReceived {
            return Some(vec![]);
        }
        Some(self.syn_acks.iter().rev().find(|(to, _)| *to == from).map(|(_, f)| f.clone()).unwrap_or_default())
    }

    /// Remembers answers to SYNs.
    fn note_answer(&mut self, frame: &[u8]) {
        let Ok(p) = Packet::parse(frame) else { return };
        let Ok(t) = Tcp::parse(frame, &p.ip) else { return };
        if t.flags.0 & 0x17 == 0x12 {
            if self.syn_acks.len() == 100 {
                self.syn_acks.pop_front();
            }
            self.syn_acks.push_back((p.ip.dst.socket(t.dst_port), frame.to_vec()));
        }
    }

    /// Everything that its TCP and what runs on it do now, and when they will go on by themselves. What it sends. `trusted` says of
    /// whose connections the bytes are to be as agreed.
    pub(crate) fn poll(&mut self, now: Time, trusted: impl Fn(SocketAddr) -> bool) -> Vec<Vec<u8>> {
        if self.deaf {
            for c in &mut self.server_conns {
                let socket = self.sockets.get_mut::<tcp::Socket<'_>>(c.handle);
                if socket.state() == tcp::State::Listen {
                    socket.abort();
                    c.done = true;
                }
            }
        }
        for _ in 0..64 {
            while self.server.is_some() && !self.deaf && self.listening < LISTENING {
                let mut socket = new_socket(&self.stack);
                socket.listen(8443).expect("a port");
                socket.set_nagle_enabled(false);
                let handle = self.sockets.add(socket);
                self.server_conns.push(ServerConn::new(handle));
                self.listening += 1;
            }
            self.iface.poll(instant(now), &mut self.card, &mut self.sockets);
            let mut active = false;
            for c in &mut self.conns {
                if c.outcome == Ended::Open {
                    let socket = self.sockets.get_mut::<tcp::Socket<'_>>(c.handle);
                    if c.step(socket, now, self.stack.careful) {
                        active = true;
                        if c.watched && trusted(c.local) {
                            c.check_new();
                        }
                    }
                }
            }
            if let Some(server) = &mut self.server {
                self.listening = 0;
                for c in &mut self.server_conns {
                    let socket = self.sockets.get_mut::<tcp::Socket<'_>>(c.handle);
                    if socket.state() == tcp::State::Listen {
                        self.listening += 1;
                    }
                    active |= c.step(server, socket, now, self.stack.careful);
                }
                let gone: Vec<SocketHandle> = self
                    .server_conns
                    .iter()
                    .filter(|c| {
                        let s = self.sockets.get::<tcp::Socket<'_>>(c.handle);
                        c.done && s.state() == tcp::State::Closed && s.remote_endpoint().is_none()
                    })
                    .map(|c| c.handle)
                    .collect();
                for handle in gone {
                    self.sockets.remove(handle);
                    self.server_conns.retain(|c| c.handle != handle);
                }
            }
            if !active {
                break;
            }
        }
        let mut next = self
            .iface
            .poll_at(instant(now), &self.sockets)
            .map_or(Time::MAX, |i| Time::from_nanos((i.total_micros().max(0) as u64) * 1000));
        for c in self.conns.iter().filter(|c| c.outcome == Ended::Open) {
            if let Some(due) = c.due() {
                next = next.min(due);
            }
        }
        let pauses = self.conns.iter().map(|c| c.quiet.until).chain(self.server_conns.iter().map(|c| c.quiet.until));
        let pauses = pauses.chain(self.server_conns.iter().map(|c| c.works));
        next = pauses.flatten().filter(|t| *t > now).fold(next, Time::min);
        self.next = if next <= now { now + Duration::from_micros(1000) } else { next };
        let out = core::mem::take(&mut self.card.tx);
        out.iter().for_each(|frame| {
            self.note_answer(frame);
            self.strict.sends(frame);
        });
        out
    }
}

fn new_socket(stack: &Stack) -> tcp::Socket<'static> {
    let buffer = |n| tcp::SocketBuffer::new(vec![0; n]);
    let mut socket = tcp::Socket::new(buffer(stack.receive_buffer), buffer(stack.send_buffer));
    if stack.timestamps {
        socket.set_tsval_generator(Some(|| CLOCK.with(Cell::get)));
    }
    socket.set_timeout(Some(smoltcp::time::Duration::from_millis(stack.patience.as_millis() as u64)));
    socket
}

fn instant(t: Time) -> Instant {
    Instant::from_micros((t.as_nanos() / 1000) as i64)
}
