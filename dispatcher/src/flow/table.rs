//! The flow table: a slab of flows, and one hash index that leads to them from either side.
//!
//! A flow is found by the addresses and ports *as they stand in an arriving frame*, source first: `client -> VIP` on
//! the client side, and once a backend is dialled `backend -> our own address` on the server side. Both kinds of key
//! share one index, so that a frame costs one hash and, as a rule, one cache line of the index and one of the slab.
//!
//! The index is open addressing with linear probing at a load of at most 1/2. A slot is 8 bytes: 32 bits of the hash,
//! which decide the home position and turn away nearly all strangers, and the flow with its side. Deletion shifts the
//! rest of the run back (Knuth, TAOCP vol. 3, section 6.4, algorithm R), so there are no tombstones and a table that
//! has been churned for a month probes like a new one.
//!
//! Both addresses and ports are the sender's to choose, so the hash is keyed: SipHash-1-3 (Aumasson and Bernstein, "SipHash: a
//! fast short-input PRF", 2012). Who does not know the key cannot make a long run.

use super::key::Key;
use super::places::Places;
use crate::wire::Addr;
use siphasher::sip::SipHasher13;

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

/// One position of the index.
#[derive(Clone, Copy)]
struct Slot {
    /// 32 bits of the key's hash. The low ones are the home position.
    tag: u32,
    /// `FlowId << 1 | Side`, or [`VACANT`].
    place: u32,
}

const VACANT: u32 = u32::MAX;
const EMPTY: Slot = Slot { tag: 0, place: VACANT };

const fn place_of(id: FlowId, side: Side) -> u32 {
    id.0 << 1 | side as u32
}

/// The addresses and ports of a flow, as far as they are its own; the others stand among the [`Places`].
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Ends {
    /// The client's address and port.
    client: Addr,
    client_port: u16,
    /// The number of what it connected to.
    listener: u16,
    /// By what the backend's frames are found, while `BOUND`: the number of its address and port,
    backend: u16,
    /// of our address towards it (with port 0), and our port. If `KEPT` these are the client's.
    local: u16,
    local_port: u16,
    protocol: u8,
    flags: u8,
}

/// A flow is there.
const LIVE: u8 = 1;
/// Its server's side has a key.
const BOUND: u8 = 2;
/// The backend sees the client's own address and port.
const KEPT: u8 = 4;

impl Ends {
    fn is(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// What frames from the client carry.
    #[inline]
    fn client_key(&self, places: &Places) -> Key {
        let (dst, dport) = places.get(self.listener);
        Key { src: self.client, dst, sport: self.client_port, dport, protocol: self.protocol }
    }

    /// What frames from the backend carry.
    #[inline]
    fn server_key(&self, places: &Places) -> Key {
        let (src, sport) = places.get(self.backend);
        let (dst, dport) = match self.is(KEPT) {
            true => (self.client, self.client_port),
            false => (places.get(self.local).0, self.local_port),
        };
        Key { src, dst, sport, dport, protocol: self.protocol }
    }

    #[inline]
    fn key(&self, side: Side, places: &Places) -> Key {
        if side == Side::Client { self.client_key(places) } else { self.server_key(places) }
    }
}

/// One place of the slab: what a frame of a known flow needs. Two cache lines, if `H` leaves it at that.
#[repr(C, align(64))]
struct Hot<H> {
    ends: Ends,
    flow: H,
}

/// The place beside it: the rest.
struct Cold<C> {
    generation: u32,
    flow: Option<C>,
}

/// Flows, found by either of their two keys. What each frame needs of one is of type `H`, the rest of type `C`; the two lie apart.
pub struct FlowTable<H, C> {
    hasher: SipHasher13,
    index: Box<[Slot]>,
    /// `index.len() - 1`; the length is a power of two.
    mask: usize,
    hot: Box<[Hot<H>]>,
    cold: Box<[Cold<C>]>,
    places: Places,
    /// A stack: what was used last is still in the cache.
    free: Vec<u32>,
}

impl<H: Default, C> FlowTable<H, C> {
    /// Most flows a table can be made for.
    pub const MAX_CAPACITY: usize = 1 << 29;
    /// What a flow takes of the slab that frames need, bytes.
    pub const HOT_BYTES: usize = size_of::<Hot<H>>();

    /// A table of at most `capacity` flows, hashed under `secret`: never derive it from the time.
    ///
    /// # Panics
    /// When `capacity` is 0 or exceeds [`FlowTable::MAX_CAPACITY`].
    pub fn new(capacity: usize, secret: (u64, u64)) -> FlowTable<H, C> {
        assert!((1..=Self::MAX_CAPACITY).contains(&capacity), "a flow table of {capacity} flows");
        let slots = index_slots(capacity);
        FlowTable {
            hasher: SipHasher13::new_with_keys(secret.0, secret.1),
            index: vec![EMPTY; slots].into_boxed_slice(),
            mask: slots - 1,
            hot: (0..capacity).map(|_| Hot { ends: Ends::default(), flow: H::default() }).collect(),
            cold: (0..capacity).map(|_| Cold { generation: 0, flow: None }).collect(),
            places: Places::new(),
            free: (0..capacity as u32).rev().collect(),
        }
    }

    /// Memory of a table of `capacity` flows, bytes.
    pub const fn bytes_for(capacity: usize) -> usize {
        let flow = size_of::<Hot<H>>() + size_of::<Cold<C>>() + size_of::<u32>();
        index_slots(capacity) * size_of::<Slot>() + capacity * flow + Places::bytes()
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
        self.hot.len()
    }

    /// Adds a flow whose client's frames carry `client_key`. `None` when the table is full: the flow is dropped, and
    /// the client's retransmission may find room.
    ///
    /// No flow may have this key yet; only debug builds check it.
    pub fn insert(&mut self, client_key: Key, hot: H, cold: C) -> Option<FlowId> {
        debug_assert!(!self.contains(&client_key), "{client_key:?} has a flow");
        let id = FlowId(*self.free.last()?);
        let listener = self.places.enter(client_key.dst, client_key.dport)?;
        self.free.pop();
        let ends = Ends {
            client: client_key.src,
            client_port: client_key.sport,
            listener,
            protocol: client_key.protocol,
            flags: LIVE,
            ..Ends::default()
        };
        self.hot[id.index()] = Hot { ends, flow: hot };
        self.cold[id.index()].flow = Some(cold);
        self.link(id, Side::Client);
        Some(id)
    }

    /// Lets the flow also be found by `server_key`, as the backend's frames will carry it; replaces an earlier
    /// one. False, and nothing changed, when that key leads to a flow already (this one included).
    ///
    /// # Panics
    /// When there is no such flow.
    pub fn bind(&mut self, id: FlowId, server_key: Key) -> bool {
        assert!(self.is_live(id), "{id:?} is no flow");
        if self.contains(&server_key) {
            return false;
        }
        let Ends { client, client_port, protocol, .. } = self.hot[id.index()].ends;
        debug_assert_eq!(protocol, server_key.protocol, "{id:?} is of another protocol");
        let kept = (client, client_port) == (server_key.dst, server_key.dport);
        let Some(backend) = self.places.enter(server_key.src, server_key.sport) else { return false };
        let local = if kept { Some(0) } else { self.places.enter(server_key.dst, 0) };
        let Some(local) = local else {
            self.places.leave(backend);
            return false;
        };
        self.unbind(id);
        let ends = &mut self.hot[id.index()].ends;
        (ends.backend, ends.local, ends.local_port) = (backend, local, server_key.dport);
        ends.flags |= BOUND | if kept { KEPT } else { 0 };
        self.link(id, Side::Server);
        true
    }

    /// Forgets the flow's server-side key, if it has one: another backend, or another port, is to be tried.
    pub fn unbind(&mut self, id: FlowId) {
        let ends = self.hot[id.index()].ends;
        if !ends.is(BOUND) {
            return;
        }
        self.unlink(id, Side::Server);
        self.hot[id.index()].ends.flags &= !(BOUND | KEPT);
        self.places.leave(ends.backend);
        if !ends.is(KEPT) {
            self.places.leave(ends.local);
        }
    }

    /// The flow that a frame with this key belongs to, and the side it came from.
    #[inline]
    pub fn lookup(&self, key: &Key) -> Option<(FlowId, Side)> {
        let tag = self.tag(key);
        let mut at = tag as usize & self.mask;
        // Half the slots are vacant, so this ends.
        loop {
            let slot = self.index[at];
            if slot.place == VACANT {
                return None;
            }
            if slot.tag == tag {
                let id = FlowId(slot.place >> 1);
                let side = if slot.place & 1 == 0 { Side::Client } else { Side::Server };
                if self.hot[id.index()].ends.key(side, &self.places) == *key {
                    return Some((id, side));
                }
            }
            at = (at + 1) & self.mask;
        }
    }

    /// Some flow has this key, on either side.
    pub fn contains(&self, key: &Key) -> bool {
        self.lookup(key).is_some()
    }

    /// The rest of the flow at `id`.
    ///
    /// # Panics
    /// When there is none: ids from [`FlowTable::lookup`] and [`FlowTable::insert`] hold until the flow's removal, older ones
    /// go through [`FlowTable::is_current`].
    pub fn get(&self, id: FlowId) -> &C {
        self.cold[id.index()].flow.as_ref().expect("a live flow")
    }

    /// As [`FlowTable::get`], to change it.
    ///
    /// # Panics
    /// When there is none.
    pub fn get_mut(&mut self, id: FlowId) -> &mut C {
        self.cold[id.index()].flow.as_mut().expect("a live flow")
    }

    /// Both parts of the flow at `id`.
    ///
    /// # Panics
    /// When there is none.
    pub fn both(&mut self, id: FlowId) -> (&mut H, &mut C) {
        (&mut self.hot[id.index()].flow, self.cold[id.index()].flow.as_mut().expect("a live flow"))
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
        let ends = &mut self.hot[id.index()].ends;
        ends.flags = 0;
        self.places.leave(ends.listener);
        let cold = &mut self.cold[id.index()];
        cold.generation = cold.generation.wrapping_add(1);
        self.free.push(id.0);
        cold.flow.take().expect("asserted above")
    }

    /// All flows, by place. Looks at every place: not for every packet.
    pub fn iter_ids(&self) -> impl Iterator<Item = FlowId> + '_ {
        (0..self.hot.len() as u32).map(FlowId).filter(|id| self.is_live(*id))
    }

    /// The first flow at `from` or after it: walks the table in portions while it changes.
    pub fn next_id(&self, from: FlowId) -> Option<FlowId> {
        (from.0..self.hot.len() as u32).map(FlowId).find(|id| self.is_live(*id))
    }

    #[inline]
    fn tag(&self, key: &Key) -> u32 {
        (self.hasher.hash(&key.to_bytes()) >> 32) as u32
    }

    /// Puts a key that is not in the index into it.
    fn link(&mut self, id: FlowId, side: Side) {
        let tag = self.tag(&self.hot[id.index()].ends.key(side, &self.places));
        let mut at = tag as usize & self.mask;
        while self.index[at].place != VACANT {
            at = (at + 1) & self.mask;
        }
        self.index[at] = Slot { tag, place: place_of(id, side) };
    }

    /// Takes a key that is in the index out of it.
    fn unlink(&mut self, id: FlowId, side: Side) {
        let tag = self.tag(&self.hot[id.index()].ends.key(side, &self.places));
        let mut hole = tag as usize & self.mask;
        // By place, not by key: exact even if the precondition of `insert` was broken.
        while self.index[hole].place != place_of(id, side) {
            debug_assert!(self.index[hole].place != VACANT, "{id:?} {side:?} is not in the index");
            hole = (hole + 1) & self.mask;
        }
        let mut at = hole;
        loop {
            at = (at + 1) & self.mask;
            let slot = self.index[at];
            if slot.place == VACANT {
                break;
            }
            // A key may move back to the hole unless its home lies behind it.
            let from_home = at.wrapping_sub(slot.tag as usize) & self.mask;
            let from_hole = at.wrapping_sub(hole) & self.mask;
            if from_home >= from_hole {
                self.index[hole] = slot;
                hole = at;
            }
        }
        self.index[hole] = EMPTY;
    }
}

/// Two keys a flow, at a load of at most 1/2.
const fn index_slots(capacity: usize) -> usize {
    (capacity * 4).next_power_of_two()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    /// Keys are few, so that sequences of operations meet each other.
    fn key(n: u16) -> Key {
        Key::v4([10, 0, 0, n as u8], 1000 + n, [10, 9, 9, 9], 443)
    }

    impl<H: Default, C> FlowTable<H, C> {
        /// What must hold of the index whatever was done to it.
        fn check(&self) {
            let mut keys = 0;
            for (at, slot) in self.index.iter().enumerate().filter(|(_, slot)| slot.place != VACANT) {
                keys += 1;
                let (id, side) = (FlowId(slot.place >> 1), [Side::Client, Side::Server][(slot.place & 1) as usize]);
                let key = self.key(id, side).expect("the index leads to live keys only");
                assert_eq!(self.tag(&key), slot.tag);
                let mut from = slot.tag as usize & self.mask;
                while from != at {
                    assert_ne!(self.index[from].place, VACANT, "a vacancy between a key and its home");
                    from = (from + 1) & self.mask;
                }
                assert_eq!(self.lookup(&key), Some((id, side)));
            }
            let live = self.iter_ids().map(|id| 1 + usize::from(self.key(id, Side::Server).is_some())).sum::<usize>();
            assert_eq!(keys, live, "every key of a live flow is in the index");
            assert!(keys * 2 <= self.index.len());
        }
    }

    #[derive(Clone, Debug)]
    enum Op {
        Insert(u16),
        Bind(u16, u16),
        Unbind(u16),
        Remove(u16),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            3 => (0..24u16).prop_map(Op::Insert),
            3 => (0..24u16, 0..24u16).prop_map(|(c, s)| Op::Bind(c, s)),
            1 => (0..24u16).prop_map(Op::Unbind),
            2 => (0..24u16).prop_map(Op::Remove),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(192))]
        #[test]
        fn it_agrees_with_two_hash_maps(secret: (u64, u64), ops in prop::collection::vec(op(), 1..200)) {
            const CAPACITY: usize = 9;
            let mut table = FlowTable::<u32, u32>::new(CAPACITY, secret);
            // Client key to (id, flow, server key), and server key to client key.
            let mut clients: HashMap<u16, (FlowId, u32, Option<u16>)> = HashMap::new();
            let mut servers: HashMap<u16, u16> = HashMap::new();
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
                    if let Some((id, Side::Client)) = expected {
                        prop_assert_eq!((*table.get(id), *table.hot(id)), (clients[&n].1, !clients[&n].1));
                        prop_assert_eq!(table.key(id, Side::Server), clients[&n].2.map(key));
                    }
                }
            }
        }

        /// All keys at home in three neighbouring slots around the index's end: one run that wraps, deleted in any order.
        #[test]
        fn a_run_across_the_end_survives_deletion_in_any_order(
            order in Just((0..16usize).collect::<Vec<_>>()).prop_shuffle(),
        ) {
            let mut table = FlowTable::<(), ()>::new(16, (1, 2));
            let end = table.mask;
            let crowd: Vec<Key> = (0..u16::MAX)
                .map(|port| Key::v4([192, 0, 2, 1], port, [192, 0, 2, 2], 443))
                .filter(|t| [end - 1, end, 0].contains(&(table.tag(t) as usize & end)))
                .take(32)
                .collect();
            let ids: Vec<_> = crowd[..16].iter().map(|t| table.insert(*t, (), ()).unwrap()).collect();
            for (id, t) in ids.iter().zip(&crowd[16..]) {
                prop_assert!(table.bind(*id, *t));
            }
            table.check();
            for &i in &order {
                if i % 2 == 0 {
                    table.unbind(ids[i]);
                    table.check();
                }
                table.remove(ids[i]);
                table.check();
                prop_assert!(!table.contains(&crowd[i]) && !table.contains(&crowd[16 + i]));
            }
            prop_assert!(table.index.iter().all(|slot| slot.place == VACANT), "nothing is left behind");
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
    fn the_secret_decides_where_a_key_lies() {
        let homes = |secret| {
            let table: FlowTable<(), ()> = FlowTable::new(1 << 10, secret);
            (0..64).map(|n| table.tag(&key(n)) as usize & table.mask).collect::<Vec<_>>()
        };
        assert_eq!(homes((1, 2)), homes((1, 2)));
        let same = homes((1, 2)).iter().zip(homes((1, 3))).filter(|(a, b)| **a == *b).count();
        assert!(same < 4, "{same} of 64 homes known without the secret");
    }

    #[test]
    fn the_server_side_may_have_the_clients_own_address_and_port_or_one_of_ours() {
        let mut table = FlowTable::<(), ()>::new(3, (7, 7));
        let client = key(1);
        let id = table.insert(client, (), ()).unwrap();
        let kept = Key::v4([10, 0, 5, 5], 8443, [10, 0, 0, 1], 1001);
        let ours = Key { dst: Addr::v4([10, 0, 5, 1]), dport: 40_000, ..kept };
        for server in [kept, ours, kept] {
            assert!(table.bind(id, server));
            assert_eq!((table.key(id, Side::Server), table.key(id, Side::Client)), (Some(server), Some(client)));
            table.check();
        }
        table.remove(id);
        table.check();
        assert_eq!(table.places.in_use(), 0);
    }

    #[test]
    fn memory_is_what_bytes_for_says() {
        let table: FlowTable<[u64; 9], [u64; 7]> = FlowTable::new(1000, (0, 0));
        let slabs = size_of_val(&*table.hot) + size_of_val(&*table.cold) + Places::bytes();
        let real = size_of_val(&*table.index) + slabs + table.free.capacity() * size_of::<u32>();
        assert_eq!(real, FlowTable::<[u64; 9], [u64; 7]>::bytes_for(1000));
    }
}
