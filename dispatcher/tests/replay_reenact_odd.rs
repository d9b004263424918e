//! Re-enactment of recordings that no good recorder makes: holes, wrong orders, contradictions, silence, damage.

mod captures;

use captures::all_captures;
use dispatcher::capture::pcapng::PcapngWriter;
use dispatcher::capture::{Capture, LinkType};
use dispatcher::engine::{AddressMode, Config, DropReason, End, Limits, PortId};
use dispatcher::replay::reenact::conversation::Conversation;
use dispatcher::replay::reenact::recording::Reader;
use dispatcher::replay::reenact::wire::Ended;
use dispatcher::replay::reenact::world::{Witness, World};
use dispatcher::replay::reenact::{Totals, served};
use dispatcher::time::Time;
use dispatcher::wire::build::{Link, Segment};
use dispatcher::wire::packet::Flags;
use dispatcher::wire::{Addr, Mac, Seq};
use lb::{MemberSpec, Policy, PoolSpec, Wanted};
use std::net::SocketAddr;
use std::time::Duration;

const SYN: Flags = Flags::SYN;
const ACK: Flags = Flags::ACK;
const FIN: Flags = Flags(0x11);
const RST: Flags = Flags(0x14);

/// A capture being made up: one client, one server, numbers counted from each side's first byte.
struct Tape {
    writer: PcapngWriter<Vec<u8>>,
    millis: u64,
    client: (Addr, u16),
    server: (Addr, u16),
    isn: [u32; 2],
}

impl Tape {
    fn new() -> Tape {
        let mut writer = PcapngWriter::new(Vec::new(), "test").unwrap();
        writer.interface("eth0", LinkType::ETHERNET).unwrap();
        let address = |s: &str| Addr::from(s.parse::<std::net::IpAddr>().unwrap());
        let (client, server) = ((address("10.0.0.7"), 40_000), (address("10.0.0.1"), 443));
        Tape { writer, millis: 1_000, client, server, isn: [0xffff_ff00, 7] }
    }

    fn put(&mut self, from_client: bool, seq: i64, ack: Option<i64>, flags: Flags, options: &[u8], payload: &[u8]) {
        self.millis += 1;
        let [own, other] = if from_client { self.isn } else { [self.isn[1], self.isn[0]] };
        let (src, dst) = if from_client { (self.client, self.server) } else { (self.server, self.client) };
        let segment = Segment {
            link: Link { dst: Mac([2; 6]), src: Mac([4; 6]), ..Link::default() },
            src,
            dst,
            seq: Seq(own.wrapping_add(1).wrapping_add(seq as u32)),
            ack: Seq(ack.map_or(0, |a| other.wrapping_add(1).wrapping_add(a as u32))),
            flags,
            window: 64_000,
            options,
            payload,
        };
        let mut frame = vec![0; segment.frame_len()];
        segment.write(&mut frame);
        self.writer.frame(0, self.millis * 1_000_000, &frame, None).unwrap();
    }

    fn handshake(&mut self) {
        self.handshake_with(&[2, 4, 5, 0xb4, 1, 3, 3, 7], &[2, 4, 5, 0xb4, 1, 3, 3, 9]);
    }

    fn handshake_with(&mut self, asked: &[u8], answered: &[u8]) {
        self.put(true, -1, None, SYN, asked, &[]);
        self.put(false, -1, Some(0), SYN.with(ACK), answered, &[]);
        self.put(true, 0, Some(0), ACK, &[], &[]);
    }

    fn client(&mut self, seq: i64, ack: i64, payload: &[u8]) {
        self.put(true, seq, Some(ack), ACK, &[], payload);
    }

    fn server(&mut self, seq: i64, ack: i64, payload: &[u8]) {
        self.put(false, seq, Some(ack), ACK, &[], payload);
    }

    fn close(&mut self, sent: i64, answered: i64) {
        self.put(true, sent, Some(answered), FIN, &[], &[]);
        self.put(false, answered, Some(sent + 1), FIN, &[], &[]);
        self.put(true, sent + 1, Some(answered + 1), ACK, &[], &[]);
    }

    fn bytes(self) -> Vec<u8> {
        self.writer.finish().unwrap()
    }

    fn reenact(self) -> Told {
        self.reenact_with(config())
    }

    fn reenact_with(self, config: Config) -> Told {
        reenact(self.bytes(), config).unwrap()
    }
}

#[derive(Default)]
struct Told {
    connections: Vec<(Ended, bool, [u32; 2])>,
    totals: Totals,
}

impl Witness for Told {
    fn connection(&mut self, ended: &Ended, c: &Conversation<'_>) -> anyhow::Result<()> {
        self.totals.connection(ended, c.intact());
        let arrived = [c.ends[1].arrived(), c.ends[0].arrived()];
        self.connections.push((ended.clone(), c.intact(), arrived));
        Ok(())
    }
    fn frame(&mut self, _: PortId, _: bool, _: Time, _: &[u8], _: Option<DropReason>) -> anyhow::Result<()> {
        Ok(())
    }
    fn wants_frames(&self) -> bool {
        false
    }
    fn progress(&mut self, _: usize) {}
}

fn config() -> Config {
    let backend = |name: &str, addr: &str| MemberSpec::new(name, addr.parse().unwrap());
    let backends = vec![backend("a", "10.9.0.1:443"), backend("b", "10.9.0.2:443"), backend("a6", "[fd09::1]:443")];
    let pool = PoolSpec { backends, ..PoolSpec::default() };
    Config { wanted: Wanted::single(vec![], Policy::default(), pool), ..Config::default() }
}

fn reenact(bytes: Vec<u8>, config: Config) -> anyhow::Result<Told> {
    let capture = Capture::from_bytes(bytes)?;
    let mut reader = Reader::default();
    // What could be read of a damaged one is re-enacted.
    let _ = reader.read(&capture, |_| {});
    let recording = reader.finish();
    let config = served(config, &recording)?;
    let mut told = Told { totals: Totals::new(&config), ..Told::default() };
    let mut world = World::new(config, &recording)?;
    world.run(&mut told)?;
    told.totals.finish(&world, &recording);
    assert_eq!(told.connections.len(), recording.connections.len(), "every connection is told once");
    Ok(told)
}

fn bytes(n: usize) -> Vec<u8> {
    (0..n as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

fn only(told: &Told) -> &(Ended, bool, [u32; 2]) {
    assert_eq!(told.connections.len(), 1);
    &told.connections[0]
}

#[test]
fn a_stream_with_a_hole_is_played_up_to_the_hole() {
    let mut tape = Tape::new();
    tape.handshake();
    tape.client(0, 0, b"GET / HTTP/1.0\r\n\r\n");
    tape.server(0, 18, &bytes(1000));
    tape.server(2000, 18, &bytes(1000));
    tape.close(18, 3000);
    let told = tape.reenact();
    let (ended, intact, arrived) = only(&told);
    // The client had acknowledged more than is known of the server: as much as can be had is enough.
    assert!(intact);
    assert_eq!((*arrived, ended.bytes_to_client, told.totals.forced), ([19, 1000], 1000, 0));
}

#[test]
fn frames_written_in_a_wrong_order_may_wait_for_each_other_but_not_for_ever() {
    let mut tape = Tape::new();
    tape.handshake();
    // The client's second segment answers the server's answer to its first, and was written before it.
    tape.client(5, 5, b"again");
    tape.client(0, 0, b"hello");
    tape.server(0, 5, b"WORLD");
    tape.server(5, 10, b"AGAIN");
    tape.close(10, 10);
    let told = tape.reenact();
    let (ended, intact, arrived) = only(&told);
    assert!(intact, "{ended:?}");
    assert_eq!(*arrived, [11, 11]);
    assert_eq!(told.totals.forced, 1, "one segment had to go first");
}

#[test]
fn of_contradicting_repetitions_the_first_recorded_counts() {
    let mut tape = Tape::new();
    tape.handshake();
    tape.client(0, 0, b"GET /one");
    tape.client(0, 0, b"GET /two");
    tape.server(0, 8, b"fine");
    tape.close(8, 4);
    let told = tape.reenact();
    assert!(only(&told).1);
    assert_eq!(told.totals.faults.count, 0);
}

#[test]
fn large_bodies_flow_both_ways_within_what_the_receivers_allow() {
    let body = bytes(3_000_000);
    for (address_mode, proxy_protocol) in [(AddressMode::Snat, true), (AddressMode::Dnat, false)] {
        let mut tape = Tape::new();
        tape.handshake();
        for (i, part) in body.chunks(1460).enumerate() {
            tape.client(i as i64 * 1460, 0, part);
        }
        for (i, part) in body.chunks(1460).enumerate() {
            tape.server(i as i64 * 1460, 3_000_000, part);
        }
        tape.close(3_000_000, 3_000_000);
        let told = tape.reenact_with(Config { address_mode, ..config() }.policy(|p| p.proxy_protocol = proxy_protocol));
        let (ended, intact, _) = only(&told);
        assert!(intact, "{ended:?} {:?}", told.totals);
        assert_eq!((ended.bytes_to_server, ended.bytes_to_client), (3_000_000, 3_000_000));
        assert_eq!((ended.end, told.totals.faults.count), (End::Fin, 0));
    }
}

/// MSS, SACK, timestamps, window scale.
const ALL_OPTIONS: &[u8] = &[2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 9, 0, 7, 0, 0, 0, 0, 1, 3, 3, 7];

#[test]
fn what_is_selectively_acknowledged_lies_in_what_was_sent_on_both_sides() {
    for options in [ALL_OPTIONS, &[2, 4, 5, 0xb4, 1, 1, 4, 2]] {
        let body = bytes(20_000);
        let mut tape = Tape::new();
        tape.handshake_with(options, options);
        tape.client(0, 0, b"PUT / HTTP/1.0\r\n\r\n");
        tape.server(0, 18, b"100\n");
        // Both ways every other segment overtakes the one before.
        for part in body.chunks(2000).enumerate() {
            let (at, part) = (18 + part.0 as i64 * 2000, part.1);
            tape.client(at + 1000, 4, &part[1000..]);
            tape.client(at, 4, &part[..1000]);
        }
        for part in body.chunks(3000).enumerate() {
            let (at, part) = (4 + part.0 as i64 * 3000, part.1);
            let (one, two) = (part.len().min(1000), part.len().min(2000));
            tape.server(at + two as i64, 20_018, &part[two..]);
            tape.server(at, 20_018, &part[..one]);
            tape.server(at + one as i64, 20_018, &part[one..two]);
        }
        tape.close(20_018, 20_004);
        let told = tape.reenact();
        let (ended, intact, _) = only(&told);
        assert!(intact, "{ended:?}");
        assert_eq!((told.totals.faults.count, told.totals.forced, told.totals.repeats), (0, 0, 0));
    }
}

#[test]
fn servers_of_different_abilities_stand_behind_one_offer() {
    let mut tape = Tape::new();
    // The first is taken for what all backends can do, until they have answered.
    let abilities: [&[u8]; 4] =
        [ALL_OPTIONS, &[2, 4, 2, 0], &[2, 4, 5, 0xb4, 1, 3, 3, 14], &[2, 4, 5, 0xb4, 1, 1, 4, 2]];
    for (i, answered) in abilities.into_iter().cycle().take(24).enumerate() {
        (tape.client.1, tape.isn) = (41_000 + i as u16, [i as u32, 9]);
        let asked = if i % 5 == 4 { &[2, 4, 5, 0xb4][..] } else { ALL_OPTIONS };
        tape.handshake_with(asked, answered);
        tape.client(0, 0, b"GET / HTTP/1.0\r\n\r\n");
        for part in 0..10 {
            tape.server(part * 1400, 18, &bytes(1400));
        }
        tape.close(18, 14_000);
    }
    let bytes = tape.bytes();
    for proxy_protocol in [false, true] {
        let told = reenact(bytes.clone(), config().policy(|p| p.proxy_protocol = proxy_protocol)).unwrap();
        assert_eq!((told.totals.intact, told.totals.faults.count), (24, 0), "{:?}", told.totals);
    }
}

#[test]
fn a_server_that_speaks_first_is_waited_for() {
    let mut tape = Tape::new();
    tape.handshake();
    tape.server(0, 0, b"220 here\r\n");
    tape.client(0, 10, b"QUIT\r\n");
    tape.server(10, 6, b"221 bye\r\n");
    tape.close(6, 19);
    let told = tape.reenact();
    let (ended, intact, _) = only(&told);
    assert!(intact);
    assert_eq!((ended.class.as_str(), ended.reason_word(), told.totals.forced), ("non-secure", "balanced", 0));
}

#[test]
fn a_silence_longer_than_flows_may_be_idle_is_lived_through_by_ends_that_answer_when_asked() {
    let mut tape = Tape::new();
    tape.handshake();
    tape.client(0, 0, b"GET / HTTP/1.0\r\n\r\n");
    tape.server(0, 18, &bytes(100));
    tape.millis += 400_000;
    tape.server(100, 18, &bytes(100));
    tape.close(18, 200);
    let told = tape.reenact();
    let (ended, intact, arrived) = only(&told);
    assert_eq!((ended.end, *intact, arrived[1]), (End::Fin, true, 201));
}

#[test]
fn years_between_two_frames_take_no_time() {
    let mut tape = Tape::new();
    tape.handshake();
    tape.client(0, 0, b"GET / HTTP/1.0\r\n\r\n");
    tape.server(0, 18, &bytes(100));
    tape.close(18, 100);
    tape.millis += 20 * 365 * 86_400_000;
    (tape.client.1, tape.isn) = (40_001, [1, 2]);
    tape.handshake();
    tape.client(0, 0, b"GET / HTTP/1.0\r\n\r\n");
    tape.server(0, 18, &bytes(100));
    tape.close(18, 100);
    assert_eq!(tape.reenact().totals.intact, 2);
}

#[test]
fn a_reset_comes_after_what_had_arrived_before_it() {
    let mut tape = Tape::new();
    tape.handshake();
    tape.client(0, 0, b"GET / HTTP/1.0\r\n\r\n");
    tape.server(0, 18, &bytes(1000));
    tape.put(true, 18, Some(0), RST, &[], &[]);
    // Under way when the client had gone: nobody got it.
    tape.server(1000, 18, &bytes(1000));
    let told = tape.reenact();
    let (ended, intact, arrived) = only(&told);
    assert!(intact);
    assert_eq!((ended.end, *arrived), (End::ClientReset, [18, 1000]));
}

#[test]
fn a_port_used_again_before_the_old_connection_ended_begins_anew() {
    let mut tape = Tape::new();
    for isn in [[100, 200], [90_000, 70_000], [5, 5]] {
        tape.isn = isn;
        tape.handshake();
        tape.client(0, 0, b"GET / HTTP/1.0\r\n\r\n");
        tape.server(0, 18, &bytes(1000));
        // No end was recorded.
    }
    let told = tape.reenact();
    assert_eq!((told.totals.intact, told.connections.len()), (3, 3));
    let ends: Vec<End> = told.connections.iter().map(|(e, _, _)| e.end).collect();
    assert!(ends[..2].iter().all(|e| *e != End::Fin), "{ends:?}");
}

#[test]
fn a_full_flow_table_is_told_and_hangs_nothing() {
    let mut tape = Tape::new();
    for port in 0..20 {
        (tape.client.1, tape.isn) = (41_000 + port, [u32::from(port), 9]);
        tape.handshake();
        tape.client(0, 0, b"GET / HTTP/1.0\r\n\r\n");
        tape.server(0, 18, &bytes(1000));
    }
    let limits = Limits { flows: 4, ..Limits::default() };
    let told = tape.reenact_with(Config { limits, ..config() });
    assert_eq!(told.connections.len(), 20);
    assert!(told.totals.intact >= 4 && told.totals.intact < 20, "{}", told.totals.intact);
    assert!(told.totals.counters.dropped(DropReason::FlowTableFull) > 0);
}

/// xorshift64*: the same damage every time.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % n.max(1) as u64) as usize
    }
}

#[test]
fn damaged_captures_are_reenacted_as_far_as_they_go_without_panic() {
    let mut random = Random(0x5eed_0003);
    let mut done = 0;
    for path in all_captures() {
        let mut whole = std::fs::read(&path).unwrap();
        whole.truncate(30_000);
        for round in 0..4 {
            let mut damaged = whole.clone();
            for _ in 0..1 << (2 * round) {
                let at = random.below(damaged.len());
                damaged[at] = random.below(256) as u8;
            }
            let limits = Limits { flows: 256, hellos: 64, watches: 64, sessions: 1024, ..Limits::default() };
            let flow_idle_timeout = Duration::from_secs(60);
            // A refusal is an answer too: damage may turn an address into a backend's.
            if let Ok(told) = reenact(damaged, Config { limits, flow_idle_timeout, ..config() }) {
                done += told.connections.len();
            }
        }
    }
    assert!(done > 500, "{done}");
}

#[test]
fn addresses_are_as_the_tape_has_them() {
    let mut tape = Tape::new();
    tape.handshake();
    tape.client(0, 0, b"GET / HTTP/1.0\r\n\r\n");
    tape.server(0, 18, &bytes(10));
    tape.close(18, 10);
    let told = tape.reenact();
    let (ended, ..) = only(&told);
    assert_eq!(ended.client, "10.0.0.7:40000".parse::<SocketAddr>().unwrap());
    assert_eq!(ended.vip, "10.0.0.1:443".parse::<SocketAddr>().unwrap());
}

#[test]
fn a_host_that_speaks_to_itself_is_reenacted_in_both_families() {
    for ip in ["127.0.0.1", "::1"] {
        let mut tape = Tape::new();
        let own = Addr::from(ip.parse::<std::net::IpAddr>().unwrap());
        (tape.client.0, tape.server.0) = (own, own);
        tape.handshake();
        tape.client(0, 0, b"GET / HTTP/1.0\r\n\r\n");
        tape.server(0, 18, &bytes(3000));
        tape.close(18, 3000);
        let recorded = tape.bytes();
        for address_mode in [AddressMode::Snat, AddressMode::Dnat] {
            let told = reenact(recorded.clone(), Config { address_mode, ..config() }).unwrap();
            let (ended, intact, arrived) = only(&told);
            // The FIN counts one.
            assert_eq!((ended.end, *intact, *arrived), (End::Fin, true, [19, 3001]), "{ip} {address_mode:?}");
            assert_eq!(told.totals.counters.drops.iter().sum::<u64>(), 0);
        }
    }
}
