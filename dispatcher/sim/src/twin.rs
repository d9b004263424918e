//! An engine, and beside it another one whose frames all climb the ladder: whatever is done to the one is done to the other, and what comes of it must be
//! the same, byte for byte and count for count.
//!
//! So every scene of the simulated world, every segment of the bench and every input of the fuzz target shows that a frame that goes straight goes where
//! the ladder would have led it.

use crate::tunnels::{self, FarEnds};
use core::ops::Deref;
use dispatcher::engine::{
    Config, ConfigError, ConnectionRecord, Effects, Engine, PortId, Revision, Sealed, Unsealed, Verdict,
};
use dispatcher::io::HEADROOM;
use dispatcher::path::tunnel::End;
use dispatcher::time::Time;
use dispatcher::wire::Frame;
use dispatcher::wire::packet::Parsed;
use std::collections::VecDeque;
use std::sync::Arc;

/// See the module's description. All that only looks is asked of the first one.
pub struct Twin {
    engine: Engine,
    ladder: Option<Box<Engine>>,
    /// Of the servers behind tunnels.
    far: Option<FarEnds>,
    /// Another process goes on with the first one.
    moved: bool,
    /// Frames about neighbours, of each: what follows is counted without them.
    about_neighbours: [u64; 2],
}

/// Says where addresses are, or asks: what a process does when it begins, whoever has known it before.
fn is_about_neighbours(frame: &[u8]) -> bool {
    const NEIGHBOUR_MESSAGES: core::ops::RangeInclusive<u8> = 133..=137;
    match frame.get(12..14) {
        Some([0x08, 0x06]) => true,
        Some([0x86, 0xdd]) => {
            frame.get(20) == Some(&58) && frame.get(54).is_some_and(|kind| NEIGHBOUR_MESSAGES.contains(kind))
        }
        _ => false,
    }
}

/// Unwraps what goes to servers behind tunnels.
struct Unwrapping<'a> {
    fx: &'a mut dyn Effects,
    far: &'a FarEnds,
}

impl Effects for Unwrapping<'_> {
    fn transmit(&mut self, port: PortId, frame: &[u8]) -> bool {
        match self.far.unwrapped(frame) {
            Some(inner) => self.fx.transmit(port, &inner),
            None => self.fx.transmit(port, frame),
        }
    }

    fn seal(&mut self, _: End, packet: &[u8], out: &mut [u8]) -> Sealed {
        tunnels::seal(packet, out)
    }

    fn unseal(&mut self, _: End, message: &[u8], out: &mut [u8]) -> Unsealed {
        tunnels::unseal(message, out)
    }

    fn connection_ended(&mut self, record: &ConnectionRecord<'_>) {
        self.fx.connection_ended(record);
    }
}

/// Puts other bytes into a frame, of which its buffer has room.
fn replace(frame: &mut Frame<'_>, bytes: &[u8]) {
    let room = frame.len() + frame.room_behind();
    if bytes.len() > room {
        assert!(frame.push_front(bytes.len() - room), "no room for {} bytes", bytes.len());
    }
    assert!(frame.set_len(bytes.len()));
    frame.bytes_mut().copy_from_slice(bytes);
}

/// What an engine did to the world.
#[derive(PartialEq, Eq, Debug)]
enum Deed {
    Sent(PortId, Vec<u8>, bool),
    Ended(String),
}

/// Notes what is done.
struct Noting<'a> {
    fx: &'a mut dyn Effects,
    deeds: VecDeque<Deed>,
}

impl Effects for Noting<'_> {
    fn transmit(&mut self, port: PortId, frame: &[u8]) -> bool {
        let sent = self.fx.transmit(port, frame);
        self.deeds.push_back(Deed::Sent(port, frame.to_vec(), sent));
        sent
    }

    fn seal(&mut self, end: End, packet: &[u8], out: &mut [u8]) -> Sealed {
        self.fx.seal(end, packet, out)
    }

    fn unseal(&mut self, end: End, message: &[u8], out: &mut [u8]) -> Unsealed {
        self.fx.unseal(end, message, out)
    }

    fn connection_ended(&mut self, record: &ConnectionRecord<'_>) {
        self.fx.connection_ended(record);
        self.deeds.push_back(Deed::Ended(format!("{record:?}")));
    }
}

/// Compares what is done with what was.
struct Comparing {
    deeds: VecDeque<Deed>,
    /// Not what is said of neighbours, of which there was so much.
    moved: bool,
    about_neighbours: [u64; 2],
}

impl Comparing {
    fn with(noting: Noting<'_>, moved: bool) -> Comparing {
        let mut deeds = noting.deeds;
        let all = deeds.len();
        deeds.retain(|deed| !moved || !matches!(deed, Deed::Sent(_, frame, _) if is_about_neighbours(frame)));
        let passed_over = (all - deeds.len()) as u64;
        Comparing { deeds, moved, about_neighbours: [passed_over, 0] }
    }
}

impl Effects for Comparing {
    fn transmit(&mut self, port: PortId, frame: &[u8]) -> bool {
        if self.moved && is_about_neighbours(frame) {
            self.about_neighbours[1] += 1;
            return true;
        }
        // What is due at one time is done in any order.
        let same = |deed: &Deed| matches!(deed, Deed::Sent(p, f, _) if *p == port && f == frame);
        let at = if self.moved { self.deeds.iter().position(same).unwrap_or(0) } else { 0 };
        match self.deeds.remove(at) {
            Some(Deed::Sent(p, f, sent)) => {
                assert!(p == port && f == frame, "sent to {p:?}, by the ladder to {port:?}:\n{f:02x?}\n{frame:02x?}");
                sent
            }
            other => panic!("the ladder sends {frame:02x?} to {port:?}, not {other:?}"),
        }
    }

    fn seal(&mut self, _: End, packet: &[u8], out: &mut [u8]) -> Sealed {
        tunnels::seal(packet, out)
    }

    fn unseal(&mut self, _: End, message: &[u8], out: &mut [u8]) -> Unsealed {
        tunnels::unseal(message, out)
    }

    fn connection_ended(&mut self, record: &ConnectionRecord<'_>) {
        let ended = Deed::Ended(format!("{record:?}"));
        let at = if self.moved { self.deeds.iter().position(|deed| *deed == ended).unwrap_or(0) } else { 0 };
        assert_eq!(self.deeds.remove(at), Some(ended));
    }
}

impl Twin {
    /// Two engines of one configuration and secret.
    ///
    /// # Errors
    /// As those of [`Engine::new`].
    pub fn new(config: Config, secret: [u8; 32], now: Time) -> Result<Twin, ConfigError> {
        let ladder = Some(Box::new(Engine::new(config.clone(), secret, now)?));
        let far = FarEnds::of(&config);
        Ok(Twin { engine: Engine::new(config, secret, now)?, ladder, far, moved: false, about_neighbours: [0; 2] })
    }

    /// The first one, to be asked what changes nothing.
    pub(crate) fn look_at(&mut self, look: impl FnOnce(&mut Engine)) {
        look(&mut self.engine);
    }

    /// Puts another engine in the place of the first one.
    pub(crate) fn exchange(&mut self, next: impl FnOnce(&mut Engine) -> Engine) {
        self.engine = next(&mut self.engine);
        self.moved = true;
    }

    /// Without the other one from now on.
    pub fn part(&mut self) {
        self.ladder = None;
    }

    /// The first one.
    pub fn into_engine(self) -> Engine {
        self.engine
    }

    /// Both have learned the same sessions.
    pub(crate) fn compare_rows(&mut self, now: Time) {
        let Some(ladder) = &mut self.ladder else { return };
        let [mine, its] = [&mut self.engine, ladder].map(|engine| crate::upgrade::rows(&engine.pack(Time::ZERO, now)));
        assert!(mine == its, "{} rows of sessions, of the ladder {}, or others", mine.len(), its.len());
    }

    /// They are still compared.
    pub fn is_compared(&self) -> bool {
        self.ladder.is_some()
    }

    /// See [`Engine::handle`].
    pub fn handle(&mut self, port: PortId, frame: &mut Frame<'_>, now: Time, fx: &mut dyn Effects) -> Verdict {
        let Some(far) = self.far.take() else { return self.handle_plain(port, frame, now, fx) };
        let mut fx = Unwrapping { fx, far: &far };
        let bytes = far.wrapped(frame.bytes()).unwrap_or_else(|| frame.bytes().to_vec());
        let mut buffer = [&[0; HEADROOM][..], &bytes, &[0; 64]].concat();
        let mut passing = Frame::new(&mut buffer, HEADROOM, bytes.len()).with(frame.offload());
        let verdict = self.handle_plain(port, &mut passing, now, &mut fx);
        match far.unwrapped(passing.bytes()) {
            Some(inner) => replace(frame, &inner),
            None => replace(frame, passing.bytes()),
        }
        match passing.offload() {
            offload if offload.is_finished() => {
                frame.is_whole_now();
                if offload.is_alone() {
                    frame.was_within();
                }
            }
            offload => _ = offload.segment() == 0 || frame.cut_at_most(offload.segment()),
        }
        self.far = Some(far);
        verdict
    }

    fn handle_plain(&mut self, port: PortId, frame: &mut Frame<'_>, now: Time, fx: &mut dyn Effects) -> Verdict {
        let Some(ladder) = &mut self.ladder else { return self.engine.handle(port, frame, now, fx) };
        let (head, len) = (frame.head(), frame.len());
        let mut buffer = vec![0; head + len + frame.room_behind()];
        buffer[head..head + len].copy_from_slice(frame.bytes());
        let mut copy = Frame::new(&mut buffer, head, len).with(frame.offload());
        let mut noting = Noting { fx, deeds: VecDeque::new() };
        let verdict = self.engine.handle(port, frame, now, &mut noting);
        let mut comparing = Comparing::with(noting, self.moved);
        let headers = Parsed::read(copy.bytes());
        let expected = ladder.handle_parsed(port, &headers, &mut copy, now, &mut comparing);
        assert_eq!(verdict, expected, "the ladder's is the right one");
        if matches!(verdict, Verdict::Forward(_) | Verdict::Reply(_)) {
            assert_eq!(frame.offload(), copy.offload(), "what is left to its sender");
            let (is, should_be) = (frame.bytes(), copy.bytes());
            assert_eq!(is, should_be, "the ladder's is the right one: {is:02x?}\n{should_be:02x?}");
        }
        self.compare(comparing);
        verdict
    }

    /// See [`Engine::poll`].
    pub fn poll(&mut self, now: Time, fx: &mut dyn Effects) {
        self.unwrapping(fx, |twin, fx| twin.both(fx, |engine, fx| engine.poll(now, fx)));
    }

    /// See [`Engine::shutdown`].
    pub fn shutdown(&mut self, budget: usize, now: Time, fx: &mut dyn Effects) -> bool {
        self.unwrapping(fx, |twin, fx| twin.both(fx, |engine, fx| engine.shutdown(budget, now, fx)))
    }

    /// See [`Engine::apply`]. They part then: the counts of connections by backend are of those who share a directory, and two would count
    /// everything twice.
    pub fn apply(&mut self, revision: &Arc<Revision>, now: Time) {
        self.part();
        self.engine.apply(revision, now);
    }

    /// See [`Engine::use_local_ports`].
    pub fn use_local_ports(&mut self, count: u16) {
        self.engine.use_local_ports(count);
        self.ladder.iter_mut().for_each(|ladder| ladder.use_local_ports(count));
    }

    fn unwrapping<T>(&mut self, fx: &mut dyn Effects, work: impl FnOnce(&mut Twin, &mut dyn Effects) -> T) -> T {
        let Some(far) = self.far.take() else { return work(self, fx) };
        let done = work(self, &mut Unwrapping { fx, far: &far });
        self.far = Some(far);
        done
    }

    fn both<T: PartialEq + core::fmt::Debug>(
        &mut self,
        fx: &mut dyn Effects,
        mut work: impl FnMut(&mut Engine, &mut dyn Effects) -> T,
    ) -> T {
        let Some(ladder) = &mut self.ladder else { return work(&mut self.engine, fx) };
        let mut noting = Noting { fx, deeds: VecDeque::new() };
        let done = work(&mut self.engine, &mut noting);
        let mut comparing = Comparing::with(noting, self.moved);
        assert_eq!(done, work(ladder, &mut comparing));
        self.compare(comparing);
        done
    }

    fn compare(&mut self, deeds: Comparing) {
        let Some(ladder) = &self.ladder else { return };
        self.about_neighbours.iter_mut().zip(deeds.about_neighbours).for_each(|(sum, more)| *sum += more);
        let counters = |engine: &Engine, about_neighbours: u64| {
            let mut counters = engine.counters().clone();
            counters.frames_out -= about_neighbours;
            counters.made -= about_neighbours;
            counters
        };
        assert!(deeds.deeds.is_empty(), "not done by the ladder: {:?}", deeds.deeds);
        let [mine, its] = self.about_neighbours;
        assert_eq!(counters(&self.engine, mine), counters(ladder, its));
        assert_eq!(self.engine.flows(), ladder.flows());
        if !self.moved {
            assert_eq!(self.engine.next_deadline(), ladder.next_deadline());
        }
    }
}

impl Deref for Twin {
    type Target = Engine;
    fn deref(&self) -> &Engine {
        &self.engine
    }
}
