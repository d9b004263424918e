//! Segments of several flows into the engine, told by structure: a few bytes make a segment that fits the flow it is of, or nearly.

use arbitrary::{Result, Unstructured};
use core::time::Duration;
use dispatcher::engine::{AddressMode, Config};
use dispatcher::wire::Seq;
use dispatcher::wire::options::SynOptions;
use dispatcher::wire::packet::Flags;
use dispatcher::wire::proxy::SIGNATURE;
use lb::admission::{ClassCounters, ClassSpec, Classes, Cost, Limits, Share, Used};
use lb::service::AcceptProxy;
use lb::{Algorithm, MaxHandshakes, Policy, State, Wanted};
use sim::config::{client_ip, one_armed, two_armed};
use sim::script::*;
use sim::storm::limited::hold;
use sim::tls::Hello;
use std::net::SocketAddr;

/// Most steps of one input.
const STEPS: usize = 200;

/// What is known of a client's connection, as [`Bench`] needs it.
#[derive(Clone, Copy)]
struct Known {
    client: SocketAddr,
    cookie: Seq,
    clock: u32,
    from: SocketAddr,
    server: SocketAddr,
    /// Next of the client's stream and of the server's.
    sent: u32,
    received: u32,
}

/// One byte for the configuration, then steps.
pub fn engine(bytes: &[u8]) {
    play(bytes);
}

/// The same. What became of those who asked for room at a server with limits.
fn play(bytes: &[u8]) -> ClassCounters {
    let mut u = Unstructured::new(bytes);
    let Ok(kind) = u.arbitrary::<u8>() else { return ClassCounters::default() };
    let v6 = kind & 1 != 0;
    let mut config = if kind & 2 != 0 { one_armed(2, v6) } else { two_armed(2, v6) };
    if kind & 4 != 0 {
        config.address_mode = AddressMode::Dnat;
    }
    config.probe = kind & 16 != 0;
    let mut config = small(config).policy(|policy| {
        policy.proxy_protocol = kind & 8 != 0;
        if kind & FRONTED != 0 {
            let everywhere = ["0.0.0.0/0", "::/0"].map(|prefix| prefix.parse().expect("a prefix"));
            policy.accept_proxy = AcceptProxy { from: everywhere.to_vec(), pass: kind & 128 != 0 };
        }
    });
    if kind & LIMITED != 0 {
        // Where bytes end, as they are.
        let _ = limits(&mut config.wanted, &mut u);
    }
    let mut b = Bench::new(config, v6);
    let known = |n: u16| Known {
        client: SocketAddr::new(client_ip(usize::from(n % 2), v6), 50_000 + n / 2),
        cookie: Seq(0),
        clock: 0,
        from: b.dialled_from,
        server: b.dialled,
        sent: 1,
        received: 1,
    };
    let mut flows = [known(0), known(1), known(2), known(3), known(4), known(5)];
    // Where bytes end, the steps do.
    let _ = steps(&mut b, &mut u, &mut flows);
    end(b)
}

/// Backends have limits.
const LIMITED: u8 = 32;
/// Clients are named by PROXY headers.
const FRONTED: u8 = 64;

/// Servers that hardly may do anything, and clients in two classes that wait at few places, not for long.
fn limits(wanted: &mut Wanted, u: &mut Unstructured<'_>) -> Result<()> {
    for backend in wanted.pools.iter_mut().flat_map(|pool| &mut pool.backends) {
        backend.limits.max_connections = [None, Some(1), Some(1), Some(2)][u.choose_index(4)?];
        let units = [None, Some(MaxHandshakes::Units(10)), Some(MaxHandshakes::Units(11)), Some(MaxHandshakes::Auto)];
        backend.limits.max_handshakes = units[u.choose_index(4)?];
        backend.limits.slow_start = u.ratio(1, 4u8)?.then_some(Duration::from_secs(2));
    }
    let cost = [None, Some(Cost::Resumed), Some(Cost::NotTls), Some(Cost::Full)][u.choose_index(4)?];
    let share = if u.arbitrary()? { Share::Strict } else { Share::Weight(2) };
    let (reserve, queue) = (u.int_in_range(0..=50u8)?, u.int_in_range(1..=4usize)?);
    let timeout = Duration::from_millis([50, 500, 5000][u.choose_index(3)?]);
    let first = ClassSpec { cost, share, reserve, queue, timeout, ..ClassSpec::new("first") };
    let rest = ClassSpec { queue, timeout, ..ClassSpec::new("rest") };
    let classes = Classes::new(vec![first, rest]).expect("classes that can be");
    let spill_after = [Some(0), Some(50), None][u.choose_index(3)?].map(Duration::from_millis);
    for service in &mut wanted.services {
        (service.policy.classes, service.policy.spill_after) = (classes.clone(), spill_after);
    }
    Ok(())
}

/// What each backend has is within the limits that are wanted, though it may stay when they are lowered. (Slow starts and `auto` change them between two looks.)
fn check_slots(b: &Bench, before: &mut [Used; 2]) {
    let directory = b.engine.directory();
    for backend in directory.backends() {
        let used = directory.live().slots().used(backend.id);
        let before = &mut before[backend.id.index()];
        let units = match backend.limits.max_handshakes {
            Some(MaxHandshakes::Units(units)) => Some(units),
            Some(MaxHandshakes::Auto) | None => None,
        };
        let limits = Limits { connections: backend.limits.max_connections, units };
        assert!(hold(limits, *before, used), "{}: {used:?} after {before:?}, {limits:?}", backend.name);
        *before = used;
    }
}

/// Tables so small that they fill, and timeouts so short that they come.
fn small(mut config: Config) -> Config {
    config.limits.flows = 5;
    config.limits.hellos = 3;
    config.limits.waiting = 2;
    config.limits.watches = 2;
    config.limits.sessions = 16;
    config.limits.hello_bytes = 2048;
    config.flow_idle_timeout = Duration::from_secs(20);
    let hasty = |policy: &mut Policy| policy.hello_timeout = Duration::from_millis(500);
    config.policy(hasty).pool(|pool| pool.balance = Algorithm::RoundRobin)
}

fn steps(b: &mut Bench, u: &mut Unstructured<'_>, flows: &mut [Known; 6]) -> Result<()> {
    let (mut last, mut used) = (vec![], Default::default());
    for _ in 0..STEPS {
        check_slots(b, &mut used);
        if u.is_empty() {
            break;
        }
        let n = u.choose_index(flows.len())?;
        let k = &mut flows[n];
        (b.client, b.cookie, b.our_clock) = (k.client, k.cookie, k.clock);
        (b.dialled_from, b.dialled) = (k.from, k.server);
        let mut k = *k;
        let frame = frame(b, u, &mut k, &last, &mut used)?;
        flows[n] = k;
        let Some((port, frame)) = frame else { continue };
        let (_, _) = b.hand_in(port, &frame);
        last = frame;
        // A dial or a cookie may have been of this flow.
        let k = &mut flows[n];
        (k.cookie, k.clock) = (b.cookie, b.our_clock);
        let of_this = b.engine.connection_of(b.dialled, b.dialled_from).is_some_and(|(client, _)| client == k.client);
        if of_this {
            (k.from, k.server) = (b.dialled_from, b.dialled);
        }
    }
    Ok(())
}

fn number(u: &mut Unstructured<'_>, next: u32) -> Result<u32> {
    Ok(match u.int_in_range(0..=7u8)? {
        0..=4 => next,
        5 => next.wrapping_add_signed(i32::from(u.arbitrary::<i8>()?)),
        6 => next.wrapping_add_signed(i32::from(u.arbitrary::<i16>()?)),
        _ => u.arbitrary()?,
    })
}

/// So many bytes at most, as they are.
fn raw<'a>(u: &mut Unstructured<'a>, most: u8) -> Result<&'a [u8]> {
    let len = u.int_in_range(0..=most)?;
    u.bytes(usize::from(len))
}

fn flags(u: &mut Unstructured<'_>) -> Result<Flags> {
    Ok(match u.int_in_range(0..=9u8)? {
        0..=3 => ACK,
        4 => FIN_ACK,
        5 => RST,
        6 => RST_ACK,
        7 => SYN,
        8 => SYN_ACK,
        _ => Flags(u.arbitrary()?),
    })
}

fn options(b: &Bench, u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    Ok(match u.int_in_range(0..=5u8)? {
        0..=1 => vec![],
        2 => written(&linux()),
        3 => written(&SynOptions { mss: Some(u.arbitrary()?), ..SynOptions::default() }),
        4 => b.stamp(u.arbitrary()?).to_vec(),
        _ => {
            let words = u.int_in_range(0..=10u8)?;
            u.bytes(4 * usize::from(words))?.to_vec()
        }
    })
}

fn hello(u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    Ok(match u.int_in_range(0..=6u8)? {
        0 => Hello::default().bytes(),
        1 => Hello { session_id: vec![u.arbitrary()?; 32], ..Hello::default() }.in_records(40),
        2 => Hello { ticket: Some(vec![u.arbitrary()?; 60]), ..Hello::default() }.bytes(),
        3 => Hello { psk: vec![vec![u.arbitrary()?; 60]], tls13: true, at_least: 1600, ..Hello::default() }.bytes(),
        4 => Hello { at_least: 2100, ..Hello::default() }.in_records(700),
        5 => b"GET / HTTP/1.0\r\n\r\n".to_vec(),
        _ => raw(u, 60)?.to_vec(),
    })
}

fn fronted(b: &Bench) -> bool {
    b.config.wanted.services.first().is_some_and(|service| !service.policy.accept_proxy.from.is_empty())
}

/// A PROXY header, most often; its lengths, addresses and ends may be anything.
fn proxy_header(u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    Ok(match u.int_in_range(0..=7u8)? {
        0 => vec![],
        1 => b"PROXY UNKNOWN\r\n".to_vec(),
        2 => format!("PROXY TCP4 203.0.113.{} 198.51.100.1 {} 443\r\n", u.arbitrary::<u8>()?, u.arbitrary::<u16>()?)
            .into(),
        3 => {
            format!("PROXY TCP6 2001:db8::{:x} fd00::1 {} 443\r\n", u.arbitrary::<u16>()?, u.arbitrary::<u16>()?).into()
        }
        4 => [b"PROXY ", raw(u, 120)?].concat(),
        5 => [&SIGNATURE[..], raw(u, 60)?].concat(),
        _ => {
            let (what, family) = ([0x20, 0x21][u.choose_index(2)?], [0, 0x11, 0x21, 0x31][u.choose_index(4)?]);
            let body = raw(u, 100)?;
            [&SIGNATURE[..], &[what, family], &(body.len() as u16).to_be_bytes(), body].concat()
        }
    })
}

/// An operator wants something else. What cannot be, for want of slots, changes nothing.
fn reconfigure(b: &mut Bench, u: &mut Unstructured<'_>) -> Result<()> {
    let mut wanted = b.config.wanted.clone();
    let pool = &mut wanted.pools[0];
    for backend in &mut pool.backends {
        backend.state = [State::Up, State::Up, State::Draining, State::Down][u.choose_index(4)?];
        backend.weight = u.int_in_range(0..=2)?;
        if u.ratio(1, 8u8)? {
            backend.name.push_str("-again");
        }
    }
    pool.balance = Algorithm::ALL[u.choose_index(4)?];
    if wanted.pools[0].backends[0].limits.bind() && u.ratio(1, 4u8)? {
        limits(&mut wanted, u)?;
    }
    let pool = &mut wanted.pools[0];
    let kept = u.int_in_range(0..=2u8)?;
    pool.backends.truncate(usize::from(kept.max(1)));
    if u.ratio(1, 8u8)? {
        wanted.services[0].listen.clear();
    }
    let _ = b.reconfigure(&wanted);
    Ok(())
}

/// The next frame, and the port it comes in at; none when only time has passed.
fn frame(
    b: &mut Bench,
    u: &mut Unstructured<'_>,
    k: &mut Known,
    last: &[u8],
    used: &mut [Used; 2],
) -> Result<Option<(usize, Vec<u8>)>> {
    let server = b.server_port();
    let header = if b.config.wanted.services[0].policy.proxy_protocol { if b.v6 { 52 } else { 28 } } else { 0 };
    Ok(Some(match u.int_in_range(0..=15u8)? {
        0 => {
            (k.sent, k.received) = (1, 1);
            let bytes = options(b, u)?;
            let seq = if u.ratio(1, 8u8)? { u.arbitrary()? } else { 0 };
            (0, b.client_frame(&Seg { seq, flags: SYN, options: &bytes, ..Seg::default() }))
        }
        1 => (0, b.client_frame(&seg(ACK, k.sent, k.received, &[]))),
        // As a client goes on that means well.
        2 => {
            let bytes = if fronted(b) { [proxy_header(u)?, hello(u)?].concat() } else { hello(u)? };
            let stamp = if u.ratio(1, 3u8)? { b.stamp(9000).to_vec() } else { vec![] };
            let part = if u.ratio(1, 3u8)? { u.choose_index(bytes.len() + 1)? } else { bytes.len() };
            let frame =
                b.client_frame(&Seg { options: &stamp, ..seg(ACK, k.sent, k.received, &bytes[..part.min(1400)]) });
            k.sent = k.sent.wrapping_add(part.min(1400) as u32);
            (0, frame)
        }
        // As a client that does not.
        3 | 4 => {
            let (seq, ack, flags) = (number(u, k.sent)?, number(u, k.received)?, flags(u)?);
            let (options, window) = (options(b, u)?, u.arbitrary()?);
            let payload = raw(u, 40)?;
            let s = Seg { seq, ack, flags, window, options: &options, payload };
            (0, b.client_frame(&s))
        }
        5 => {
            let options = options(b, u)?;
            let ack = 1u32.wrapping_sub(header);
            (server, b.server_frame(&Seg { options: &options, window: 60_000, ..seg(SYN_ACK, 0, ack, &[]) }))
        }
        6 => {
            let len = usize::from(u.int_in_range(0..=200u8)?);
            let payload = vec![u.arbitrary()?; len];
            let frame = b.server_frame(&Seg { window: 60_000, ..seg(ACK, k.received, k.sent, &payload) });
            k.received = k.received.wrapping_add(len as u32);
            (server, frame)
        }
        7 | 8 => {
            let (seq, ack, flags) = (number(u, k.received)?, number(u, k.sent)?, flags(u)?);
            let (options, window) = (options(b, u)?, u.arbitrary()?);
            let payload = raw(u, 40)?;
            let s = Seg { seq, ack, flags, window, options: &options, payload };
            (server, b.server_frame(&s))
        }
        9 => {
            // Closing.
            let (from_client, flags) = (u.arbitrary()?, if u.arbitrary()? { FIN_ACK } else { RST });
            if from_client {
                (0, b.client_frame(&seg(flags, k.sent, k.received, &[])))
            } else {
                (server, b.server_frame(&seg(flags, k.received, k.sent, &[])))
            }
        }
        10 | 11 => {
            let ms = [0, 1, 30, 50, 200, 200, 600, 1100][u.choose_index(8)?];
            if u.ratio(1, 4u8)? {
                // The world stood still; timers are late.
                b.now += Duration::from_millis(30 * ms);
            } else {
                b.wait(Duration::from_millis(ms));
                if ms == 0 {
                    check_slots(b, used);
                    reconfigure(b, u)?;
                }
            }
            return Ok(None);
        }
        // The last frame again, damaged; perhaps at the other port, as an error quotes it, or cut.
        12 | 13 => {
            let mut frame = last.to_vec();
            for _ in 0..u.int_in_range(0..=4u8)? {
                if !frame.is_empty() {
                    let at = u.choose_index(frame.len())?;
                    frame[at] = u.arbitrary()?;
                }
            }
            if u.ratio(1, 4u8)? {
                frame.truncate(usize::from(u.arbitrary::<u8>()?));
            }
            (if u.arbitrary()? { 0 } else { server }, frame)
        }
        14 => {
            let quoted = if u.arbitrary()? {
                b.client_frame(&seg(ACK, k.sent, k.received, &[]))
            } else {
                b.server_frame(&seg(ACK, k.received, k.sent, &[]))
            };
            let (kind, mtu) = (u.int_in_range(0..=5u8)?, u.arbitrary()?);
            (if u.arbitrary()? { 0 } else { server }, b.error_about(&quoted, kind, mtu))
        }
        _ => {
            let rest = raw(u, 100)?;
            let port = if u.arbitrary()? { 0 } else { server };
            (port, [&b.config.ports[port].mac.0[..], rest].concat())
        }
    }))
}

/// Whatever happened, nothing is left when all timers have run out.
fn end(mut b: Bench) -> ClassCounters {
    let most = b.now + Duration::from_secs(300);
    let mut turns = 0;
    while let Some(at) = b.engine.next_deadline().filter(|at| *at <= most && b.engine.flows() > 0) {
        b.now = b.now.max(at);
        b.poll();
        turns += 1;
        assert!(turns < 20_000, "a busy loop");
    }
    b.assert_empty();
    let c = b.engine.counters();
    assert_eq!(c.flows_opened, c.flows_closed);
    assert_eq!(c.flows_closed, b.ended.len() as u64);
    let (directory, sum) = (b.engine.directory(), b.engine.admission());
    assert_eq!(b.engine.waiting(), 0);
    assert_eq!(sum.asked, sum.admitted + sum.turned_away(), "{sum:?}");
    let slots = directory.live().slots();
    assert!(directory.backends().all(|b| slots.used(b.id) == Used::default()), "all is given back");
    sum
}
