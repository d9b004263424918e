//! What a worker has of sealed tunnels (`tunnel::Edge`), against a far end that is boringtun alone; by a clock of the tests' own, as far as it is ours that decides.

use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519::{PublicKey, StaticSecret};
use core::time::Duration;
use dispatcher::counters::DropReason;
use dispatcher::engine::{Sealed, Unsealed};
use dispatcher::path::tunnel::End;
use dispatcher::time::Time;
use dispatcher::tunnel::{Edge, News, Secret, Standing, peer};
use lb::{Directory, MemberSpec, Policy, PoolSpec, Tunnel, TunnelKind, Wanted};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

const ENDPOINT: &str = "10.9.0.5:51820";
const SECRET: [u8; 32] = [7; 32];
const FAR: [u8; 32] = [9; 32];

fn at(seconds: f64) -> Time {
    Time::from_nanos((seconds * 1e9) as u64)
}

fn end() -> End {
    End::from(ENDPOINT.parse::<SocketAddr>().unwrap())
}

fn directory(key: [u8; 32]) -> Directory {
    let tunnel = Tunnel {
        kind: TunnelKind::Wireguard { public_key: PublicKey::from(&StaticSecret::from(key)).to_bytes() },
        endpoint: ENDPOINT.parse().unwrap(),
    };
    let backend = MemberSpec { tunnel: Some(tunnel), ..MemberSpec::new("web1", "10.2.0.11:443".parse().unwrap()) };
    let pool = PoolSpec { backends: vec![backend], ..PoolSpec::default() };
    let wanted = Wanted::single(vec!["10.1.9.1:443".parse().unwrap()], Policy::default(), pool);
    Directory::next(None, &wanted, |_| true).unwrap()
}

fn edge(worker: usize) -> Edge {
    let mut edge = Edge::new(&Secret::from_bytes(SECRET), worker, 1500, Time::ZERO);
    edge.follow(&directory(FAR), Time::ZERO);
    edge
}

/// The other end, with its key as wireguard would have it.
struct Far(Tunn);

impl Far {
    fn of(worker: usize) -> Far {
        let ours = PublicKey::from(Secret::from_bytes(SECRET).public_of(worker));
        Far(Tunn::new(StaticSecret::from(FAR), ours, None, None, 1, None))
    }

    /// What it answers, and the packets that it takes.
    fn take(&mut self, message: &[u8]) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
        let (mut answers, mut packets, mut out) = (vec![], vec![], vec![0; 2048]);
        let mut datagram = message;
        loop {
            match self.0.decapsulate(Some(IpAddr::from([10, 9, 0, 1])), datagram, &mut out) {
                TunnResult::WriteToNetwork(answer) => answers.push(answer.to_vec()),
                TunnResult::WriteToTunnelV4(packet, _) | TunnResult::WriteToTunnelV6(packet, _) => {
                    packets.push(packet.to_vec());
                    break;
                }
                _ => break,
            }
            datagram = &[];
        }
        (answers, packets)
    }

    fn seal(&mut self, packet: &[u8]) -> Vec<u8> {
        let mut out = vec![0; 2048];
        match self.0.encapsulate(packet, &mut out) {
            TunnResult::WriteToNetwork(message) => message.to_vec(),
            other => panic!("{other:?}"),
        }
    }

    fn initiate(&mut self) -> Vec<u8> {
        let mut out = vec![0; 2048];
        match self.0.format_handshake_initiation(&mut out, true) {
            TunnResult::WriteToNetwork(message) => message.to_vec(),
            other => panic!("{other:?}"),
        }
    }
}

/// An IPv4 packet of so many bytes, from `source` to our inner address.
fn packet(len: usize, source: [u8; 4]) -> Vec<u8> {
    let mut packet: Vec<u8> = (0..len).map(|n| n as u8).collect();
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&(len as u16).to_be_bytes());
    packet[12..16].copy_from_slice(&source);
    packet[16..20].copy_from_slice(&[10, 2, 0, 1]);
    packet
}

fn opened(edge: &mut Edge, message: &[u8]) -> Result<Vec<u8>, Unsealed> {
    let mut out = vec![0; 2048];
    match edge.unseal(end(), message, &mut out) {
        Unsealed::Packet(n) => Ok(out[..n].to_vec()),
        other => Err(other),
    }
}

/// All that is due is exchanged, there and back, until nobody has anything to say: the packets that the far end took.
fn exchange(edge: &mut Edge, far: &mut Far, now: Time) -> Vec<Vec<u8>> {
    edge.at(now);
    let (mut packets, mut out, mut back) = (vec![], vec![0; 2048], vec![0; 2048]);
    let mut outgoing: Vec<Vec<u8>> = vec![];
    loop {
        while let Some((to, n)) = edge.next_message(&mut out) {
            assert_eq!(to, end());
            outgoing.push(out[..n].to_vec());
        }
        if outgoing.is_empty() {
            return packets;
        }
        for message in std::mem::take(&mut outgoing) {
            let (answers, taken) = far.take(&message);
            packets.extend(taken);
            for answer in answers {
                if let Unsealed::Answer(n) = edge.unseal(end(), &answer, &mut back) {
                    outgoing.push(back[..n].to_vec());
                }
            }
        }
    }
}

/// Messages that are due, lost on their way.
fn into_the_void(edge: &mut Edge, now: Time) -> Vec<Vec<u8>> {
    edge.at(now);
    let mut out = vec![0; 2048];
    core::iter::from_fn(|| edge.next_message(&mut out).map(|(_, n)| out[..n].to_vec())).collect()
}

fn news(edge: &mut Edge) -> Vec<(bool, u64)> {
    core::iter::from_fn(|| edge.next_news()).map(|News { up, lost, .. }| (up, lost)).collect()
}

fn up(worker: usize) -> (Edge, Far) {
    let (mut edge, mut far) = (edge(worker), Far::of(worker));
    exchange(&mut edge, &mut far, Time::ZERO);
    assert_eq!(news(&mut edge), [(true, 0)]);
    (edge, far)
}

fn sealed(edge: &mut Edge, packet: &[u8]) -> Vec<u8> {
    let mut out = vec![0; 2048];
    match edge.seal(end(), packet, &mut out) {
        Sealed::Message(n) => out[..n].to_vec(),
        other => panic!("{other:?}"),
    }
}

const INITIATION: u8 = 1;
const DATA: u8 = 4;

#[test]
fn a_tunnel_is_up_before_anybody_needs_it_and_what_waited_for_it_comes_out_in_order() {
    let (mut edge, mut far) = (edge(0), Far::of(0));
    let mut out = vec![0; 2048];
    for n in 0..3 {
        assert_eq!(edge.seal(end(), &packet(100 + n, [10, 2, 0, 1]), &mut out), Sealed::Kept);
    }
    assert_eq!(edge.due(), Some(Time::ZERO));
    let got = exchange(&mut edge, &mut far, Time::ZERO);
    assert_eq!(got, (0..3).map(|n| packet(100 + n, [10, 2, 0, 1])).collect::<Vec<_>>());
    assert_eq!(news(&mut edge), [(true, 0)]);
    let shown = edge.shown().next().unwrap();
    assert_eq!((shown.standing, shown.waiting, shown.counts.handshakes), (Standing::Up, 0, 1));
    assert_eq!(shown.own_key, Secret::from_bytes(SECRET).public_of(0));
}

#[test]
fn packets_pass_both_ways_and_each_worker_is_a_peer_of_its_own() {
    for worker in [0, 3] {
        let (mut edge, mut far) = up(worker);
        for len in [20, 21, 60, 1400, 1439, 1440] {
            let sent = packet(len, [10, 2, 0, 1]);
            let message = sealed(&mut edge, &sent);
            // Nothing of the length but its sixteens, and 32 bytes around it.
            assert_eq!((message[0], message.len()), (DATA, len.next_multiple_of(16) + 32));
            assert_eq!(far.take(&message).1, [sent]);
            let back = packet(len, [10, 2, 0, 11]);
            let message = far.seal(&back);
            assert_eq!(opened(&mut edge, &message).unwrap(), back);
        }
    }
    // Of another worker's messages nothing opens.
    let ((_, mut far), (mut other, _)) = (up(0), up(1));
    let message = far.seal(&packet(100, [10, 2, 0, 11]));
    assert_eq!(opened(&mut other, &message), Err(Unsealed::Lost(DropReason::TunnelUnopened)));
}

#[test]
fn what_was_damaged_repeated_cut_or_comes_from_elsewhere_is_lost_by_its_name() {
    let (mut edge, mut far) = up(0);
    let lost = |reason| Err(Unsealed::Lost(reason));
    let message = far.seal(&packet(100, [10, 2, 0, 11]));
    for at in [4, 8, 16, 60, message.len() - 1] {
        let mut damaged = message.clone();
        damaged[at] ^= 1;
        assert_eq!(opened(&mut edge, &damaged), lost(DropReason::TunnelUnopened), "byte {at}");
    }
    for cut in [0, 1, 15, 31] {
        assert_eq!(opened(&mut edge, &message[..cut]), lost(DropReason::TunnelMalformed), "{cut} bytes");
    }
    let mut strange = message.clone();
    strange[0] = 9;
    assert_eq!(opened(&mut edge, &strange), lost(DropReason::TunnelMalformed));
    let mut out = vec![0; 2048];
    let elsewhere = End::from("10.9.0.6:51820".parse::<SocketAddr>().unwrap());
    assert_eq!(edge.unseal(elsewhere, &message, &mut out), Unsealed::Lost(DropReason::TunnelUnknown));
    assert!(opened(&mut edge, &message).is_ok(), "after all that the message itself still opens");
    assert_eq!(opened(&mut edge, &message), lost(DropReason::TunnelReplayed));
    // Late, but within the window.
    let early = far.seal(&packet(100, [10, 2, 0, 11]));
    for _ in 0..1000 {
        let message = far.seal(&packet(40, [10, 2, 0, 11]));
        assert!(opened(&mut edge, &message).is_ok());
    }
    assert!(opened(&mut edge, &early).is_ok());
    let counts = edge.shown().next().unwrap().counts;
    assert_eq!((counts.unopened, counts.replayed), (5, 1));
}

#[test]
fn a_tunnel_that_answers_no_handshake_is_lost_and_comes_back_by_itself() {
    let mut edge = edge(0);
    let mut out = vec![0; 2048];
    assert_eq!(edge.seal(end(), &packet(60, [10, 2, 0, 1]), &mut out), Sealed::Kept);
    let mut tries = vec![];
    let mut lost_at = None;
    for tick in 0..100 {
        let now = at(f64::from(tick) / 4.0);
        let messages = into_the_void(&mut edge, now);
        assert!(messages.iter().all(|m| m[0] == INITIATION));
        tries.extend(messages.iter().map(|_| now));
        for told in news(&mut edge) {
            assert_eq!(told, (false, 1), "the packet that waited is lost, and counted");
            lost_at = Some(now);
        }
    }
    let lost_at = lost_at.expect("it is told");
    assert!(lost_at >= at(6.0) && lost_at <= at(6.5), "{lost_at:?}");
    assert!((7..=8).contains(&tries.len()), "four in the first four seconds, then every five: {tries:?}");
    assert_eq!(edge.seal(end(), &packet(60, [10, 2, 0, 1]), &mut out), Sealed::Lost(DropReason::TunnelNotUp));
    // For as long as it takes, and no more often.
    let hour = (100..14_400).flat_map(|tick| into_the_void(&mut edge, at(f64::from(tick) / 4.0))).count();
    assert!((600..=730).contains(&hour), "{hour} in an hour");
    let mut far = Far::of(0);
    for tick in 14_400..14_424 {
        exchange(&mut edge, &mut far, at(f64::from(tick) / 4.0));
    }
    assert_eq!(news(&mut edge), [(true, 0)]);
    let message = sealed(&mut edge, &packet(60, [10, 2, 0, 1]));
    assert_eq!(far.take(&message).1.len(), 1);
}

#[test]
fn keys_are_made_anew_before_they_are_old_also_where_nobody_sends_and_nothing_is_lost_meanwhile() {
    let (mut edge, mut far) = up(0);
    let mut messages = 0;
    for tick in 0..4 * 600 {
        let now = at(f64::from(tick) / 4.0);
        edge.at(now);
        let busy = tick > 1200;
        if busy {
            let message = sealed(&mut edge, &packet(60, [10, 2, 0, 1]));
            assert_eq!(far.take(&message).1.len(), 1, "{now:?}");
            let back = far.seal(&packet(80, [10, 2, 0, 11]));
            assert!(opened(&mut edge, &back).is_ok(), "{now:?}");
        }
        exchange(&mut edge, &mut far, now);
        messages += usize::from(busy);
    }
    let shown = edge.shown().next().unwrap();
    assert_eq!((shown.standing, news(&mut edge)), (Standing::Up, vec![]));
    assert_eq!(shown.counts.handshakes, 6, "at 0, 110, 220, 330, 440 and 550 s");
    assert!(messages > 1000);
}

#[test]
fn a_tunnel_over_which_nothing_goes_is_kept_alive_and_told_lost_when_it_is() {
    let (mut edge, mut far) = up(0);
    let mut kept = vec![];
    for tick in 1..4 * 100 {
        let now = at(f64::from(tick) / 4.0);
        for message in into_the_void(&mut edge, now) {
            assert_eq!((message[0], message.len()), (DATA, 32), "a message without a packet");
            assert!(far.take(&message).1.is_empty());
            kept.push(now);
        }
    }
    assert_eq!(kept, [25.0, 50.0, 75.0].map(at));
    // Its other end is gone: found out when the keys are to be made anew, at the latest.
    let lost = (400..).map(|tick| at(f64::from(tick) / 4.0)).find(|now| {
        into_the_void(&mut edge, *now);
        news(&mut edge).contains(&(false, 0))
    });
    assert!(lost.unwrap() <= at(117.0), "{lost:?}");
}

#[test]
fn silence_after_something_was_sent_is_asked_about_and_a_far_end_that_began_anew_answers() {
    let (mut edge, _) = up(0);
    let mut begun_anew = Far::of(0);
    edge.at(at(1.0));
    let message = sealed(&mut edge, &packet(60, [10, 2, 0, 1]));
    assert!(begun_anew.take(&message).1.is_empty(), "it has no session yet");
    let recovered = (4..200).map(|tick| at(f64::from(tick) / 4.0)).find(|now| {
        exchange(&mut edge, &mut begun_anew, *now);
        edge.shown().next().unwrap().counts.handshakes == 2
    });
    assert!(recovered.unwrap() <= at(12.5), "{recovered:?}");
    assert_eq!(news(&mut edge), [], "it was never told lost");
    let message = sealed(&mut edge, &packet(60, [10, 2, 0, 1]));
    assert_eq!(begun_anew.take(&message).1.len(), 1);
}

#[test]
fn a_far_end_that_begins_is_answered_and_an_old_handshake_of_it_is_not() {
    let (mut edge, mut far) = (edge(0), Far::of(0));
    let first = far.initiate();
    let mut out = vec![0; 2048];
    let Unsealed::Answer(n) = edge.unseal(end(), &first, &mut out) else { panic!("no answer") };
    let (answers, _) = far.take(&out[..n]);
    assert_eq!(answers.len(), 1, "a message without a packet, which confirms the session");
    assert_eq!(edge.unseal(end(), &answers[0], &mut out), Unsealed::Taken);
    assert_eq!(news(&mut edge), [(true, 0)]);
    // Replayed, as by somebody who recorded it; or by a machine whose clock was set back.
    assert_eq!(edge.unseal(end(), &first, &mut out), Unsealed::Lost(DropReason::TunnelReplayed));
    assert_eq!(edge.shown().next().unwrap().counts.old_handshakes, 1);
}

#[test]
fn of_a_flood_of_handshakes_fifty_a_second_are_worked_on_and_five_hundred_asked_to_show_where_they_are() {
    let (mut edge, mut far) = up(0);
    let mut out = vec![0; 2048];
    let (mut worked, mut cookies) = (0, 0);
    for _ in 0..2000 {
        let message = far.initiate();
        match edge.unseal(end(), &message, &mut out) {
            Unsealed::Answer(_) | Unsealed::Lost(DropReason::TunnelReplayed) => worked += 1,
            Unsealed::Refused(n, DropReason::TunnelFlooded) => {
                assert_eq!((n, out[0]), (64, 3), "a cookie");
                cookies += 1;
            }
            Unsealed::Lost(DropReason::TunnelFlooded) => assert_eq!(cookies, 500, "so many cookies, and no more"),
            other => panic!("{other:?}"),
        }
    }
    assert!((40..=50).contains(&worked), "{worked}");
    assert_eq!((cookies, edge.shown().next().unwrap().counts.flooded), (500, 2000 - worked));
    // Without our key nothing of it is even computed.
    let (mut edge, _) = up(0);
    let mut stranger = Tunn::new(
        StaticSecret::from([3; 32]),
        PublicKey::from(Secret::from_bytes(SECRET).public_of(1)),
        None,
        None,
        1,
        Some(Arc::new(RateLimiter::new(&PublicKey::from([5; 32]), 10))),
    );
    let TunnResult::WriteToNetwork(forged) = stranger.format_handshake_initiation(&mut out, true) else { panic!() };
    let forged = forged.to_vec();
    assert_eq!(opened(&mut edge, &forged), Err(Unsealed::Lost(DropReason::TunnelUnopened)));
    assert_eq!(edge.shown().next().unwrap().counts.unopened, 1);
}

#[test]
fn so_many_packets_wait_and_no_more() {
    let mut edge = edge(0);
    let mut out = vec![0; 2048];
    let kept = (0..1000).filter(|_| edge.seal(end(), &packet(1400, [10, 2, 0, 1]), &mut out) == Sealed::Kept).count();
    assert_eq!(kept, peer::WAITING);
}

#[test]
fn a_handshake_that_could_not_be_sent_is_tried_again_soon_but_not_for_ever() {
    let mut edge = edge(0);
    let mut out = vec![0; 2048];
    let mut tries = 0;
    for millis in (0..30_000).step_by(10) {
        edge.at(Time::from_millis(millis));
        while edge.next_message(&mut out).is_some() {
            tries += 1;
            edge.unsent(end());
        }
        if millis == 200 {
            assert!(tries >= 4, "{tries} in the first 200 ms");
        }
    }
    assert!((20..40).contains(&tries), "{tries} in half a minute");
}

#[test]
fn a_change_keeps_a_tunnel_as_it_is_and_a_new_key_makes_it_another() {
    let (mut edge, mut far) = up(0);
    edge.follow(&directory(FAR), at(1.0));
    let message = sealed(&mut edge, &packet(60, [10, 2, 0, 1]));
    assert_eq!(far.take(&message).1.len(), 1, "the session is the same");
    edge.follow(&directory([11; 32]), at(2.0));
    let shown = edge.shown().next().unwrap();
    assert_eq!((shown.standing, shown.counts.handshakes), (Standing::Begins, 0));
    assert_eq!(into_the_void(&mut edge, at(2.0)).len(), 1, "it begins at once");
    let empty = Wanted::single(
        vec!["10.1.9.1:443".parse().unwrap()],
        Policy::default(),
        PoolSpec { backends: vec![MemberSpec::new("web1", "10.2.0.11:443".parse().unwrap())], ..PoolSpec::default() },
    );
    edge.follow(&Directory::next(None, &empty, |_| true).unwrap(), at(3.0));
    assert_eq!(edge.shown().count(), 0);
    assert!(into_the_void(&mut edge, at(4.0)).is_empty());
    assert_eq!(edge.due(), None);
    let _ = Duration::ZERO;
}
