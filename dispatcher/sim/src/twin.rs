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
struct Comparing(VecDeque<Deed>);

impl Effects for Comparing {
    fn transmit(&mut self, port: PortId, frame: &[u8]) -> bool {
        match self.0.pop_front() {
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
        assert_eq!(self.0.pop_front(), Some(Deed::Ended(format!("{record:?}"))));
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
        Ok(Twin { engine: Engine::new(config, secret, now)?, ladder, far })
    }

    /// The first one, to be asked what changes nothing.
    pub(crate) fn look_at(&mut self, look: impl FnOnce(&mut Engine)) {
        look(&mut self.engine);
    }

    /// Puts another engine in the place of each.
    pub(crate) fn exchange(&mut self, mut next: impl FnMut(&mut Engine) -> Engine) {
        self.engine = next(&mut self.engine);
        if let Some(ladder) = &mut self.ladder {
            **ladder = next(ladder);
        }
    }

    /// Without the other one from now on.
    pub fn part(&mut self) {
        self.ladder = None;
    }

    /// The first one.
    pub fn into_engine(self) -> Engine {
        self.engine
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
            offload if offload.is_finished() => frame.is_whole_now(),
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
        let mut comparing = Comparing(noting.deeds);
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
        let mut comparing = Comparing(noting.deeds);
        assert_eq!(done, work(ladder, &mut comparing));
        self.compare(comparing);
        done
    }

    fn compare(&self, deeds: Comparing) {
        let Some(ladder) = &self.ladder else { return };
        assert!(deeds.0.is_empty(), "not done by the ladder: {:?}", deeds.0);
        assert_eq!(self.engine.counters(), ladder.counters());
        assert_eq!(self.engine.flows(), ladder.flows());
        assert_eq!(self.engine.next_deadline(), ladder.next_deadline());
    }
}

impl Deref for Twin {
    type Target = Engine;
    fn deref(&self) -> &Engine {
        &self.engine
    }
}
