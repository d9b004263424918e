//! A bounded pool of places in which something is read along with a flow: who has one, since when, and whose goes when one is wanted.
//!
//! A peer that falls silent keeps its place for a time only, and nobody keeps one for longer than another. **And when full?** A place of the client that holds
//! most gives way, and of these the oldest: whoever makes thousands of flows stops being read along himself, not others.

use super::FlowId;
use crate::pack::{Pack, Packer, Unpacker, Unreadable};
use crate::time::Time;
use core::time::Duration;

/// Places that [`Watches::overdue`] looks at in one call.
const LOOKS: usize = 256;
/// Places that [`Watches::next_to_yield`] looks at.
const GIVERS: usize = 64;
/// Clients are told apart by so many bits.
const TAGS: usize = 1 << 16;

/// A place in the pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WatchId(u32);

/// How long a place may be kept.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Since the other end last said something.
    pub quiet: Duration,
    /// In all.
    pub longest: Duration,
}

/// Who has a place, and since when. Apart from what is read, which is large: it is walked.
#[derive(Clone, Copy, Debug)]
struct Holder {
    flow: FlowId,
    /// Who the client is, see [`lb::Sighting::client`].
    client: u64,
    opened: Time,
    heard: Time,
}

impl Holder {
    /// By what places are counted.
    fn tag(&self) -> usize {
        usize::from(self.client as u16)
    }

    fn is_overdue(&self, patience: &Patience, now: Time) -> bool {
        now.since(self.heard) >= patience.quiet || now.since(self.opened) >= patience.longest
    }
}

/// All places.
#[derive(Debug)]
pub struct Watches<T> {
    /// What is read is large: it is made when its place is first used, and begun anew where it lies. Of meaning while the place has a holder.
    places: Box<[Option<T>]>,
    holders: Box<[Option<Holder>]>,
    free: Vec<u32>,
    /// Places held, by client.
    held: Box<[u32]>,
    patience: Patience,
    /// The place to be looked at next for one that is overdue.
    hand: usize,
    /// The first place to be looked at when one must give way.
    giver: usize,
}

impl<T> Watches<T> {
    /// `count` places, all memory taken now; none takes none.
    pub fn new(count: usize, patience: Patience) -> Watches<T> {
        let count = count.min(u32::MAX as usize) as u32;
        Watches {
            places: (0..count).map(|_| None).collect(),
            holders: vec![None; count as usize].into_boxed_slice(),
            free: (0..count).rev().collect(),
            held: vec![0; if count == 0 { 0 } else { TAGS }].into_boxed_slice(),
            patience,
            hand: 0,
            giver: 0,
        }
    }

    /// Bytes that `count` places take.
    pub const fn bytes_for(count: usize) -> usize {
        let place = size_of::<Option<T>>() + size_of::<Option<Holder>>() + size_of::<u32>();
        count * place + TAGS * size_of::<u32>()
    }

    /// Whose place has to be closed before [`Watches::open`] has one: of `GIVERS` places the oldest of the client that holds most, and
    /// one that is overdue before any other. `None` while there is room.
    ///
    /// Some are looked at, not all: a new connection must not cost a walk over thousands. They are spread evenly over all, other ones each
    /// time, so that whoever holds many is among them.
    pub fn next_to_yield(&mut self, now: Time) -> Option<FlowId> {
        if !self.free.is_empty() || self.holders.is_empty() {
            return None;
        }
        let (first, n) = (self.giver, self.holders.len());
        self.giver = (first + 1) % n;
        let apart = (n / GIVERS).max(1);
        let rank = |h: &&Holder| (!h.is_overdue(&self.patience, now), core::cmp::Reverse(self.held[h.tag()]), h.opened);
        let looked_at = (0..GIVERS.min(n)).filter_map(|i| self.holders[(first + i * apart) % n].as_ref());
        looked_at.min_by_key(rank).map(|h| h.flow)
    }

    /// A place for `flow`, whose client is `client` (see [`lb::Sighting::client`]); what was read there before, if anything was, is to be begun anew. `None` when all
    /// places are taken.
    pub fn open(&mut self, flow: FlowId, client: u64, now: Time) -> Option<(WatchId, &mut Option<T>)> {
        let i = self.free.pop()?;
        let holder = Holder { flow, client, opened: now, heard: now };
        self.held[holder.tag()] += 1;
        self.holders[i as usize] = Some(holder);
        Some((WatchId(i), &mut self.places[i as usize]))
    }

    /// Writes whose a place is, since when, and, by `pack`, what is read there, for [`Watches::take_over`]. Nothing of one that is free.
    pub fn pack(&self, id: WatchId, to: &mut Packer, pack: impl FnOnce(&T, &mut Packer)) {
        let (Some(Some(holder)), Some(Some(reading))) =
            (self.holders.get(id.0 as usize), self.places.get(id.0 as usize))
        else {
            return;
        };
        let Holder { flow: _, client, opened, heard } = *holder;
        (client, (opened, heard)).pack(to);
        pack(reading, to);
    }

    /// As [`Watches::open`], for one that had a place in another process: `unpack` reads what was read there. None when there is no place for it, or no buffer.
    pub fn take_over(
        &mut self,
        flow: FlowId,
        from: &mut Unpacker<'_>,
        unpack: impl FnOnce(&mut Option<T>, &mut Unpacker<'_>) -> Result<(), Unreadable>,
    ) -> Result<Option<WatchId>, Unreadable> {
        let (client, (opened, heard)) = Pack::unpack(from)?;
        let Some((id, _)) = self.open(flow, client, opened) else { return Ok(None) };
        self.holders[id.0 as usize] = Some(Holder { flow, client, opened, heard });
        match unpack(&mut self.places[id.0 as usize], from) {
            Ok(()) => Ok(Some(id)),
            Err(why) => {
                self.close(id);
                if why == Unreadable::NoRoom { Ok(None) } else { Err(why) }
            }
        }
    }

    /// One that is open, whose other end has said something; and who its client is.
    pub fn heard(&mut self, id: WatchId, now: Time) -> Option<(&mut T, u64)> {
        let holder = self.holders.get_mut(id.0 as usize)?.as_mut()?;
        holder.heard = now;
        Some((self.places[id.0 as usize].as_mut()?, holder.client))
    }

    /// One that is open.
    pub fn get_mut(&mut self, id: WatchId) -> Option<&mut T> {
        self.holders.get(id.0 as usize)?.as_ref()?;
        self.places[id.0 as usize].as_mut()
    }

    /// The place is free again; what was read there, which means nothing from now on. `None` of one that is free.
    pub fn close(&mut self, id: WatchId) -> Option<&mut T> {
        let holder = self.holders.get_mut(id.0 as usize)?.take()?;
        self.held[holder.tag()] -= 1;
        self.free.push(id.0);
        self.places[id.0 as usize].as_mut()
    }

    /// The next flow whose place is overdue, among some of the places: all of them in turn, call by call.
    pub fn overdue(&mut self, now: Time) -> Option<FlowId> {
        for _ in 0..LOOKS.min(self.holders.len()) {
            let holder = self.holders[self.hand];
            self.hand = (self.hand + 1) % self.holders.len();
            if let Some(holder) = holder
                && holder.is_overdue(&self.patience, now)
            {
                return Some(holder.flow);
            }
        }
        None
    }

    /// There are none at all.
    pub fn is_none(&self) -> bool {
        self.places.is_empty()
    }

    /// Places in use.
    pub fn in_use(&self) -> usize {
        self.places.len() - self.free.len()
    }
}
