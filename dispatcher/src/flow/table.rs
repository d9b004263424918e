//! The flow table: a slab of flows, and one hash index that leads to them from either side.
//!
//! A flow is found by the addresses and ports *as they stand in an arriving frame*, source first: `client -> VIP` on
//! the client side, and once a backend is dialled `backend -> our own address` on the server side. Both kinds of key
//! share one [`Index`], so that a frame costs one hash and, as a rule, one cache line of the index and two of the slab.
//! Both addresses and ports are the sender's to choose, so the [hash](super::hash) is keyed.
//!
//! **Bursts.** The three lines of a frame are the memory's whole part in what the frame costs. So those of a whole burst are
//! asked for first ([`FlowTable::look`], [`FlowTable::look_again`]), and used when each frame's turn has come. What was seen then is a hint and no more: a frame may
//! change the table for the next one, so the key is compared again ([`FlowTable::known_v4`]).
//!
//! **Start.** All memory is reserved at construction, and none is touched: the index is zeros from the system, and a place of the slab is written when a
//! flow first gets it. Places that were used before go first, so that a table touches no more memory than it ever had flows at once.

use super::hash::{KeyHasher, KeyV4};
use super::index::Index;
use super::key::Key;
use super::places::Places;
use crate::pack::packed_words;
use crate::prefetch;
use crate::wire::packet::protocol;
use crate::wire::{Addr, Family};

/// A flow's place in the slab, below the table's capacity. It is given to another flow after this one is removed; what
/// outlives a flow keeps its [`FlowTable::generation`] too.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FlowId(pub u32);

impl FlowId {
    /// As an index into arrays beside the table.
    #[inline]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// One of the two ends that a flow joins; said of a frame, the one it came from.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Side {
    /// Towards whoever connected to the VIP.
    Client = 0,
    /// Towards the backend.
    Server = 1,
}

impl Side {
    /// The opposite end.
    #[inline]
    pub const fn other(self) -> Side {
        match self {
            Side::Client => Side::Server,
            Side::Server => Side::Client,
        }
    }
}

/// What the index leads to: a flow and a side. Never zero, which is a vacancy there.
const fn place_of(id: FlowId, side: Side) -> u32 {
    (id.0 + 1) << 1 | side as u32
}

/// The same, read.
#[inline(always)]
const fn of_place(place: u32) -> (FlowId, Side) {
    (FlowId((place >> 1).wrapping_sub(1)), if place & 1 == 0 { Side::Client } else { Side::Server })
}

/// What the first look at a frame has found out: see [`FlowTable::look`].
#[derive(Clone, Copy, Default, Debug)]
pub struct Look {
    hash: u64,
    /// Where its flow may be; zero: not looked for, or nowhere.
    place: u32,
    /// There is something to look for.
    is_some: bool,
}

impl Look {
    /// Nothing that [`FlowTable::known_v4`] would find.
    pub const NONE: Look = Look { hash: 0, place: 0, is_some: false };

    /// It is [`Look::NONE`].
    #[inline(always)]
    pub fn is_none(&self) -> bool {
        !self.is_some
    }
}

/// Where a frame of an IPv4 flow goes on the other side: addresses and ports as they will stand in it, as in [`KeyV4`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TowardsV4 {
    /// New source.
    pub src: u32,
    /// New destination.
    pub dst: u32,
    /// New ports, source first.
    pub ports: u32,
}

/// The addresses and ports of a flow. Those of IPv4 are all here, as they stand in frames (as in [`KeyV4`]): in the order of a frame from the client, and on the other
/// side of one to the backend; read backwards, of the frames that return. Of IPv6 there is room for the client's address only: the others
/// stand among the [`Places`].
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Ends {
    /// IPv4: client, what it connected to; our address towards the backend (if that sees the client's: this), and the backend.
    /// IPv6: the client's.
    addresses: [u32; 4],
    /// IPv4: in the same order. IPv6: the client's port; the number of what it connected to; our port, and the number of the backend.
    ports: [u16; 4],
    /// IPv6: the number of our address towards the backend (with port 0), unless that is the client's (`KEPT`).
    local: u16,
    protocol: u8,
    flags: u8,
}

/// A flow is there.
const LIVE: u8 = 1;
/// Its server's side has a key.
const BOUND: u8 = 2;
/// The backend sees the client's own address and port.
const KEPT: u8 = 4;
/// Its addresses are of IPv4.
const V4: u8 = 8;
/// It is of TCP.
const TCP: u8 = 16;

impl Ends {
    fn is(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Of a flow whose client's frames carry this; none when there is no place for another address.
    fn of_client(key: &Key, places: &mut Places) -> Option<Ends> {
        let protocol = if key.protocol == protocol::TCP { TCP } else { 0 };
        let mut ends = Ends { protocol: key.protocol, flags: LIVE | protocol, ..Ends::default() };
        ends.ports[0] = key.sport.swap_bytes();
        if key.src.family() == Family::V4 {
            ends.flags |= V4;
            ends.addresses[..2].copy_from_slice(&[key.src.v4_bits(), key.dst.v4_bits()]);
            ends.ports[1] = key.dport.swap_bytes();
        } else {
            ends.addresses = key.src.words();
            ends.ports[1] = places.enter(key.dst, key.dport)?;
        }
        Some(ends)
    }

    /// The same, the backend's frames carry this; none when there is no place for another address.
    fn bound_to(mut self, key: &Key, places: &mut Places) -> Option<Ends> {
        self.ports[2] = key.dport.swap_bytes();
        if self.is(V4) {
            self.addresses[2..].copy_from_slice(&[key.dst.v4_bits(), key.src.v4_bits()]);
            self.ports[3] = key.sport.swap_bytes();
        } else {
            let backend = places.enter(key.src, key.sport)?;
            let kept = (self.addresses, self.ports[0]) == (key.dst.words(), self.ports[2]);
            let Some(local) = (if kept { Some(0) } else { places.enter(key.dst, 0) }) else {
                places.leave(backend);
                return None;
            };
            (self.ports[3], self.local) = (backend, local);
            self.flags |= if kept { KEPT } else { 0 };
        }
        self.flags |= BOUND;
        Some(self)
    }

    /// The same, without a backend.
    fn unbound(mut self, places: &mut Places) -> Ends {
        if self.is(BOUND) && !self.is(V4) {
            places.leave(self.ports[3]);
            if !self.is(KEPT) {
                places.leave(self.local);
            }
        }
        self.flags &= !(BOUND | KEPT);
        self
    }

    /// There is no flow any more, which had no backend.
    fn leave(&mut self, places: &mut Places) {
        if !self.is(V4) {
            places.leave(self.ports[1]);
        }
        self.flags = 0;
    }

    /// What frames from a side carry.
    fn key(&self, side: Side, places: &Places) -> Key {
        let port = |at: usize| self.ports[at].swap_bytes();
        let ((src, sport), (dst, dport)) = if self.is(V4) {
            let end = |at: usize| (Addr::v4(self.addresses[at].to_le_bytes()), port(at));
            match side {
                Side::Client => (end(0), end(1)),
                Side::Server => (end(3), end(2)),
            }
        } else {
            let client = Addr::from_words(self.addresses);
            match side {
                Side::Client => ((client, port(0)), places.get(self.ports[1])),
                Side::Server if self.is(KEPT) => (places.get(self.ports[3]), (client, port(0))),
                Side::Server => (places.get(self.ports[3]), (places.get(self.local).0, port(2))),
            }
        };
        Key { src, dst, sport, dport, protocol: self.protocol }
    }

    /// What frames from a side carry, of IPv4: of a flow that is of it, and has that side.
    #[inline(always)]
    fn key_v4(&self, side: Side) -> KeyV4 {
        // The server's side is read backwards.
        let (at, turn) = (2 * side as usize, side as u32);
        let both = u64::from(self.addresses[at]) | u64::from(self.addresses[at + 1]) << 32;
        let ports = u32::from(self.ports[at]) | u32::from(self.ports[at + 1]) << 16;
        KeyV4 { addresses: both.rotate_left(32 * turn), ports: ports.rotate_left(16 * turn) }
    }

    /// The other side's addresses and ports, if frames with this key come from `side`, and it has both sides.
    #[inline(always)]
    fn towards_v4(&self, side: Side, key: &KeyV4) -> Option<TowardsV4> {
        const NEEDED: u8 = LIVE | BOUND | V4 | TCP;
        if self.flags & NEEDED != NEEDED {
            return None;
        }
        // The server's side is read backwards. Which side it is nobody can predict: so no branch asks.
        let [a, b, c, d] = self.addresses;
        let [e, f, g, h] = self.ports;
        let both = [u64::from(a) | u64::from(b) << 32, u64::from(c) | u64::from(d) << 32];
        let ports = [u32::from(e) | u32::from(f) << 16, u32::from(g) | u32::from(h) << 16];
        let (near, far) = (side as usize, side.other() as usize);
        let turn = side as u32;
        let same =
            key.addresses == both[near].rotate_left(32 * turn) && key.ports == ports[near].rotate_left(16 * turn);
        let to = both[far].rotate_left(32 * turn);
        same.then_some(TowardsV4 { src: to as u32, dst: (to >> 32) as u32, ports: ports[far].rotate_left(16 * turn) })
    }
}

/// One place of the slab: what a frame of a known flow needs. Two cache lines, if `H` leaves it at that.
#[repr(C, align(64))]
struct Hot<H> {
    ends: Ends,
    flow: H,
}

/// The place beside it: the rest, if it is folded, or where it lies whole.
struct Cold<F> {
    generation: u32,
    /// Its number among those that are whole; [`FOLDED`] when it is not, or there is no flow.
    whole: u32,
    folded: Option<F>,
}

const FOLDED: u32 = u32::MAX;

/// See [`FlowTable::peek`].
pub enum Rest<'a, C, F> {
    /// All of it.
    Whole(&'a C),
    /// Folded.
    Folded(&'a F),
}

/// The same, to be changed.
pub enum RestMut<'t, C, F> {
    /// Whole.
    Whole(&'t mut C),
    /// Folded.
    Folded(&'t mut F),
}

/// Flows, found by either of their two keys. What each frame needs of one is of type `H`, the rest of type `C`; the two lie apart. The rest may
/// be [folded](FlowTable::fold) into an `F` while there is nothing in it that would be lost by that; whoever looks at it unfolds it again.
///
/// **And when full?** There is room for as many that are whole as for flows; memory is touched for as many as ever were whole at once.
pub struct FlowTable<H, C, F = C> {
    hasher: KeyHasher,
    index: Index,
    capacity: usize,
    /// Those places that were ever used; there is room for all.
    hot: Vec<Hot<H>>,
    cold: Vec<Cold<F>>,
    /// Those that are whole, and the vacancies between them.
    whole: Vec<Option<C>>,
    vacant: Vec<u32>,
    places: Places,
    /// Places that are free again. A stack: what was used last is still in the cache.
    free: Vec<u32>,
}

impl<H, C, F> FlowTable<H, C, F> {
    /// Most flows a table can be made for.
    pub const MAX_CAPACITY: usize = 1 << 29;
    /// What a flow takes of the slab that frames need, bytes.
    pub const HOT_BYTES: usize = size_of::<Hot<H>>();
    /// What it takes beside, while it is folded.
    pub const FOLDED_BYTES: usize = size_of::<Cold<F>>();
}

impl<H, C: Into<F>, F: Into<C>> FlowTable<H, C, F> {
    /// A table of at most `capacity` flows, hashed under `secret`: never derive it from the time.
    ///
    /// # Panics
    /// When `capacity` is 0 or exceeds [`FlowTable::MAX_CAPACITY`].
    pub fn new(capacity: usize, secret: (u64, u64)) -> FlowTable<H, C, F> {
        assert!((1..=Self::MAX_CAPACITY).contains(&capacity), "a flow table of {capacity} flows");
        FlowTable {
            hasher: KeyHasher::new(secret),
            index: Index::new(keys(capacity), place_of(FlowId(capacity as u32 - 1), Side::Server)),
            capacity,
            hot: Vec::with_capacity(capacity),
            cold: Vec::with_capacity(capacity),
            whole: Vec::with_capacity(capacity),
            vacant: Vec::with_capacity(capacity),
            places: Places::new(),
            free: Vec::with_capacity(capacity),
        }
    }

    /// Memory of a table of `capacity` flows, bytes, while all are folded.
    pub const fn bytes_for(capacity: usize) -> usize {
        let flow = size_of::<Hot<H>>() + size_of::<Cold<F>>() + size_of::<u32>();
        Index::bytes_for(keys(capacity)) + capacity * flow + Places::bytes()
    }

    /// What it takes more if all are whole, bytes.
    pub const fn bytes_for_whole(capacity: usize) -> usize {
        capacity * (size_of::<Option<C>>() + size_of::<u32>())
    }

    /// Flows in the table.
    pub fn len(&self) -> usize {
        self.hot.len() - self.free.len()
    }

    /// No flow is in the table.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Flows there is room for in all.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// The memory that frames lead to at random: what is worth large pages, before it is used.
    pub fn memory(&self) -> [core::ops::Range<*const u8>; 2] {
        let slab = self.hot.as_ptr();
        [self.index.memory(), slab.cast()..slab.wrapping_add(self.hot.capacity()).cast()]
    }

    /// The memory that so many flows take which are put into an empty table.
    pub fn memory_for(&self, flows: usize) -> [core::ops::Range<*const u8>; 4] {
        let flows = flows.min(self.capacity);
        let (hot, cold, whole) = (self.hot.as_ptr(), self.cold.as_ptr(), self.whole.as_ptr());
        [
            self.index.memory(),
            hot.cast()..hot.wrapping_add(flows).cast(),
            cold.cast()..cold.wrapping_add(flows).cast(),
            whole.cast()..whole.wrapping_add(flows).cast(),
        ]
    }

    /// Adds a flow whose client's frames carry `client_key`. `None` when the table is full: the flow is dropped, and
    /// the client's retransmission may find room.
    ///
    /// No flow may have this key yet; only debug builds check it.
    pub fn insert(&mut self, client_key: Key, hot: H, cold: C) -> Option<FlowId> {
        debug_assert!(!self.contains(&client_key), "{client_key:?} has a flow");
        if self.len() == self.capacity {
            return None;
        }
        let ends = Ends::of_client(&client_key, &mut self.places)?;
        let hot = Hot { ends, flow: hot };
        let whole = self.keep_whole(cold);
        let id = match self.free.pop() {
            Some(id) => {
                self.hot[id as usize] = hot;
                self.cold[id as usize].whole = whole;
                FlowId(id)
            }
            None => {
                self.hot.push(hot);
                self.cold.push(Cold { generation: 0, whole, folded: None });
                FlowId((self.hot.len() - 1) as u32)
            }
        };
        self.link(id, Side::Client);
        Some(id)
    }

    /// Lets the flow also be found by `server_key`, as the backend's frames will carry it; replaces an earlier
    /// one. False, and nothing changed, when that key leads to a flow already (this one included).
    ///
    /// # Panics
    /// When there is no such flow.
    pub fn bind(&mut self, id: FlowId, server_key: Key) -> bool {
        !self.contains(&server_key) && self.bind_free(id, server_key)
    }

    /// The same, for a key that was just found to lead to no flow; only debug builds check it.
    ///
    /// # Panics
    /// When there is no such flow.
    pub fn bind_free(&mut self, id: FlowId, server_key: Key) -> bool {
        assert!(self.is_live(id), "{id:?} is no flow");
        debug_assert!(!self.contains(&server_key), "{server_key:?} has a flow");
        let ends = self.hot[id.index()].ends;
        debug_assert_eq!(ends.protocol, server_key.protocol, "{id:?} is of another protocol");
        debug_assert_eq!(ends.is(V4), server_key.src.family() == Family::V4, "{id:?} is of another family");
        // Of the numbers that it has now it gives none back before it has those to come.
        let unbound = Ends { flags: ends.flags & !(BOUND | KEPT), ..ends };
        let Some(bound) = unbound.bound_to(&server_key, &mut self.places) else { return false };
        self.unbind(id);
        self.hot[id.index()].ends = bound;
        self.link(id, Side::Server);
        true
    }

    /// Forgets the flow's server-side key, if it has one: another backend, or another port, is to be tried.
    pub fn unbind(&mut self, id: FlowId) {
        if self.hot[id.index()].ends.is(BOUND) {
            self.unlink(id, Side::Server);
            let ends = &mut self.hot[id.index()].ends;
            *ends = ends.unbound(&mut self.places);
        }
    }

    /// The flow that a frame with this key belongs to, and the side it came from.
    #[inline]
    pub fn lookup(&self, key: &Key) -> Option<(FlowId, Side)> {
        // The index leads to keys of living flows only, and each of those is of one family.
        match KeyV4::of(key) {
            Some(v4) => {
                let is = |place| {
                    let (id, side) = of_place(place);
                    let ends = &self.hot[id.index()].ends;
                    ends.is(V4) && ends.key_v4(side) == v4 && ends.protocol == key.protocol
                };
                self.index.find(self.hasher.hash_v4(&v4, key.protocol), is).map(of_place)
            }
            None => {
                let is = |place| {
                    let (id, side) = of_place(place);
                    self.hot[id.index()].ends.key(side, &self.places) == *key
                };
                self.index.find(self.hasher.hash(key), is).map(of_place)
            }
        }
    }

    /// A first look at a TCP frame over IPv4 with this key: asks for the line of the index that leads to its flow.
    #[inline(always)]
    pub fn look(&self, key: &KeyV4) -> Look {
        let hash = self.hasher.hash_v4(key, protocol::TCP);
        self.index.prefetch(hash);
        Look { hash, place: 0, is_some: true }
    }

    /// A second look, when that line has come: asks for those of the flow.
    #[inline(always)]
    pub fn look_again(&self, look: &mut Look) {
        if look.is_some
            && let Some(place) = self.index.guess(look.hash)
        {
            look.place = place;
            if let Some(hot) = self.hot.get(of_place(place).0.index()) {
                prefetch::value(hot);
            }
        }
    }

    /// The flow that a TCP frame over IPv4 with this key belongs to, if it has both sides, with the side it came from and where it goes. `look`
    /// is what was seen of the same frame; whatever has changed since, only this key's flow is found.
    #[inline(always)]
    pub fn known_v4(&mut self, look: Look, key: &KeyV4) -> Option<(Side, &mut H, TowardsV4)> {
        let mut place = look.place;
        let (mut id, mut side) = of_place(place);
        let mut towards = self.hot.get(id.index()).and_then(|hot| hot.ends.towards_v4(side, key));
        if towards.is_none() && look.is_some {
            place = self.seek_v4(look.hash, key)?;
            (id, side) = of_place(place);
            towards = self.hot[id.index()].ends.towards_v4(side, key);
        }
        Some((side, &mut self.hot[id.index()].flow, towards?))
    }

    /// The TCP flow over IPv4 that has this key, on either side.
    #[cold]
    pub fn find_v4(&self, key: &KeyV4) -> Option<FlowId> {
        self.seek_v4(self.hasher.hash_v4(key, protocol::TCP), key).map(|place| of_place(place).0)
    }

    /// Where it really is: there was only one look, or another flow's key has the same tag.
    fn seek_v4(&self, hash: u64, key: &KeyV4) -> Option<u32> {
        let is = |place| {
            let (id, side) = of_place(place);
            self.hot[id.index()].ends.towards_v4(side, key).is_some()
        };
        self.index.find(hash, is)
    }

    /// Some flow has this key, on either side.
    pub fn contains(&self, key: &Key) -> bool {
        self.lookup(key).is_some()
    }

    /// Puts one among those that are whole: its number.
    #[inline(always)]
    fn keep_whole(&mut self, cold: C) -> u32 {
        match self.vacant.pop() {
            Some(number) => {
                _ = self.whole[number as usize].insert(cold);
                number
            }
            None => {
                self.whole.push(Some(cold));
                (self.whole.len() - 1) as u32
            }
        }
    }

    /// Takes it out again.
    fn take_whole(&mut self, number: u32) -> Option<C> {
        let cold = self.whole.get_mut(number as usize)?.take();
        self.vacant.push(number);
        cold
    }

    /// The rest of the flow at `id` takes little memory until somebody looks at it. Only what `F` keeps may be in it.
    pub fn fold(&mut self, id: FlowId) {
        let whole = core::mem::replace(&mut self.cold[id.index()].whole, FOLDED);
        if let Some(cold) = self.take_whole(whole) {
            self.cold[id.index()].folded = Some(cold.into());
        }
    }

    /// Its number among those that are whole.
    #[cold]
    fn unfold(&mut self, id: FlowId) -> u32 {
        let folded = self.cold[id.index()].folded.take().expect("a live flow");
        let number = self.keep_whole(folded.into());
        self.cold[id.index()].whole = number;
        number
    }

    /// The rest of the flow at `id`.
    ///
    /// # Panics
    /// When there is none: ids from [`FlowTable::lookup`] and [`FlowTable::insert`] hold until the flow's removal, older ones
    /// go through [`FlowTable::is_current`].
    pub fn get(&mut self, id: FlowId) -> &C {
        self.get_mut(id)
    }

    /// As [`FlowTable::get`], to change it.
    ///
    /// # Panics
    /// When there is none.
    pub fn get_mut(&mut self, id: FlowId) -> &mut C {
        self.both(id).1
    }

    /// Both parts of the flow at `id`.
    ///
    /// # Panics
    /// When there is none.
    pub fn both(&mut self, id: FlowId) -> (&mut H, &mut C) {
        let mut number = self.cold[id.index()].whole;
        if number == FOLDED {
            number = self.unfold(id);
        }
        match (self.hot.get_mut(id.index()), self.whole.get_mut(number as usize)) {
            (Some(hot), Some(Some(cold))) => (&mut hot.flow, cold),
            _ => panic!("{id:?} is no flow"),
        }
    }

    /// Both parts of the flow at `id`, if there is one and the rest of it is not folded.
    pub fn both_if_whole(&mut self, id: FlowId) -> Option<(&mut H, &mut C)> {
        let hot = self.hot.get_mut(id.index())?;
        let cold = self.whole.get_mut(self.cold[id.index()].whole as usize)?;
        cold.as_mut().filter(|_| hot.ends.is(LIVE)).map(|cold| (&mut hot.flow, cold))
    }

    /// The rest of the flow at `id`, as it is kept.
    ///
    /// # Panics
    /// When there is none.
    pub fn peek(&self, id: FlowId) -> Rest<'_, C, F> {
        let cold = &self.cold[id.index()];
        match &cold.folded {
            Some(folded) => Rest::Folded(folded),
            None => Rest::Whole(self.whole[cold.whole as usize].as_ref().expect("a live flow")),
        }
    }

    /// The same, to change it where it lies.
    ///
    /// # Panics
    /// As above.
    pub fn peek_mut(&mut self, id: FlowId) -> RestMut<'_, C, F> {
        let cold = &mut self.cold[id.index()];
        match &mut cold.folded {
            Some(folded) => RestMut::Folded(folded),
            None => RestMut::Whole(self.whole[cold.whole as usize].as_mut().expect("a live flow")),
        }
    }

    /// What each frame needs of the flow at `id`; of meaning while it is there.
    #[inline]
    pub fn hot(&self, id: FlowId) -> &H {
        &self.hot[id.index()].flow
    }

    /// As [`FlowTable::hot`], to change it.
    #[inline]
    pub fn hot_mut(&mut self, id: FlowId) -> &mut H {
        &mut self.hot[id.index()].flow
    }

    /// Some flow is at `id`, be it the one meant or a later one.
    pub fn is_live(&self, id: FlowId) -> bool {
        self.hot.get(id.index()).is_some_and(|h| h.ends.is(LIVE))
    }

    /// How many flows have been removed from this place, modulo 2^32. Together with `id` it names one flow for good.
    pub fn generation(&self, id: FlowId) -> u32 {
        self.cold[id.index()].generation
    }

    /// The flow that had `id` when its place was at `generation` is still there.
    pub fn is_current(&self, id: FlowId, generation: u32) -> bool {
        self.is_live(id) && self.generation(id) == generation
    }

    /// The key by which frames from `side` find the flow.
    #[inline]
    pub fn key(&self, id: FlowId, side: Side) -> Option<Key> {
        let ends = &self.hot[id.index()].ends;
        (ends.is(LIVE) && (side == Side::Client || ends.is(BOUND))).then(|| ends.key(side, &self.places))
    }

    /// Takes the flow out, with both its keys: the rest of it.
    ///
    /// # Panics
    /// When there is none.
    pub fn remove(&mut self, id: FlowId) -> C {
        assert!(self.is_live(id), "{id:?} is no flow");
        self.unbind(id);
        self.unlink(id, Side::Client);
        self.hot[id.index()].ends.leave(&mut self.places);
        let cold = &mut self.cold[id.index()];
        cold.generation = cold.generation.wrapping_add(1);
        let (folded, whole) = (cold.folded.take(), core::mem::replace(&mut cold.whole, FOLDED));
        self.free.push(id.0);
        match folded {
            Some(folded) => folded.into(),
            None => self.take_whole(whole).expect("asserted above"),
        }
    }

    /// All flows, by place. Looks at every place: not for every packet.
    pub fn iter_ids(&self) -> impl Iterator<Item = FlowId> + '_ {
        (0..self.hot.len() as u32).map(FlowId).filter(|id| self.is_live(*id))
    }

    /// The flows among `places` places from `from` on, and where to go on; nowhere, when those were the last.
    pub fn portion(&self, from: FlowId, places: usize) -> (impl Iterator<Item = FlowId> + '_, Option<FlowId>) {
        let all = self.hot.len() as u32;
        let end = from.0.saturating_add(u32::try_from(places).unwrap_or(u32::MAX)).min(all);
        let ids = (from.0..end).map(FlowId).filter(|id| self.is_live(*id));
        (ids, (end < all).then_some(FlowId(end)))
    }

    /// The first flow at `from` or after it: walks the table in portions while it changes.
    pub fn next_id(&self, from: FlowId) -> Option<FlowId> {
        (from.0..self.hot.len() as u32).map(FlowId).find(|id| self.is_live(*id))
    }

    /// Puts a key that is not in the index into it.
    fn link(&mut self, id: FlowId, side: Side) {
        self.index.insert(self.hash_of(id, side), place_of(id, side));
    }

    /// Of the key of that side.
    #[inline]
    fn hash_of(&self, id: FlowId, side: Side) -> u64 {
        let ends = &self.hot[id.index()].ends;
        if ends.is(V4) {
            self.hasher.hash_v4(&ends.key_v4(side), ends.protocol)
        } else {
            self.hasher.hash(&ends.key(side, &self.places))
        }
    }

    /// Takes a key that is in the index out of it. By place, not by key: exact even if the precondition of `insert` was broken.
    fn unlink(&mut self, id: FlowId, side: Side) {
        self.index.remove(self.hash_of(id, side), place_of(id, side));
    }
}

/// Two keys a flow.
const fn keys(capacity: usize) -> usize {
    capacity * 2
}

packed_words!(Side { Client = 0, Server = 1 });

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    /// Keys are few, so that sequences of operations meet each other.
    fn key(n: u16) -> Key {
        Key::v4([10, 0, 0, n as u8], 1000 + n, [10, 9, 9, 9], 443)
    }

    fn key_v6(n: u16) -> Key {
        let net = |host: u16| [&[0xfd; 14][..], &host.to_be_bytes()].concat().try_into().unwrap();
        Key::v6(net(n), 1000 + n, net(0x0999), 443)
    }

    /// Of IPv4, as it stands in a frame.
    fn raw(n: u16) -> KeyV4 {
        let Key { src, dst, sport, dport, .. } = key(n);
        KeyV4 {
            addresses: u64::from(src.v4_bits()) | u64::from(dst.v4_bits()) << 32,
            ports: u32::from(sport.swap_bytes()) | u32::from(dport.swap_bytes()) << 16,
        }
    }

    fn seen<H, C: Into<F>, F: Into<C>>(table: &FlowTable<H, C, F>, n: u16) -> Look {
        let mut look = table.look(&raw(n));
        table.look_again(&mut look);
        look
    }

    impl<H, C: Into<F>, F: Into<C>> FlowTable<H, C, F> {
        /// What must hold of the index whatever was done to it.
        fn check(&self) {
            let mut lies = vec![];
            for (bucket, place) in self.index.all() {
                let (id, side) = of_place(place);
                let key = self.key(id, side).expect("the index leads to live keys only");
                lies.push((self.hasher.hash(&key), bucket));
                assert_eq!(self.lookup(&key), Some((id, side)));
            }
            let keys = lies.len();
            let (passed, expected) = self.index.passed(lies.into_iter());
            assert_eq!(passed, expected, "keys that went past each bucket");
            let live = self.iter_ids().map(|id| 1 + usize::from(self.key(id, Side::Server).is_some())).sum::<usize>();
            assert_eq!(keys, live, "every key of a live flow is in the index");
            let whole = self.iter_ids().filter(|id| self.cold[id.index()].whole != FOLDED).count();
            assert_eq!(self.whole.iter().flatten().count(), whole, "each that is whole is a live flow's");
            assert_eq!(self.whole.len() - self.vacant.len(), whole);
        }
    }

    /// Says the same in another way.
    struct Folded(u32);

    impl From<u32> for Folded {
        fn from(n: u32) -> Folded {
            Folded(!n)
        }
    }

    impl From<Folded> for u32 {
        fn from(folded: Folded) -> u32 {
            !folded.0
        }
    }

    #[derive(Clone, Debug)]
    enum Op {
        Insert(u16),
        Bind(u16, u16),
        Unbind(u16),
        Fold(u16),
        Remove(u16),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            3 => (0..24u16).prop_map(Op::Insert),
            3 => (0..24u16, 0..24u16).prop_map(|(c, s)| Op::Bind(c, s)),
            1 => (0..24u16).prop_map(Op::Unbind),
            2 => (0..24u16).prop_map(Op::Fold),
            2 => (0..24u16).prop_map(Op::Remove),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(192))]
        #[test]
        fn it_agrees_with_two_hash_maps(v6: bool, secret: (u64, u64), ops in prop::collection::vec(op(), 1..200)) {
            const CAPACITY: usize = 9;
            let key = |n| if v6 { key_v6(n) } else { key(n) };
            let mut table = FlowTable::<u32, u32, Folded>::new(CAPACITY, secret);
            // Client key to (id, flow, server key), and server key to client key.
            let mut clients: HashMap<u16, (FlowId, u32, Option<u16>)> = HashMap::new();
            let mut servers: HashMap<u16, u16> = HashMap::new();
            // Of some time ago.
            let mut looks = [Look::NONE; 24];
            looks.iter_mut().zip(0..).for_each(|(look, n)| *look = seen(&table, n));
            for (serial, op) in ops.into_iter().enumerate() {
                match op {
                    Op::Insert(c) => {
                        if clients.contains_key(&c) || servers.contains_key(&c) {
                            prop_assert!(table.contains(&key(c)));
                            continue;
                        }
                        let id = table.insert(key(c), !(serial as u32), serial as u32);
                        prop_assert_eq!(id.is_none(), clients.len() == CAPACITY);
                        if let Some(id) = id {
                            clients.insert(c, (id, serial as u32, None));
                        }
                    }
                    Op::Bind(c, s) => {
                        let taken = clients.contains_key(&s) || servers.contains_key(&s);
                        let Some(client) = clients.get_mut(&c) else { continue };
                        prop_assert_eq!(table.bind(client.0, key(s)), !taken);
                        if !taken {
                            if let Some(old) = client.2.replace(s) {
                                servers.remove(&old);
                            }
                            servers.insert(s, c);
                        }
                    }
                    Op::Unbind(c) => {
                        let Some(client) = clients.get_mut(&c) else { continue };
                        table.unbind(client.0);
                        if let Some(old) = client.2.take() {
                            servers.remove(&old);
                        }
                    }
                    Op::Fold(c) => {
                        let Some(client) = clients.get(&c) else { continue };
                        table.fold(client.0);
                        table.fold(client.0);
                        let Rest::Folded(Folded(folded)) = table.peek(client.0) else { panic!("it is folded") };
                        prop_assert_eq!(*folded, !client.1);
                    }
                    Op::Remove(c) => {
                        let Some((id, flow, server)) = clients.remove(&c) else { continue };
                        let generation = table.generation(id);
                        prop_assert!(table.is_current(id, generation));
                        prop_assert_eq!(table.remove(id), flow);
                        prop_assert!(!table.is_current(id, generation));
                        if let Some(old) = server {
                            servers.remove(&old);
                        }
                    }
                }
                table.check();
                prop_assert_eq!(table.len(), clients.len());
                for n in 0..24 {
                    let expected = match (clients.get(&n), servers.get(&n)) {
                        (Some(c), None) => Some((c.0, Side::Client)),
                        (None, Some(c)) => Some((clients[c].0, Side::Server)),
                        _ => None,
                    };
                    prop_assert_eq!(table.lookup(&key(n)), expected);
                    // What is found for a plain frame: only flows with both sides, whatever was seen when.
                    let now = seen(&table, n);
                    for look in [looks[usize::from(n)], now] {
                        let towards = table.known_v4(look, &raw(n)).map(|(side, hot, to)| (side, *hot, to));
                        let expected = expected.filter(|_| !v6).and_then(|(id, side)| {
                            let other = table.key(id, side.other())?;
                            let (src, dst) = (other.dst.v4_bits(), other.src.v4_bits());
                            let ports = u32::from(other.dport.swap_bytes()) | u32::from(other.sport.swap_bytes()) << 16;
                            Some((side, *table.hot(id), TowardsV4 { src, dst, ports }))
                        });
                        prop_assert_eq!(towards, expected);
                    }
                    if serial % 3 == 0 {
                        looks[usize::from(n)] = now;
                    }
                    if let Some((id, Side::Client)) = expected {
                        // Some are looked at, and unfolded by that; others stay as they are.
                        if serial % 2 == 0 {
                            prop_assert_eq!(*table.get(id), clients[&n].1);
                        }
                        prop_assert_eq!(*table.hot(id), !clients[&n].1);
                        prop_assert_eq!(table.key(id, Side::Server), clients[&n].2.map(key));
                    }
                }
            }
        }
    }

    #[test]
    fn a_full_table_refuses_and_takes_again_after_a_removal() {
        let mut table = FlowTable::<(), u32>::new(3, (7, 7));
        let ids: Vec<_> = (0..3).map(|n| table.insert(key(n), (), u32::from(n)).unwrap()).collect();
        assert_eq!(table.insert(key(3), (), 3), None);
        assert_eq!((table.len(), table.contains(&key(3))), (3, false));
        assert!(ids.iter().zip(10..).all(|(id, n)| table.bind(*id, key(n))), "server sides always have room");
        let stale = table.generation(ids[1]);
        table.remove(ids[1]);
        let again = table.insert(key(3), (), 3).unwrap();
        assert_eq!(again, ids[1]);
        assert!(table.is_live(again) && !table.is_current(again, stale));
        assert_eq!(table.key(again, Side::Server), None, "the earlier flow's server side is not inherited");
        assert_eq!(table.next_id(FlowId(2)), Some(ids[2]));
        table.check();
    }

    #[test]
    fn of_another_protocol_and_of_ipv6_nothing_is_found_for_a_plain_frame() {
        let mut table = FlowTable::<(), ()>::new(3, (7, 7));
        for protocol in [protocol::UDP, protocol::TCP] {
            let with = |n| Key { protocol, ..key(n) };
            let id = table.insert(with(1), (), ()).unwrap();
            assert!(table.bind(id, with(2)));
            let look = seen(&table, 1);
            assert_eq!(table.known_v4(look, &raw(1)).is_some(), protocol == protocol::TCP);
        }
        // The last four bytes are those of the frame's.
        let six = |n: u16| {
            let like = |a: Addr| Addr([[0xfd; 12].as_slice(), &a.0[12..]].concat().try_into().unwrap());
            Key { src: like(key(n).src), dst: like(key(n).dst), ..key(n) }
        };
        let id = table.insert(six(5), (), ()).unwrap();
        assert!(table.bind(id, six(6)));
        for n in [5, 6] {
            let look = Look { hash: table.hasher.hash(&six(n)), place: place_of(id, Side::Client), is_some: true };
            assert!(table.known_v4(look, &raw(n)).is_none());
        }
    }

    #[test]
    fn the_server_side_may_have_the_clients_own_address_and_port_or_one_of_ours() {
        let v4 = [Key::v4([10, 0, 5, 5], 8443, [10, 0, 0, 1], 1001), key(1)];
        let v6 = [Key { dst: key_v6(1).src, dport: 1001, ..key_v6(5) }, key_v6(1)];
        for [kept, client] in [v4, v6] {
            assert_eq!((kept.dst, kept.dport), (client.src, client.sport));
            let mut table = FlowTable::<(), ()>::new(3, (7, 7));
            let id = table.insert(client, (), ()).unwrap();
            let ours = Key { dst: client.dst, dport: 40_000, ..kept };
            for server in [kept, ours, kept] {
                assert!(table.bind(id, server));
                assert_eq!((table.key(id, Side::Server), table.key(id, Side::Client)), (Some(server), Some(client)));
                table.check();
            }
            table.remove(id);
            table.check();
            assert_eq!(table.places.in_use(), 0);
        }
    }

    #[test]
    fn memory_is_what_bytes_for_says() {
        let table: FlowTable<[u64; 9], [u64; 7]> = FlowTable::new(1000, (0, 0));
        let slabs = table.hot.capacity() * size_of::<Hot<[u64; 9]>>()
            + table.cold.capacity() * size_of::<Cold<[u64; 7]>>()
            + table.whole.capacity() * size_of::<Option<[u64; 7]>>()
            + table.vacant.capacity() * size_of::<u32>();
        let index = table.index.memory();
        let index = index.end as usize - index.start as usize;
        let real = index + slabs + Places::bytes() + table.free.capacity() * size_of::<u32>();
        let told =
            FlowTable::<[u64; 9], [u64; 7]>::bytes_for(1000) + FlowTable::<[u64; 9], [u64; 7]>::bytes_for_whole(1000);
        assert_eq!(real, told);
    }
}
