//! What a worker's ended connections add up to.

use super::timings::ByService;
use crate::engine::{BALANCED, Class, ConnectionRecord};
use crate::pack::{Pack, Packer, Unpacker, Unreadable, count};
use lb::{BackendId, Reason};
use std::collections::HashMap;
use std::sync::Arc;

/// Most backends that are told apart: as many as there can be at once, and three times as many that were there before.
/// Those beyond are summed up.
pub const MOST_BACKENDS: usize = 4 * lb::MAX_BACKENDS;

/// Sums over ended connections.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Totals {
    /// All of them.
    pub connections: u64,
    /// That began with a ClientHello.
    pub secure: u64,
    /// That offered to resume something.
    pub offered: u64,
    /// Whose server's answer showed that it resumed.
    pub resumed: u64,
    /// By the row that led them, in the order of [`Reason::ALL`].
    pub led: [u64; Reason::ALL.len()],
    /// That no row led.
    pub balanced: u64,
    /// By backend: those of the start in the order of the command line, then the others in the order in which they were met. One that
    /// has left keeps its sums.
    pub backends: Vec<BackendTotals>,
    /// Their places by name: there may be a thousand.
    places: HashMap<Arc<str>, u32>,
    /// The same by slot, with the generation of whoever had it last.
    slots: Vec<(u32, Option<u32>)>,
    /// Of backends beyond [`MOST_BACKENDS`].
    pub beyond: BackendTotals,
    /// That reached none.
    pub no_backend: u64,
    /// How long they took.
    pub timings: ByService,
}

/// Sums over the connections of one backend.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct BackendTotals {
    /// Its name.
    pub name: Arc<str>,
    /// All of them.
    pub connections: u64,
    /// That resumed a session.
    pub resumed: u64,
    /// That began a new session.
    pub new_sessions: u64,
    /// Stream bytes from clients.
    pub bytes_to_server: u64,
    /// Stream bytes to clients.
    pub bytes_to_client: u64,
}

impl Totals {
    /// All zero, for backends of these names.
    pub fn new(backends: Vec<String>) -> Totals {
        let mut totals = Totals::default();
        backends.iter().for_each(|name| _ = totals.entry(name));
        totals
    }

    /// How many went where they went for which reason.
    pub fn reasons(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let led = Reason::ALL.iter().zip(self.led).map(|(reason, n)| (reason.as_str(), n));
        led.chain([(BALANCED, self.balanced)])
    }

    /// What is known of a backend; none before its first connection has ended, unless it was there from the start.
    pub fn backend(&self, name: &str) -> Option<&BackendTotals> {
        self.backends.get(*self.places.get(name)? as usize)
    }

    /// The place of a backend's sums; none: it is one too many. Allocates at the first one of it.
    fn place(&mut self, name: &str) -> Option<u32> {
        if let Some(at) = self.places.get(name) {
            return Some(*at);
        }
        if self.backends.len() >= MOST_BACKENDS {
            return None;
        }
        let (at, name) = (self.backends.len() as u32, Arc::<str>::from(name));
        self.places.insert(name.clone(), at);
        self.backends.push(BackendTotals { name, ..BackendTotals::default() });
        Some(at)
    }

    /// The same of whoever has a slot: its name is looked for only when it is another than before.
    fn place_of(&mut self, (id, generation): (BackendId, u32), name: &str) -> Option<u32> {
        if let Some((of, at)) = self.slots.get(id.index())
            && *of == generation
            && at.is_some()
        {
            return *at;
        }
        let at = self.place(name)?;
        if self.slots.len() <= id.index() {
            self.slots.resize(id.index() + 1, (0, None));
        }
        self.slots[id.index()] = (generation, Some(at));
        Some(at)
    }

    fn at(&mut self, place: Option<u32>) -> &mut BackendTotals {
        place.and_then(|at| self.backends.get_mut(at as usize)).unwrap_or(&mut self.beyond)
    }

    fn entry(&mut self, name: &str) -> &mut BackendTotals {
        let place = self.place(name);
        self.at(place)
    }

    /// Adds another worker's.
    pub fn merge(&mut self, other: &Totals) {
        self.connections += other.connections;
        self.secure += other.secure;
        self.offered += other.offered;
        self.resumed += other.resumed;
        self.no_backend += other.no_backend;
        self.balanced += other.balanced;
        for (mine, theirs) in self.led.iter_mut().zip(other.led) {
            *mine += theirs;
        }
        // By name: workers meet new backends in different orders.
        other.backends.iter().for_each(|theirs| self.entry(&theirs.name).merge(theirs));
        self.beyond.merge(&other.beyond);
        self.timings.merge(&other.timings);
    }

    /// One more connection.
    pub fn add(&mut self, record: &ConnectionRecord<'_>) {
        self.connections += 1;
        self.timings.add(record);
        self.secure += u64::from(record.class == Class::Secure);
        self.offered += u64::from(!record.offered.is_empty());
        self.resumed += u64::from(record.resumed == Some(true));
        match record.reason {
            Some(reason) => self.led[reason as usize] += 1,
            None => self.balanced += 1,
        }
        let Some(name) = record.backend else {
            self.no_backend += 1;
            return;
        };
        let place = match record.slot {
            Some(slot) => self.place_of(slot, name),
            None => self.place(name),
        };
        let backend = self.at(place);
        backend.connections += 1;
        backend.resumed += u64::from(record.resumed == Some(true));
        backend.new_sessions += u64::from(record.resumed == Some(false));
        backend.bytes_to_server += record.bytes_to_server;
        backend.bytes_to_client += record.bytes_to_client;
    }
}

impl Totals {
    /// Writes them.
    pub(super) fn pack(&self, to: &mut Packer) {
        // Places are found again by names.
        let Totals {
            connections,
            secure,
            offered,
            resumed,
            led,
            balanced,
            backends,
            places: _,
            slots: _,
            beyond,
            no_backend,
            timings,
        } = self;
        ((*connections, *secure), (*offered, *resumed)).pack(to);
        (led.len() as u8).pack(to);
        led.iter().for_each(|n| n.pack(to));
        (*balanced, *no_backend).pack(to);
        beyond.pack(to);
        (backends.len() as u32).pack(to);
        backends.iter().for_each(|backend| backend.pack(to));
        timings.pack(to);
    }

    /// Adds those of another process.
    pub(super) fn take_over(&mut self, from: &mut Unpacker<'_>) -> Result<(), Unreadable> {
        let mut theirs = Totals::default();
        (theirs.connections, theirs.secure) = (count(from)?, count(from)?);
        (theirs.offered, theirs.resumed) = (count(from)?, count(from)?);
        for n in 0..usize::from(u8::unpack(from)?) {
            let number = count(from)?;
            theirs.led.get_mut(n).into_iter().for_each(|mine| *mine = number);
        }
        (theirs.balanced, theirs.no_backend) = (count(from)?, count(from)?);
        theirs.beyond = Pack::unpack(from)?;
        for _ in 0..u32::unpack(from)? {
            let backend = BackendTotals::unpack(from)?;
            theirs.entry(&backend.name).merge(&backend);
        }
        theirs.timings.take_over(from)?;
        self.merge(&theirs);
        Ok(())
    }
}

impl Pack for BackendTotals {
    fn pack(&self, to: &mut Packer) {
        let BackendTotals { name, connections, resumed, new_sessions, bytes_to_server, bytes_to_client } = self;
        name.to_string().pack(to);
        ((*connections, *resumed), *new_sessions).pack(to);
        (*bytes_to_server, *bytes_to_client).pack(to);
    }
    fn unpack(from: &mut Unpacker<'_>) -> Result<BackendTotals, Unreadable> {
        let name = String::unpack(from)?.into();
        let (connections, resumed, new_sessions) = (count(from)?, count(from)?, count(from)?);
        let (bytes_to_server, bytes_to_client) = (count(from)?, count(from)?);
        Ok(BackendTotals { name, connections, resumed, new_sessions, bytes_to_server, bytes_to_client })
    }
}

impl BackendTotals {
    fn merge(&mut self, other: &BackendTotals) {
        self.connections += other.connections;
        self.resumed += other.resumed;
        self.new_sessions += other.new_sessions;
        self.bytes_to_server += other.bytes_to_server;
        self.bytes_to_client += other.bytes_to_client;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn met(totals: &mut Totals, name: &str, connections: u64) {
        totals.entry(name).connections += connections;
    }

    #[test]
    fn workers_that_met_backends_in_different_orders_are_summed_by_name() {
        let start = vec!["web1".to_string(), "web2".into()];
        let (mut a, mut b) = (Totals::new(start.clone()), Totals::new(start));
        [("web2", 1), ("new1", 2), ("new2", 4)].iter().for_each(|(name, n)| met(&mut a, name, *n));
        [("new2", 8), ("web2", 16), ("new3", 32)].iter().for_each(|(name, n)| met(&mut b, name, *n));
        a.merge(&b);
        let all: Vec<_> = a.backends.iter().map(|b| (&*b.name, b.connections)).collect();
        assert_eq!(all, [("web1", 0), ("web2", 17), ("new1", 2), ("new2", 12), ("new3", 32)]);
        assert_eq!(a.backend("new2").map(|b| b.connections), Some(12));
        assert_eq!(a.backend("web9"), None);
    }

    #[test]
    fn beyond_the_bound_nothing_is_lost_and_nothing_grows() {
        let mut totals = Totals::default();
        for n in 0..MOST_BACKENDS + 100 {
            met(&mut totals, &format!("web{n}"), 1);
        }
        met(&mut totals, "web0", 1);
        assert_eq!((totals.backends.len(), totals.backends[0].connections), (MOST_BACKENDS, 2));
        assert_eq!(totals.beyond.connections, 100);
        let mut sum = totals.clone();
        sum.merge(&totals);
        assert_eq!((sum.backends.len(), sum.beyond.connections), (MOST_BACKENDS, 200));
    }

    #[test]
    fn a_slot_that_another_backend_was_given_counts_for_that_one() {
        let mut totals = Totals::new(vec!["web1".into()]);
        let mut ends = |slot, generation, name: &str| {
            let place = totals.place_of((BackendId(slot), generation), name);
            totals.at(place).connections += 1;
        };
        [("web1", 1), ("web1", 1), ("web2", 2), ("web1", 3), ("web2", 2)]
            .iter()
            .for_each(|(name, generation)| ends(3, *generation, name));
        ends(0, 1, "web1");
        assert_eq!(totals.backend("web1").map(|b| b.connections), Some(4));
        assert_eq!(totals.backend("web2").map(|b| b.connections), Some(2));
        assert_eq!(totals.backends.len(), 2);
    }
}
