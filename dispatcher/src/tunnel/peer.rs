//! One tunnel of one worker: sessions, and when to do something about them.
//!
//! Times of the protocol ("WireGuard: Next Generation Kernel Network Tunnel", section 6) are kept by boringtun; these are ours, for a tunnel that is to be there
//! before somebody needs it, and whose loss is to be known:
//!
//! * A handshake is begun at the start, before a session is too old, and when what was sent is answered by nothing; it is repeated until it is answered, for ever.
//! * Without anything else to say a message without a packet says that we are there.
//! * When a handshake has been left unanswered for [`LOST`], and nothing else was heard, the tunnel is down. Whatever its keys open brings it back.

use super::shown::{Counts, Standing};
use crate::counters::DropReason;
use crate::engine::{Sealed, Unsealed};
use crate::path::tunnel::{End, PADDING};
use crate::time::Time;
use boringtun::noise::errors::WireGuardError;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519::{PublicKey, StaticSecret};
use core::time::Duration;
use std::collections::VecDeque;
use std::sync::Arc;

/// How often a tunnel is looked at.
pub(super) const TICK: Duration = Duration::from_millis(250);
/// Between repetitions of a handshake (`REKEY_TIMEOUT`), and up to a third of a second more.
const REPEAT: Duration = Duration::from_secs(5);
/// The first repetitions come sooner: somebody waits, or is to hear that the tunnel is lost. A receiver takes 50 a second.
const SOONER: [Duration; 3] = [Duration::from_millis(500), Duration::from_secs(1), Duration::from_secs(2)];
const JITTER_MILLIS: u64 = 333;
/// After one that could not be sent: the next hop's address is being asked for.
const SOON: Duration = Duration::from_millis(50);
/// For so many in a row.
const SOON_TRIES: u8 = 20;
/// A session's age at which the next is begun, so that it is there before `REKEY_AFTER_TIME` (120 s): also where nobody sends.
const REKEY: Duration = Duration::from_secs(110);
/// The same where the other end began the last: it does so itself, as a rule.
const REKEY_OTHERS: Duration = Duration::from_secs(135);
/// Silence after something was sent, after which a handshake asks whether the other end is there: it answers within `KEEPALIVE_TIMEOUT` (10 s) by a message without a packet.
const SILENCE: Duration = Duration::from_secs(11);
/// A handshake unanswered for so long, three repetitions included: the tunnel is lost.
pub const LOST: Duration = Duration::from_secs(6);
/// Without anything else to say we say that we are there.
pub const KEEPALIVE: Duration = Duration::from_secs(25);
/// Packets that wait for a tunnel to come up. Further ones are lost.
pub const WAITING: usize = 64;
/// A handshake's first message.
pub(super) const INITIATION: usize = 148;
/// A message without a packet: the shortest that carries data.
const LEAST_DATA: usize = 32;

/// Kinds of messages, by their first byte.
const TYPE_INITIATION: u8 = 1;
const TYPE_RESPONSE: u8 = 2;
const TYPE_COOKIE: u8 = 3;
const TYPE_DATA: u8 = 4;

/// A tunnel.
pub(super) struct Peer {
    pub end: End,
    pub key: [u8; 32],
    tunn: Tunn,
    /// Something can be sealed.
    session: bool,
    pub standing: Standing,
    pub since: Time,
    /// When the latest handshake led to a session, and whether we began it.
    pub handshake: Option<Time>,
    ours: bool,
    pub heard: Option<Time>,
    said: Time,
    /// When the first packet was sent that nothing was heard after.
    unanswered: Option<Time>,
    /// When the handshake was begun that is under way.
    begun: Option<Time>,
    /// When it is repeated, and how often it was.
    again: Time,
    repeated: u8,
    /// When it is to be looked at.
    pub due: Time,
    /// When boringtun is to be asked.
    tick: Time,
    jitter: Duration,
    /// Messages in a row that could not be sent.
    failed: u8,
    waiting: VecDeque<Box<[u8]>>,
    /// Standing has changed, and nobody has been told.
    news: bool,
    lost: u64,
    pub counts: Counts,
}

impl Peer {
    /// One of which nothing is known yet. `number` tells it from the others of its worker.
    pub fn new(own: &StaticSecret, key: [u8; 32], end: End, number: u32, limiter: Arc<RateLimiter>, now: Time) -> Peer {
        let tunn = Tunn::new(own.clone(), PublicKey::from(key), None, None, number & 0x00ff_ffff, Some(limiter));
        let jitter = u64::from(number.wrapping_mul(0x9e37_79b1) >> 16) % JITTER_MILLIS;
        Peer {
            end,
            key,
            tunn,
            session: false,
            standing: Standing::Begins,
            since: now,
            handshake: None,
            ours: true,
            heard: None,
            said: now,
            unanswered: None,
            begun: None,
            again: now,
            repeated: 0,
            due: now,
            tick: now,
            jitter: Duration::from_millis(jitter),
            failed: 0,
            waiting: VecDeque::new(),
            news: false,
            lost: 0,
            counts: Counts::default(),
        }
    }

    /// Packets that wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Whether it is up, if that is news; and how many packets waited in vain.
    pub fn take_news(&mut self) -> Option<(bool, u64)> {
        core::mem::take(&mut self.news).then(|| (self.standing == Standing::Up, core::mem::take(&mut self.lost)))
    }

    fn stand(&mut self, standing: Standing, now: Time) {
        if self.standing != standing {
            (self.standing, self.since, self.news) = (standing, now, true);
            self.due = now;
        }
    }

    /// What its keys open has come.
    fn heard(&mut self, now: Time) {
        (self.heard, self.unanswered, self.failed) = (Some(now), None, 0);
        if self.session {
            self.stand(Standing::Up, now);
        }
    }

    /// A handshake has led to a session.
    fn established(&mut self, ours: bool, now: Time) {
        (self.handshake, self.ours, self.begun) = (Some(now), ours, None);
        self.counts.handshakes += 1;
        self.look_for_session();
        if !self.waiting.is_empty() {
            self.due = now;
        }
    }

    fn look_for_session(&mut self) {
        self.session = self.tunn.time_since_last_handshake().is_some();
    }

    fn note_sent(&mut self, message: usize, now: Time) {
        self.counts.messages_out += 1;
        self.counts.bytes_out += message as u64;
        self.said = now;
    }

    /// Seals a packet. `padded` is room to pad it in.
    pub fn seal(&mut self, packet: &[u8], out: &mut [u8], padded: &mut [u8], now: Time) -> Sealed {
        if self.standing == Standing::Down || !self.session {
            return self.keep(packet);
        }
        match self.seal_now(packet, out, padded, now) {
            Some(n) => Sealed::Message(n),
            None => Sealed::Lost(DropReason::TunnelNotUp),
        }
    }

    fn seal_now(&mut self, packet: &[u8], out: &mut [u8], padded: &mut [u8], now: Time) -> Option<usize> {
        let whole = packet.len().next_multiple_of(PADDING);
        // As the protocol has it; a packet for whose padding there is no room goes as it is.
        let packet = match padded.get_mut(..whole) {
            Some(padded) if whole > packet.len() && whole + LEAST_DATA <= out.len() => {
                padded[..packet.len()].copy_from_slice(packet);
                padded[packet.len()..].fill(0);
                &*padded
            }
            _ => packet,
        };
        if packet.len() + LEAST_DATA > out.len() || out.len() < INITIATION {
            return None;
        }
        let n = match self.tunn.encapsulate(packet, out) {
            TunnResult::WriteToNetwork(message) => message.len(),
            _ => return None,
        };
        self.note_sent(n, now);
        if !packet.is_empty() {
            self.unanswered.get_or_insert(now);
        }
        Some(n)
    }

    fn keep(&mut self, packet: &[u8]) -> Sealed {
        if self.standing == Standing::Down || self.waiting.len() >= WAITING {
            return Sealed::Lost(DropReason::TunnelNotUp);
        }
        self.waiting.push_back(packet.into());
        Sealed::Kept
    }

    /// Opens a message into `out`, which has room for it and for an answer.
    pub fn unseal(&mut self, message: &[u8], out: &mut [u8], now: Time) -> Unsealed {
        let Some(&kind) = message.first() else { return Unsealed::Lost(DropReason::TunnelMalformed) };
        if message.len() < LEAST_DATA || out.len() < message.len().max(INITIATION) {
            return Unsealed::Lost(DropReason::TunnelMalformed);
        }
        let from = self.end.addr.ip();
        let result = match self.tunn.decapsulate(Some(from), message, out) {
            TunnResult::Done => Ok(Unsealed::Taken),
            TunnResult::WriteToNetwork(answer) if answer.first() == Some(&TYPE_COOKIE) => {
                self.counts.flooded += 1;
                return Unsealed::Refused(answer.len(), DropReason::TunnelFlooded);
            }
            TunnResult::WriteToNetwork(answer) => Ok(Unsealed::Answer(answer.len())),
            TunnResult::WriteToTunnelV4(packet, _) => Ok(Unsealed::Packet(packet.len())),
            TunnResult::WriteToTunnelV6(packet, _) => Ok(Unsealed::Packet(packet.len())),
            TunnResult::Err(why) => Err(why),
        };
        match result {
            Ok(what) => {
                self.counts.messages_in += 1;
                self.counts.bytes_in += message.len() as u64;
                match kind {
                    TYPE_INITIATION => self.established(false, now),
                    TYPE_RESPONSE => self.established(true, now),
                    // A cookie says nothing of the other end but that it is busy.
                    TYPE_COOKIE => return what,
                    // The first under a session that the other end began is what makes it ours, too.
                    TYPE_DATA if !self.session => self.look_for_session(),
                    _ => {}
                }
                self.heard(now);
                if let Unsealed::Answer(n) = what {
                    self.note_sent(n, now);
                }
                what
            }
            Err(why) => Unsealed::Lost(self.unopened(why)),
        }
    }

    fn unopened(&mut self, why: WireGuardError) -> DropReason {
        match why {
            WireGuardError::InvalidCounter | WireGuardError::DuplicateCounter => {
                self.counts.replayed += 1;
                DropReason::TunnelReplayed
            }
            WireGuardError::WrongTai64nTimestamp => {
                self.counts.old_handshakes += 1;
                DropReason::TunnelReplayed
            }
            WireGuardError::UnderLoad => {
                self.counts.flooded += 1;
                DropReason::TunnelFlooded
            }
            WireGuardError::InvalidPacket
            | WireGuardError::IncorrectPacketLength
            | WireGuardError::WrongPacketType
            | WireGuardError::DestinationBufferTooSmall => DropReason::TunnelMalformed,
            _ => {
                self.counts.unopened += 1;
                DropReason::TunnelUnopened
            }
        }
    }

    /// The next message of its own, if one is due; else it says when to be asked again.
    pub fn next_message(&mut self, out: &mut [u8], padded: &mut [u8], now: Time) -> Option<usize> {
        if out.len() < INITIATION {
            return None;
        }
        if now >= self.tick {
            self.tick = now + TICK;
            let said = match self.tunn.update_timers(out) {
                TunnResult::WriteToNetwork(message) => Some((message.len(), message.first() == Some(&TYPE_INITIATION))),
                // Where it has given up, and forgotten its sessions, a handshake is begun anew below: we never do.
                _ => None,
            };
            self.look_for_session();
            if let Some((n, initiation)) = said {
                if initiation {
                    self.note_begun(now);
                }
                self.note_sent(n, now);
                return Some(n);
            }
        }
        self.judge(now);
        if self.session && self.standing == Standing::Up {
            while let Some(packet) = self.waiting.pop_front() {
                if let Some(n) = self.seal_now(&packet, out, padded, now) {
                    return Some(n);
                }
                self.lost += 1;
            }
        }
        if self.wants_handshake(now)
            && let TunnResult::WriteToNetwork(message) = self.tunn.format_handshake_initiation(out, true)
        {
            let n = message.len();
            self.note_begun(now);
            self.note_sent(n, now);
            return Some(n);
        }
        if self.session
            && now.since(self.said) >= KEEPALIVE
            && let Some(n) = self.seal_now(&[], out, padded, now)
        {
            return Some(n);
        }
        self.due = if self.begun.is_some() { self.tick.min(self.again) } else { self.tick };
        None
    }

    fn note_begun(&mut self, now: Time) {
        if self.begun.is_none() {
            (self.begun, self.repeated) = (Some(now), 0);
        }
        let wait = SOONER.get(usize::from(self.repeated)).copied().unwrap_or(REPEAT + self.jitter);
        self.repeated = self.repeated.saturating_add(1);
        self.again = now + wait;
        self.counts.initiations += 1;
    }

    fn wants_handshake(&self, now: Time) -> bool {
        if self.begun.is_some() {
            return now >= self.again;
        }
        let Some(handshake) = self.handshake.filter(|_| self.session) else { return true };
        let age = if self.ours { REKEY } else { REKEY_OTHERS };
        now.since(handshake) >= age || self.unanswered.is_some_and(|at| now.since(at) >= SILENCE)
    }

    /// Whether it is lost.
    fn judge(&mut self, now: Time) {
        let unanswered = |begun| now.since(begun) >= LOST && self.heard.is_none_or(|heard| heard < begun);
        if self.begun.is_some_and(unanswered) {
            self.stand(Standing::Down, now);
            self.lost += self.waiting.len() as u64;
            self.news |= !self.waiting.is_empty();
            self.waiting.clear();
        }
    }

    /// The last message that it gave was not sent. A handshake is tried again soon; all else is repeated by who sent what was in it.
    pub fn unsent(&mut self, now: Time) {
        self.failed = self.failed.saturating_add(1);
        if self.begun.is_some() && self.failed <= SOON_TRIES {
            self.again = now + SOON;
            self.repeated = self.repeated.saturating_sub(1);
            self.due = self.due.min(self.again);
        }
    }
}
