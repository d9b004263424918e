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

use core::fmt;
use core::hash::Hash;
use siphasher::sip::SipHasher13;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Addresses and ports of one direction of one connection, source first.
///
/// IPv4 addresses are held as v4-mapped (RFC 4291, section 2.5.5.2), which no frame may carry as IPv6, so the two
/// families cannot collide.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tuple {
    /// Source address.
    pub src: [u8; 16],
    /// Destination address.
    pub dst: [u8; 16],
    /// Source port.
    pub sport: u16,
    /// Destination port.
    pub dport: u16,
}

const V4_MAPPED: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

/// An address in 16 bytes.
fn octets(addr: IpAddr) -> [u8; 16] {
    match addr {
        IpAddr::V4(a) => a.to_ipv6_mapped().octets(),
        IpAddr::V6(a) => a.octets(),
    }
}

/// The address that 16 bytes stand for.
fn address(octets: &[u8; 16]) -> IpAddr {
    match octets {
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d] => IpAddr::V4(Ipv4Addr::new(*a, *b, *c, *d)),
        _ => IpAddr::V6(Ipv6Addr::from(*octets)),
    }
}

impl Tuple {
    /// From IPv4 addresses as a header carries them.
    #[inline]
    pub const fn v4(src: [u8; 4], sport: u16, dst: [u8; 4], dport: u16) -> Tuple {
        const fn mapped(a: [u8; 4]) -> [u8; 16] {
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a[0], a[1], a[2], a[3]]
        }
        Tuple { src: mapped(src), dst: mapped(dst), sport, dport }
    }

    /// From IPv6 addresses as a header carries them.
    #[inline]
    pub const fn v6(src: [u8; 16], sport: u16, dst: [u8; 16], dport: u16) -> Tuple {
        Tuple { src, dst, sport, dport }
    }

    /// From addresses of any family.
    pub fn new(src: IpAddr, sport: u16, dst: IpAddr, dport: u16) -> Tuple {
        Tuple { src: octets(src), dst: octets(dst), sport, dport }
    }

    /// From two endpoints.
    pub fn between(src: SocketAddr, dst: SocketAddr) -> Tuple {
        Tuple::new(src.ip(), src.port(), dst.ip(), dst.port())
    }

    /// The same connection, seen in a frame going the other way.
    #[inline]
    pub const fn reversed(&self) -> Tuple {
        Tuple { src: self.dst, dst: self.src, sport: self.dport, dport: self.sport }
    }

    /// Both addresses are IPv4.
    #[inline]
    pub fn is_v4(&self) -> bool {
        self.src[..12] == V4_MAPPED && self.dst[..12] == V4_MAPPED
    }

    /// Source address and port.
    pub fn source(&self) -> SocketAddr {
        SocketAddr::new(address(&self.src), self.sport)
    }

    /// Destination address and port.
    pub fn destination(&self) -> SocketAddr {
        SocketAddr::new(address(&self.dst), self.dport)
    }

    /// All 36 bytes in a fixed order, to be hashed.
    #[inline]
    pub(crate) fn to_bytes(self) -> [u8; 36] {
        let mut bytes = [0; 36];
        bytes[..16].copy_from_slice(&self.src);
        bytes[16..32].copy_from_slice(&self.dst);
        bytes[32..34].copy_from_slice(&self.sport.to_be_bytes());
        bytes[34..].copy_from_slice(&self.dport.to_be_bytes());
        bytes
    }
}

impl fmt::Debug for Tuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {}", self.source(), self.destination())
    }
}

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

/// One place of the slab.
struct Entry<F> {
    /// By [`Side`]. The client's is meaningful while `flow` is there, the server's while `bound` too.
    tuples: [Tuple; 2],
    bound: bool,
    generation: u32,
    flow: Option<F>,
}

/// Flows of type `F`, found by either of their two tuples.
pub struct FlowTable<F> {
    key: SipHasher13,
    index: Box<[Slot]>,
    /// `index.len() - 1`; the length is a power of two.
    mask: usize,
    entries: Box<[Entry<F>]>,
    /// A stack: what was used last is still in the cache.
    free: Vec<u32>,
}

impl<F> FlowTable<F> {
    /// Most flows a table can be made for.
    pub const MAX_CAPACITY: usize = 1 << 29;

    /// A table of at most `capacity` flows, hashed under `key`: keep it secret, never derive it from the time.
    ///
    /// # Panics
    /// When `capacity` is 0 or exceeds [`FlowTable::MAX_CAPACITY`].
    pub fn new(capacity: usize, key: (u64, u64)) -> FlowTable<F> {
        assert!((1..=Self::MAX_CAPACITY).contains(&capacity), "a flow table of {capacity} flows");
        let slots = index_slots(capacity);
        let unset = Tuple { src: [0; 16], dst: [0; 16], sport: 0, dport: 0 };
        FlowTable {
            key: SipHasher13::new_with_keys(key.0, key.1),
            index: vec![EMPTY; slots].into_boxed_slice(),
            mask: slots - 1,
            entries: (0..capacity)
                .map(|_| Entry { tuples: [unset; 2], bound: false, generation: 0, flow: None })
                .collect(),
            free: (0..capacity as u32).rev().collect(),
        }
    }

    /// Memory of a table of `capacity` flows, bytes.
    pub const fn bytes_for(capacity: usize) -> usize {
        index_slots(capacity) * size_of::<Slot>() + capacity * (size_of::<Entry<F>>() + size_of::<u32>())
    }

    /// Flows in the table.
    pub fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// No flow is in the table.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Flows there is room for in all.
    pub fn capacity(&self) -> usize {
        self.entries.len()
    }

    /// Adds a flow whose client's frames carry `client_tuple`. `None` when the table is full: the flow is dropped, and
    /// the client's retransmission may find room.
    ///
    /// No flow may have this tuple yet; only debug builds check it.
    pub fn insert(&mut self, client_tuple: Tuple, flow: F) -> Option<FlowId> {
        debug_assert!(!self.contains(&client_tuple), "{client_tuple:?} has a flow");
        let id = FlowId(self.free.pop()?);
        let entry = &mut self.entries[id.index()];
        entry.tuples[Side::Client as usize] = client_tuple;
        entry.bound = false;
        entry.flow = Some(flow);
        self.link(id, Side::Client);
        Some(id)
    }

    /// Lets the flow also be found by `server_tuple`, as the backend's frames will carry it; replaces an earlier
    /// one. False, and nothing changed, when that tuple leads to a flow already (this one included).
    ///
    /// # Panics
    /// When there is no such flow.
    pub fn bind(&mut self, id: FlowId, server_tuple: Tuple) -> bool {
        assert!(self.is_live(id), "{id:?} is no flow");
        if self.contains(&server_tuple) {
            return false;
        }
        self.unbind(id);
        let entry = &mut self.entries[id.index()];
        entry.tuples[Side::Server as usize] = server_tuple;
        entry.bound = true;
        self.link(id, Side::Server);
        true
    }

    /// Forgets the flow's server-side tuple, if it has one: another backend, or another port, is to be tried.
    pub fn unbind(&mut self, id: FlowId) {
        if self.entries[id.index()].bound {
            self.unlink(id, Side::Server);
            self.entries[id.index()].bound = false;
        }
    }

    /// The flow that a frame with this tuple belongs to, and the side it came from.
    #[inline]
    pub fn lookup(&self, tuple: &Tuple) -> Option<(FlowId, Side)> {
        let tag = self.tag(tuple);
        let mut at = tag as usize & self.mask;
        // Half the slots are vacant, so this ends.
        loop {
            let slot = self.index[at];
            if slot.place == VACANT {
                return None;
            }
            if slot.tag == tag {
                let (id, side) = (slot.place >> 1, slot.place & 1);
                if self.entries[id as usize].tuples[side as usize] == *tuple {
                    return Some((FlowId(id), if side == 0 { Side::Client } else { Side::Server }));
                }
            }
            at = (at + 1) & self.mask;
        }
    }

    /// Some flow has this tuple, on either side.
    pub fn contains(&self, tuple: &Tuple) -> bool {
        self.lookup(tuple).is_some()
    }

    /// The flow at `id`.
    ///
    /// # Panics
    /// When there is none: ids from [`FlowTable::lookup`] and [`FlowTable::insert`] hold until the flow's removal, older ones
    /// go through [`FlowTable::is_current`].
    #[inline]
    pub fn get(&self, id: FlowId) -> &F {
        self.entries[id.index()].flow.as_ref().expect("a live flow")
    }

    /// The flow at `id`, to change it.
    ///
    /// # Panics
    /// When there is none.
    #[inline]
    pub fn get_mut(&mut self, id: FlowId) -> &mut F {
        self.entries[id.index()].flow.as_mut().expect("a live flow")
    }

    /// The flow at `id` to change it, and its tuples by [`Side`], in one look; the server's is `None` while not bound.
    ///
    /// # Panics
    /// When there is none.
    #[inline]
    pub fn get_with_tuples(&mut self, id: FlowId) -> (&mut F, &Tuple, Option<&Tuple>) {
        let Entry { tuples: [client, server], bound, flow, .. } = &mut self.entries[id.index()];
        (flow.as_mut().expect("a live flow"), client, bound.then_some(server))
    }

    /// Some flow is at `id`, be it the one meant or a later one.
    pub fn is_live(&self, id: FlowId) -> bool {
        self.entries.get(id.index()).is_some_and(|e| e.flow.is_some())
    }

    /// How many flows have been removed from this place, modulo 2^32. Together with `id` it names one flow for good.
    pub fn generation(&self, id: FlowId) -> u32 {
        self.entries[id.index()].generation
    }

    /// The flow that had `id` when its place was at `generation` is still there.
    pub fn is_current(&self, id: FlowId, generation: u32) -> bool {
        self.is_live(id) && self.generation(id) == generation
    }

    /// The tuple by which frames from `side` find the flow.
    #[inline]
    pub fn tuple(&self, id: FlowId, side: Side) -> Option<&Tuple> {
        let entry = &self.entries[id.index()];
        (entry.flow.is_some() && (side == Side::Client || entry.bound)).then(|| &entry.tuples[side as usize])
    }

    /// Takes the flow out, with both its tuples.
    ///
    /// # Panics
    /// When there is none.
    pub fn remove(&mut self, id: FlowId) -> F {
        assert!(self.is_live(id), "{id:?} is no flow");
        self.unbind(id);
        self.unlink(id, Side::Client);
        let entry = &mut self.entries[id.index()];
        entry.generation = entry.generation.wrapping_add(1);
        self.free.push(id.0);
        entry.flow.take().expect("asserted above")
    }

    /// All flows, by place. Looks at every place: not for every packet.
    pub fn iter_ids(&self) -> impl Iterator<Item = FlowId> + '_ {
        (0..self.entries.len() as u32).map(FlowId).filter(|id| self.is_live(*id))
    }

    /// The first flow at `from` or after it: walks the table in portions while it changes.
    pub fn next_id(&self, from: FlowId) -> Option<FlowId> {
        (from.0..self.entries.len() as u32).map(FlowId).find(|id| self.is_live(*id))
    }

    #[inline]
    fn tag(&self, tuple: &Tuple) -> u32 {
        (self.key.hash(&tuple.to_bytes()) >> 32) as u32
    }

    /// Puts a key that is not in the index into it.
    fn link(&mut self, id: FlowId, side: Side) {
        let tag = self.tag(&self.entries[id.index()].tuples[side as usize]);
        let mut at = tag as usize & self.mask;
        while self.index[at].place != VACANT {
            at = (at + 1) & self.mask;
        }
        self.index[at] = Slot { tag, place: place_of(id, side) };
    }

    /// Takes a key that is in the index out of it.
    fn unlink(&mut self, id: FlowId, side: Side) {
        let tag = self.tag(&self.entries[id.index()].tuples[side as usize]);
        let mut hole = tag as usize & self.mask;
        // By place, not by tuple: exact even if the precondition of `insert` was broken.
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

    /// Tuples are few, so that sequences of operations meet each other.
    fn tuple(n: u16) -> Tuple {
        Tuple::v4([10, 0, 0, n as u8], 1000 + n, [10, 9, 9, 9], 443)
    }

    impl<F> FlowTable<F> {
        /// What must hold of the index whatever was done to it.
        fn check(&self) {
            let mut keys = 0;
            for (at, slot) in self.index.iter().enumerate().filter(|(_, slot)| slot.place != VACANT) {
                keys += 1;
                let (id, side) = (FlowId(slot.place >> 1), [Side::Client, Side::Server][(slot.place & 1) as usize]);
                let tuple = self.tuple(id, side).expect("the index leads to live keys only");
                assert_eq!(self.tag(tuple), slot.tag);
                let mut from = slot.tag as usize & self.mask;
                while from != at {
                    assert_ne!(self.index[from].place, VACANT, "a vacancy between a key and its home");
                    from = (from + 1) & self.mask;
                }
                assert_eq!(self.lookup(tuple), Some((id, side)));
            }
            let live = self.iter_ids().map(|id| 1 + usize::from(self.tuple(id, Side::Server).is_some())).sum::<usize>();
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
        fn it_agrees_with_two_hash_maps(key: (u64, u64), ops in prop::collection::vec(op(), 1..200)) {
            const CAPACITY: usize = 9;
            let mut table = FlowTable::new(CAPACITY, key);
            // Client tuple to (id, flow, server tuple), and server tuple to client tuple.
            let mut clients: HashMap<u16, (FlowId, u32, Option<u16>)> = HashMap::new();
            let mut servers: HashMap<u16, u16> = HashMap::new();
            for (serial, op) in ops.into_iter().enumerate() {
                match op {
                    Op::Insert(c) => {
                        if clients.contains_key(&c) || servers.contains_key(&c) {
                            prop_assert!(table.contains(&tuple(c)));
                            continue;
                        }
                        let id = table.insert(tuple(c), serial as u32);
                        prop_assert_eq!(id.is_none(), clients.len() == CAPACITY);
                        if let Some(id) = id {
                            clients.insert(c, (id, serial as u32, None));
                        }
                    }
                    Op::Bind(c, s) => {
                        let taken = clients.contains_key(&s) || servers.contains_key(&s);
                        let Some(client) = clients.get_mut(&c) else { continue };
                        prop_assert_eq!(table.bind(client.0, tuple(s)), !taken);
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
                    prop_assert_eq!(table.lookup(&tuple(n)), expected);
                    if let Some((id, Side::Client)) = expected {
                        prop_assert_eq!(*table.get(id), clients[&n].1);
                        prop_assert_eq!(table.tuple(id, Side::Server).copied(), clients[&n].2.map(tuple));
                    }
                }
            }
        }

        /// All keys at home in three neighbouring slots around the index's end: one run that wraps, deleted in any order.
        #[test]
        fn a_run_across_the_end_survives_deletion_in_any_order(
            order in Just((0..16usize).collect::<Vec<_>>()).prop_shuffle(),
        ) {
            let mut table = FlowTable::new(16, (1, 2));
            let end = table.mask;
            let crowd: Vec<Tuple> = (0..u16::MAX)
                .map(|port| Tuple::v4([192, 0, 2, 1], port, [192, 0, 2, 2], 443))
                .filter(|t| [end - 1, end, 0].contains(&(table.tag(t) as usize & end)))
                .take(32)
                .collect();
            let ids: Vec<_> = crowd[..16].iter().map(|t| table.insert(*t, ()).unwrap()).collect();
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
        let mut table = FlowTable::new(3, (7, 7));
        let ids: Vec<_> = (0..3).map(|n| table.insert(tuple(n), n).unwrap()).collect();
        assert_eq!(table.insert(tuple(3), 3), None);
        assert_eq!((table.len(), table.contains(&tuple(3))), (3, false));
        assert!(ids.iter().zip(10..).all(|(id, n)| table.bind(*id, tuple(n))), "server sides always have room");
        let stale = table.generation(ids[1]);
        table.remove(ids[1]);
        let again = table.insert(tuple(3), 3).unwrap();
        assert_eq!(again, ids[1]);
        assert!(table.is_live(again) && !table.is_current(again, stale));
        assert_eq!(table.tuple(again, Side::Server), None, "the earlier flow's server side is not inherited");
        assert_eq!(table.next_id(FlowId(2)), Some(ids[2]));
        table.check();
    }

    #[test]
    fn the_key_decides_where_a_tuple_lies() {
        let homes = |key| {
            let table: FlowTable<()> = FlowTable::new(1 << 10, key);
            (0..64).map(|n| table.tag(&tuple(n)) as usize & table.mask).collect::<Vec<_>>()
        };
        assert_eq!(homes((1, 2)), homes((1, 2)));
        let same = homes((1, 2)).iter().zip(homes((1, 3))).filter(|(a, b)| **a == *b).count();
        assert!(same < 4, "{same} of 64 homes known without the key");
    }

    #[test]
    fn tuples_keep_their_addresses_and_families() {
        let (c, v): (SocketAddr, SocketAddr) = ("10.0.0.7:41022".parse().unwrap(), "10.0.9.1:443".parse().unwrap());
        let t = Tuple::between(c, v);
        assert_eq!(t, Tuple::v4([10, 0, 0, 7], 41022, [10, 0, 9, 1], 443));
        assert_eq!((t.source(), t.destination(), t.is_v4()), (c, v, true));
        assert_eq!(t.reversed(), Tuple::between(v, c));
        let (c, v): (SocketAddr, SocketAddr) =
            ("[2001:db8::7]:1".parse().unwrap(), "[2001:db8::1]:443".parse().unwrap());
        let t = Tuple::between(c, v);
        assert_eq!((t.source(), t.destination(), t.is_v4()), (c, v, false));
    }

    #[test]
    fn memory_is_what_bytes_for_says() {
        let table: FlowTable<[u64; 9]> = FlowTable::new(1000, (0, 0));
        let real = size_of_val(&*table.index) + size_of_val(&*table.entries) + table.free.capacity() * size_of::<u32>();
        assert_eq!(real, FlowTable::<[u64; 9]>::bytes_for(1000));
    }
}
