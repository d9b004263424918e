//! All tunnels of one worker.

use super::key::Secret;
use super::peer::{INITIATION, Peer};
use super::shown::{Counts, Shown};
use crate::counters::DropReason;
use crate::engine::{Sealed, Unsealed};
use crate::pack::{Pack, Packer, Unpacker, Unreadable};
use crate::path::tunnel::End;
use crate::time::Time;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::x25519::{PublicKey, StaticSecret};
use core::time::Duration;
use lb::Directory;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

/// Handshakes a second that a worker takes from all its tunnels together; beyond that senders are asked to show that they are where they say. One costs
/// about 0.2 ms.
const HANDSHAKES: u64 = 50;

/// What a message may have beyond the packet in it; and one without a packet, a handshake, is shorter than that.
const LONGER: usize = 256;

/// Cookies a second that a worker sends, so that a flood costs neither us nor whoever it pretends to be from more than that. An honest end that gets none asks again.
const COOKIES: u32 = 500;

/// How often the rate of handshakes begins anew.
const RATE: Duration = Duration::from_secs(1);

/// A tunnel has come up, or was lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct News {
    /// Which: where it ends.
    pub end: End,
    /// It is up.
    pub up: bool,
    /// So many packets waited for it in vain.
    pub lost: u64,
}

/// What a worker has of tunnels whose packets are sealed.
pub struct Edge {
    own: StaticSecret,
    public: [u8; 32],
    limiter: Arc<RateLimiter>,
    /// By where they end.
    peers: Vec<Peer>,
    now: Time,
    due: Time,
    counted: Time,
    /// Handshakes that came, and cookies that were sent, since then.
    came: u64,
    cookies: u32,
    serial: u32,
    padded: Box<[u8]>,
}

impl Edge {
    /// Of a worker; without tunnels yet. `longest` is the largest packet that is sealed, bytes.
    pub fn new(secret: &Secret, worker: usize, longest: usize, now: Time) -> Edge {
        let own = secret.of_worker(worker);
        let public = PublicKey::from(&own);
        Edge {
            own,
            public: public.to_bytes(),
            limiter: Arc::new(RateLimiter::new(&public, HANDSHAKES)),
            peers: Vec::new(),
            now,
            due: Time::MAX,
            counted: now,
            came: 0,
            cookies: 0,
            serial: 0,
            padded: vec![0; longest].into(),
        }
    }

    /// From now on these are the backends; also of those that are leaving packets are still sealed and opened. A tunnel stays what it is as long as its end and key do.
    pub fn follow(&mut self, directory: &Directory, now: Time) {
        let mut wanted: BTreeMap<End, [u8; 32]> = BTreeMap::new();
        let sealed = |leaving: bool| {
            let tunnels = directory.backends().filter(move |b| b.leaving == leaving).filter_map(|b| b.tunnel);
            tunnels.filter_map(|tunnel| Some((End::from(tunnel.endpoint), *tunnel.seals()?)))
        };
        wanted.extend(sealed(true));
        // Where somebody who leaves had another key, the new one holds.
        wanted.extend(sealed(false));
        self.peers.retain(|peer| wanted.get(&peer.end) == Some(&peer.key));
        for (end, key) in wanted {
            if let Err(place) = self.peers.binary_search_by_key(&end, |peer| peer.end) {
                self.serial += 1;
                let peer = Peer::new(&self.own, key, end, self.serial, self.limiter.clone(), now);
                self.peers.insert(place, peer);
                self.due = now;
            }
        }
        self.now = now;
    }

    /// Writes what was counted of each tunnel, for [`Edge::count_on`]. Nothing else of them goes to another process: it makes keys of its own, so that no number is ever used twice
    /// under one key, whichever of the two goes on.
    pub fn pack_counts(&self, to: &mut Packer) {
        (self.peers.len() as u32).pack(to);
        self.peers.iter().for_each(|peer| (SocketAddr::from(peer.end), (peer.key, peer.counts)).pack(to));
    }

    /// Counts on from what another process had counted of those tunnels that are here, too. `edge`: none where there are no tunnels any more.
    pub fn count_on(mut edge: Option<&mut Edge>, from: &mut Unpacker<'_>) -> Result<(), Unreadable> {
        for _ in 0..u32::unpack(from)? {
            let (end, (key, counts)) = <(SocketAddr, ([u8; 32], Counts))>::unpack(from)?;
            let peers = edge.iter_mut().flat_map(|edge| &mut edge.peers);
            peers.filter(|peer| (peer.end, peer.key) == (End::from(end), key)).for_each(|peer| peer.counts += counts);
        }
        Ok(())
    }

    /// No message is longer, bytes.
    pub fn longest_message(&self) -> usize {
        self.padded.len() + LONGER
    }

    /// It is that late now.
    #[inline]
    pub fn at(&mut self, now: Time) {
        self.now = now;
    }

    /// When [`Edge::next_message`] has something to do; none: there is no tunnel.
    #[inline]
    pub fn due(&self) -> Option<Time> {
        (self.due != Time::MAX).then_some(self.due)
    }

    fn peer(&mut self, end: End) -> Option<&mut Peer> {
        let place = self.peers.binary_search_by_key(&end, |peer| peer.end).ok()?;
        self.peers.get_mut(place)
    }

    /// See [`Effects::seal`](crate::engine::Effects::seal).
    pub fn seal(&mut self, end: End, packet: &[u8], out: &mut [u8]) -> Sealed {
        let Ok(place) = self.peers.binary_search_by_key(&end, |peer| peer.end) else {
            return Sealed::Lost(DropReason::TunnelNotUp);
        };
        self.peers[place].seal(packet, out, &mut self.padded, self.now)
    }

    /// See [`Effects::unseal`](crate::engine::Effects::unseal).
    pub fn unseal(&mut self, end: End, message: &[u8], out: &mut [u8]) -> Unsealed {
        let (now, spent) = (self.now, self.cookies >= COOKIES);
        let begins = message.len() == INITIATION && message.first() == Some(&1);
        self.came += u64::from(begins);
        let flooded = spent && self.came > HANDSHAKES;
        let Some(peer) = self.peer(end) else { return Unsealed::Lost(DropReason::TunnelUnknown) };
        // Without a cookie it would be asked to fetch one: known by a glance, before anything is computed.
        if begins && flooded && message.ends_with(&[0; 16]) {
            peer.counts.flooded += 1;
            return Unsealed::Lost(DropReason::TunnelFlooded);
        }
        let mut what = peer.unseal(message, out, now);
        let due = peer.due;
        if let Unsealed::Refused(_, why) = what {
            self.cookies = self.cookies.saturating_add(1);
            if spent {
                what = Unsealed::Lost(why);
            }
        }
        self.due = self.due.min(due);
        what
    }

    /// The next message of tunnels' own that is due, and where it goes. Call until there is none.
    pub fn next_message(&mut self, out: &mut [u8]) -> Option<(End, usize)> {
        let now = self.now;
        if now < self.due {
            return None;
        }
        if now.since(self.counted) >= RATE {
            self.counted = now;
            (self.came, self.cookies) = (0, 0);
            self.limiter.reset_count();
        }
        let Edge { peers, padded, .. } = self;
        for peer in peers.iter_mut().filter(|peer| peer.due <= now) {
            if let Some(n) = peer.next_message(out, padded, now) {
                return Some((peer.end, n));
            }
        }
        self.due = peers.iter().map(|peer| peer.due).min().unwrap_or(Time::MAX);
        None
    }

    /// The message to there could not be sent.
    pub fn unsent(&mut self, end: End) {
        let now = self.now;
        if let Some(peer) = self.peer(end) {
            peer.unsent(now);
        }
    }

    /// What has changed since this was asked last; call until there is nothing.
    pub fn next_news(&mut self) -> Option<News> {
        self.peers.iter_mut().find_map(|peer| {
            let (up, lost) = peer.take_news()?;
            Some(News { end: peer.end, up, lost })
        })
    }

    /// All tunnels.
    pub fn shown(&self) -> impl Iterator<Item = Shown> + '_ {
        self.peers.iter().map(|peer| Shown {
            endpoint: peer.end.into(),
            public_key: peer.key,
            own_key: self.public,
            standing: peer.standing,
            since: peer.since,
            handshake: peer.handshake,
            heard: peer.heard,
            waiting: peer.waiting(),
            counts: peer.counts,
        })
    }
}
