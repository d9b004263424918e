use super::super::decode::Transport;
use super::*;
use crate::wire::Seq;
use arrayvec::ArrayVec;
use proptest::prelude::*;

/// What a stream said: its bytes, and how many were missing where.
#[derive(Default)]
struct Heard {
    streams: [Vec<u8>; 2],
    gaps: Vec<(Way, usize, u64)>,
    ended: u32,
    turn_next: bool,
}

struct Recorder {
    wants: bool,
}

impl Handler for Recorder {
    type State = Heard;

    fn opened(&mut self, _: &Connection) -> Heard {
        Heard::default()
    }
    fn data(&mut self, _: &mut Connection, heard: &mut Heard, way: Way, bytes: &[u8], _: At) -> Turn {
        heard.streams[way.index()].extend_from_slice(bytes);
        if std::mem::take(&mut heard.turn_next) {
            heard.streams.swap(0, 1);
            return Turn::Around;
        }
        Turn::Keep
    }
    fn gap(&mut self, _: &mut Connection, heard: &mut Heard, way: Way, len: u64, _: At) {
        heard.gaps.push((way, heard.streams[way.index()].len(), len));
    }
    fn ended(&mut self, _: &Connection, heard: &mut Heard) {
        heard.ended += 1;
    }
    fn wants(&self, _: &Heard, _: Way) -> bool {
        self.wants
    }
}

const SYN: u8 = Segment::SYN;
const ACK: u8 = Segment::ACK;
const FIN: u8 = Segment::FIN;
const RST: u8 = Segment::RST;

/// A capture being made: each call is a frame, a millisecond after the one before.
struct Lab {
    tracker: Tracker<Recorder>,
    frame: u64,
}

impl Lab {
    fn new() -> Lab {
        Lab::with(Limits::default())
    }

    fn with(limits: Limits) -> Lab {
        Lab { tracker: Tracker::new(Recorder { wants: true }, limits), frame: 0 }
    }

    fn send(&mut self, way: Way, flags: u8, seq: u32, ack: u32, payload: &[u8]) {
        self.send_cut(way, flags, seq, ack, payload, 0);
    }

    fn send_cut(&mut self, way: Way, flags: u8, seq: u32, ack: u32, payload: &[u8], missing: usize) {
        let client: SocketAddr = "10.0.0.1:40000".parse().unwrap();
        let server: SocketAddr = "10.0.0.2:443".parse().unwrap();
        let (src, dst) = if way == Way::ToServer { (client, server) } else { (server, client) };
        let segment = Segment {
            seq: Seq(seq),
            ack: (flags & ACK != 0).then_some(Seq(ack)),
            flags,
            window: 1000,
            options: &[],
            payload,
            missing,
        };
        let packet = Decoded { vlans: ArrayVec::new(), src, dst, transport: Transport::Tcp(segment) };
        self.frame += 1;
        let time = Time::from_millis(self.frame);
        self.tracker.segment(&packet, &segment, At { frame: self.frame, time, unix_nanos: time.as_nanos() });
    }

    fn open(&mut self, client_isn: u32, server_isn: u32) {
        self.send(Way::ToServer, SYN, client_isn, 0, b"");
        self.send(Way::ToClient, SYN | ACK, server_isn, client_isn.wrapping_add(1), b"");
        self.send(Way::ToServer, ACK, client_isn.wrapping_add(1), server_isn.wrapping_add(1), b"");
    }

    fn only(&mut self) -> (&Connection, &Heard) {
        self.tracker.finish();
        assert_eq!(self.tracker.len(), 1, "one connection");
        self.tracker.connections().next().unwrap()
    }
}

#[test]
fn an_orderly_connection_is_heard_whole() {
    let mut lab = Lab::new();
    lab.open(100, 900);
    lab.send(Way::ToServer, ACK, 101, 901, b"question");
    lab.send(Way::ToClient, ACK, 901, 109, b"answer");
    lab.send(Way::ToServer, ACK | FIN, 109, 907, b"");
    lab.send(Way::ToClient, ACK | FIN, 907, 110, b"");
    lab.send(Way::ToServer, ACK, 110, 908, b"");
    let (connection, heard) = lab.only();
    assert_eq!((&heard.streams[0][..], &heard.streams[1][..]), (&b"question"[..], &b"answer"[..]));
    assert_eq!((connection.end, connection.bytes, connection.lost), (Some(End::Fin), [8, 6], [0, 0]));
    assert_eq!((connection.from_start, connection.began_late, heard.ended), ([true; 2], false, 1));
    assert_eq!((connection.first.frame, connection.last.frame), (1, 8));
}

#[test]
fn of_two_segments_that_disagree_the_first_wins() {
    let mut lab = Lab::new();
    lab.open(100, 900);
    lab.send(Way::ToServer, ACK, 103, 901, b"CDE");
    lab.send(Way::ToServer, ACK, 101, 901, b"abxxxfg");
    lab.send(Way::ToServer, ACK, 101, 901, b"zzzzzzzh");
    assert_eq!(lab.only().1.streams[0], b"abCDEfgh");
}

#[test]
fn a_syn_with_another_number_begins_another_connection_and_a_repeated_one_does_not() {
    let mut lab = Lab::new();
    lab.send(Way::ToServer, SYN, 100, 0, b"");
    lab.open(100, 900);
    lab.send(Way::ToServer, ACK, 101, 901, b"one");
    lab.open(5000, 7000);
    lab.send(Way::ToServer, ACK, 5001, 7001, b"two");
    lab.tracker.finish();
    let all: Vec<_> = lab.tracker.connections().map(|(c, h)| (c.end, h.streams[0].clone())).collect();
    assert_eq!(all, [(Some(End::Replaced), b"one".to_vec()), (None, b"two".to_vec())]);
}

#[test]
fn a_syn_recorded_behind_its_answer_belongs_to_it() {
    let mut lab = Lab::new();
    lab.send(Way::ToClient, SYN | ACK, 900, 101, b"");
    lab.send(Way::ToServer, SYN, 100, 0, b"");
    lab.send(Way::ToServer, ACK, 101, 901, b"one");
    assert_eq!(lab.only().1.streams[0], b"one");
}

#[test]
fn the_reset_of_a_challenge_acknowledgement_does_not_end_the_new_connection() {
    let mut lab = Lab::new();
    lab.open(100, 900);
    lab.send(Way::ToServer, ACK, 101, 901, b"old");
    // The client has forgotten, the server has not: challenge (RFC 5961), reset, and the same SYN again.
    lab.send(Way::ToServer, SYN, 2_000_000_000, 0, b"");
    lab.send(Way::ToClient, ACK, 901, 104, b"");
    lab.send(Way::ToServer, RST, 104, 0, b"");
    lab.open(2_000_000_000, 7000);
    lab.send(Way::ToServer, ACK, 2_000_000_001, 7001, b"new");
    lab.tracker.finish();
    let heard: Vec<_> = lab.tracker.connections().map(|(_, h)| h.streams[0].clone()).collect();
    assert_eq!(heard, [b"old".to_vec(), b"new".to_vec()]);
}

#[test]
fn keep_alives_probes_and_resets_with_text_are_not_data() {
    let mut lab = Lab::new();
    lab.open(100, 900);
    lab.send(Way::ToServer, ACK, 101, 901, b"ab");
    lab.send(Way::ToServer, ACK, 102, 901, b"\0");
    lab.send(Way::ToServer, ACK, 102, 901, b"");
    lab.send(Way::ToServer, ACK, 103, 901, b"c");
    lab.send(Way::ToServer, ACK, 103, 901, b"cd");
    lab.send(Way::ToServer, RST | ACK, 105, 901, b"why");
    let (connection, heard) = lab.only();
    assert_eq!((&heard.streams[0][..], connection.end), (&b"abcd"[..], Some(End::ClientReset)));
}

#[test]
fn data_in_the_syn_are_the_first_bytes() {
    let mut lab = Lab::new();
    lab.send(Way::ToServer, SYN, 100, 0, b"fast");
    lab.send(Way::ToClient, SYN | ACK, 900, 105, b"");
    lab.send(Way::ToServer, ACK, 105, 901, b" open");
    assert_eq!(lab.only().1.streams[0], b"fast open");

    let mut lab = Lab::new();
    lab.send(Way::ToServer, SYN, 100, 0, b"fast");
    lab.send(Way::ToClient, SYN | ACK, 900, 101, b"");
    lab.send(Way::ToServer, ACK, 101, 901, b"fast open");
    assert_eq!(lab.only().1.streams[0], b"fast open", "not taken by the server, sent again");
}

#[test]
fn a_server_that_answers_a_repeated_syn_with_another_number_is_followed_by_the_one_acknowledged() {
    for acknowledged in [900, 5900] {
        let mut lab = Lab::new();
        lab.send(Way::ToServer, SYN, 100, 0, b"");
        lab.send(Way::ToClient, SYN | ACK, 900, 101, b"");
        lab.send(Way::ToClient, SYN | ACK, 5900, 101, b"");
        lab.send(Way::ToServer, ACK, 101, acknowledged + 1, b"q");
        lab.send(Way::ToClient, ACK, acknowledged + 1, 102, b"answer");
        assert_eq!(lab.only().1.streams[1], b"answer");
    }
}

#[test]
fn a_connection_whose_beginning_is_missing_began_late() {
    let mut lab = Lab::new();
    lab.send(Way::ToClient, ACK, 5000, 100, b"from the middle");
    lab.send(Way::ToServer, ACK, 100, 5015, b"more");
    let (connection, heard) = lab.only();
    assert!(connection.began_late && connection.from_start == [false; 2]);
    assert_eq!(connection.client.port(), 40000, "servers listen on the lower port");
    assert_eq!((&heard.streams[0][..], &heard.streams[1][..]), (&b"more"[..], &b"from the middle"[..]));

    let mut lab = Lab::new();
    lab.send(Way::ToClient, SYN | ACK, 900, 101, b"");
    lab.send(Way::ToServer, ACK, 103, 901, b"c");
    lab.send(Way::ToServer, ACK, 101, 901, b"ab");
    let (connection, heard) = lab.only();
    assert!(!connection.began_late, "the SYN-ACK tells both beginnings");
    assert_eq!((connection.from_start, &heard.streams[0][..]), ([true; 2], &b"abc"[..]));
}

#[test]
fn a_connection_can_be_turned_around() {
    let mut lab = Lab::new();
    lab.send(Way::ToServer, ACK, 100, 5000, b"a");
    lab.tracker.streams[0].state.turn_next = true;
    lab.send(Way::ToServer, ACK, 101, 5000, b"b");
    lab.send(Way::ToServer, ACK, 102, 5000, b"c");
    lab.send(Way::ToClient, ACK, 5000, 103, b"d");
    let (connection, heard) = lab.only();
    assert_eq!(connection.client.port(), 443);
    assert_eq!((&heard.streams[0][..], &heard.streams[1][..]), (&b"d"[..], &b"abc"[..]));
    assert_eq!(connection.bytes, [1, 3]);
}

#[test]
fn what_the_receiver_has_and_the_recorder_has_not_becomes_a_gap() {
    let mut lab = Lab::new();
    lab.open(100, 900);
    lab.send(Way::ToServer, ACK, 101, 901, b"ab");
    lab.send(Way::ToServer, ACK, 106, 901, b"fg");
    lab.send(Way::ToClient, ACK, 901, 108, b"");
    assert!(lab.tracker.streams[0].state.gaps.is_empty(), "it may still turn up");
    lab.frame += 2000;
    lab.send(Way::ToServer, ACK, 108, 901, b"h");
    let heard = &lab.tracker.streams[0].state;
    assert_eq!((&heard.gaps[..], &heard.streams[0][..]), (&[(Way::ToServer, 2, 3)][..], &b"abfgh"[..]));
    assert_eq!(lab.only().0.lost, [3, 0]);
}

#[test]
fn what_the_recorder_cut_off_becomes_a_gap_at_once() {
    let mut lab = Lab::new();
    lab.open(100, 900);
    lab.send_cut(Way::ToServer, ACK, 101, 901, b"ab", 10);
    lab.send(Way::ToServer, ACK, 113, 901, b"cd");
    let (connection, heard) = lab.only();
    assert_eq!((&heard.gaps[..], &heard.streams[0][..]), (&[(Way::ToServer, 2, 10)][..], &b"abcd"[..]));
    assert_eq!((connection.bytes[0], connection.lost[0]), (14, 10));
}

#[test]
fn a_tail_that_was_never_recorded_is_lost_too() {
    let mut lab = Lab::new();
    lab.open(100, 900);
    lab.send(Way::ToServer, ACK, 101, 901, b"ab");
    lab.send(Way::ToServer, ACK | FIN, 113, 901, b"");
    assert_eq!(lab.only().0.lost, [10, 0]);
}

#[test]
fn waiting_bytes_are_bounded_for_a_direction_and_for_all() {
    for limits in
        [Limits { direction_bytes: 10_000, ..Limits::default() }, Limits { total_bytes: 10_000, ..Limits::default() }]
    {
        let mut lab = Lab::with(limits);
        lab.open(100, 900);
        let mut most = 0;
        for i in 0..10_000u32 {
            // Every other byte is missing.
            lab.send(Way::ToServer, ACK, 102 + 2 * i, 901, b"x");
            most = most.max(lab.tracker.waiting);
        }
        assert!(most <= 10_000, "{most} bytes waited");
        assert!(!lab.tracker.streams[0].state.gaps.is_empty());
        assert_eq!(lab.only().1.streams[0].len(), 10_000);
        assert_eq!(lab.tracker.waiting, 0);
    }
}

#[test]
fn a_segment_far_ahead_does_not_derail_the_stream() {
    let mut lab = Lab::new();
    lab.open(100, 900);
    lab.send(Way::ToServer, ACK, 101 + (1 << 27), 901, b"nonsense");
    lab.send(Way::ToServer, ACK, 101u32.wrapping_sub(1 << 30), 901, b"nonsense");
    lab.send(Way::ToServer, ACK, 101, 901, b"sense");
    let (connection, heard) = lab.only();
    assert_eq!((&heard.streams[0][..], connection.lost), (&b"sense"[..], [0, 0]));
}

#[test]
fn bytes_nobody_wants_are_counted_and_not_kept() {
    let mut lab = Lab::new();
    lab.open(100, 900);
    lab.tracker.handler.wants = false;
    lab.send(Way::ToServer, ACK, 101 + 50, 901, &[1; 50]);
    assert!(lab.tracker.waiting < 100);
    lab.send(Way::ToServer, ACK, 101, 901, &[1; 50]);
    let (connection, heard) = lab.only();
    assert!(heard.streams[0].is_empty());
    assert_eq!((connection.bytes, connection.lost), ([100, 0], [0, 0]));
}

/// A naive receiver: an array of bytes by position, the first that comes to a place stays.
fn naive(segments: &[(usize, Vec<u8>)]) -> Vec<Option<u8>> {
    let mut bytes = Vec::new();
    for (at, payload) in segments {
        if bytes.len() < at + payload.len() {
            bytes.resize(at + payload.len(), None);
        }
        for (slot, byte) in bytes[*at..].iter_mut().zip(payload) {
            slot.get_or_insert(*byte);
        }
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_order_overlap_and_loss_is_heard_as_a_naive_receiver_would(
        isn in prop_oneof![Just(u32::MAX - 40), any::<u32>()],
        segments in prop::collection::vec((0usize..200, prop::collection::vec(any::<u8>(), 1..40)), 1..40),
    ) {
        let mut lab = Lab::new();
        lab.open(isn, 900);
        for (at, payload) in &segments {
            lab.send(Way::ToServer, ACK, isn.wrapping_add(1).wrapping_add(*at as u32), 901, payload);
        }
        let expected = naive(&segments);
        let (connection, heard) = lab.only();
        let known: Vec<u8> = expected.iter().flatten().copied().collect();
        prop_assert_eq!(&heard.streams[0], &known);
        let holes = expected.iter().filter(|b| b.is_none()).count() as u64;
        prop_assert_eq!(connection.lost[0], holes);
        prop_assert_eq!(connection.bytes[0], expected.len() as u64);
        prop_assert_eq!(lab.tracker.waiting, 0);
    }
}
