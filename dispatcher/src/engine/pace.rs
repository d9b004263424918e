//! What a backend is given at this moment, of what it may have at most: less after a recovery (`slow-start`), and where that is to be found out (`max-handshakes = "auto"`), as
//! much as it does without getting slow.
//!
//! Limits are common to all workers, and worker 0 says them, ten times a second while they change. What every worker sees of handshakes goes into common cells
//! ([`Observed`]), which it empties. The weight of one that has recovered is each worker's own affair: of the new clients that the algorithm would give it, so many in a
//! thousand go there, and the others where they would go without it; and by least connections it is compared with others by so much of its weight. No table is
//! built anew for that, and a returning client goes to its server as ever.

use crate::backends::Health;
use crate::pack::{Pack, Packer, Unpacker, Unreadable, of_backend};
use crate::time::Time;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::*};
use core::time::Duration;
use lb::admission::auto::AUTO_WORDS;
use lb::admission::slots::{FULL, MOST};
use lb::admission::{Auto, Limits, Samples, Slots, SlowStart};
use lb::{BackendId, BackendLimits, Directory, MaxHandshakes, Millis, State};

/// Between two looks: as often as [`Auto`] decides.
const EVERY: Duration = lb::admission::auto::INTERVAL;

/// Bits of a word of times that are their sum; those above are their number.
const SUM: u32 = 44;

/// A sum and a number of times stay together, so that none is taken without the other.
#[derive(Default)]
#[repr(align(64))]
struct Cell {
    /// Full handshakes, and resumed ones: number and sum, in microseconds.
    times: [AtomicU64; 2],
    least: [AtomicU64; 2],
    /// Most units in use when a server answered.
    peak: AtomicU32,
}

/// How long handshakes took, as all workers saw it: a cell for each slot. Whoever adds does it once a handshake, and waits for nobody.
pub(super) struct Observed(Box<[Cell]>);

impl Observed {
    pub fn new(slots: usize) -> Observed {
        let cell = |_| Cell { least: [const { AtomicU64::new(u64::MAX) }; 2], ..Cell::default() };
        Observed((0..slots).map(cell).collect())
    }

    fn add(&self, id: BackendId, resumed: bool, took: Duration, units: u32) {
        let Some(cell) = self.0.get(id.index()) else { return };
        let micros = took.as_micros().min(10_000_000) as u64;
        let n = usize::from(resumed);
        cell.peak.fetch_max(units, Relaxed);
        // The least first: whoever finds the time counted finds it there, or has had it before.
        cell.least[n].fetch_min(micros, Relaxed);
        // A number beyond what fits falls out at the top: more than a million in a tenth of a second.
        cell.times[n].fetch_add(1 << SUM | micros, Release);
    }

    /// What was seen since the last call, and most units.
    fn take(&self, id: BackendId) -> (Samples, u32) {
        let mut samples = Samples::default();
        let Some(cell) = self.0.get(id.index()) else { return (samples, 0) };
        for n in [0, 1] {
            let word = cell.times[n].swap(0, Acquire);
            if word != 0 {
                let least = cell.least[n].swap(u64::MAX, Relaxed);
                let (count, sum) = ((word >> SUM) as u32, word & ((1 << SUM) - 1));
                samples.observe_all(n == 1, count, sum, least.min(sum / u64::from(count.max(1))));
            }
        }
        (samples, cell.peak.swap(0, Relaxed))
    }
}

/// A backend whose limits or weight are not always the same.
struct Paced {
    id: BackendId,
    generation: u32,
    /// It is to have no connections, as its operator or its agent says.
    off: bool,
    wanted: BackendLimits,
    slow: SlowStart,
    recovered: Option<Millis>,
    /// It was seen to be down, and has not come back.
    down: bool,
    auto: Option<Auto>,
}

impl Paced {
    /// What it may have now. One that is down has what it will begin with, so that no worker that sees it come back before this one gives it more.
    fn limits(&self, now: Millis) -> Limits {
        let wanted = Limits::from(self.wanted);
        let limits = self.auto.as_ref().map_or(wanted, |auto| auto.limits(Limits { units: None, ..wanted }));
        let mut slow = self.slow;
        if self.down {
            slow.recovered(now);
        }
        slow.limits(now, limits)
    }

    fn is_on(&self, now: Millis) -> bool {
        self.down || self.slow.is_on(now)
    }
}

/// Those of one worker.
#[derive(Default)]
pub(super) struct Pace {
    /// In order of their slots; bounded by the slots.
    all: Vec<Paced>,
    /// Some backend is down, or on its way up.
    on: bool,
    /// Some backend's limit is to be found out.
    finds_out: bool,
    /// What is known of backends' health was taken over up to this.
    seen: Option<u32>,
    due: Time,
}

impl Pace {
    /// Another version of the directory: those that stay go on as they were.
    pub fn follow(&mut self, directory: &Directory, observed: &Observed) {
        let before = core::mem::take(&mut self.all);
        let paced =
            |limits: &BackendLimits| limits.slow_start.is_some() || limits.max_handshakes == Some(MaxHandshakes::Auto);
        for backend in directory.backends().filter(|b| !b.leaving && paced(&b.limits)) {
            let (id, generation, wanted) = (backend.id, backend.generation, backend.limits);
            let old = before.binary_search_by_key(&id, |old| old.id).ok().map(|n| &before[n]);
            let old = old.filter(|old| old.generation == generation);
            let (recovered, down) = old.map_or((None, false), |old| (old.recovered, old.down));
            let mut slow = SlowStart::new(wanted.slow_start.unwrap_or_default());
            recovered.into_iter().for_each(|at| slow.recovered(at));
            let auto = (wanted.max_handshakes == Some(MaxHandshakes::Auto)).then(|| {
                old.and_then(|old| old.auto.clone()).unwrap_or_else(|| {
                    // What there is was another one's.
                    _ = observed.take(id);
                    Auto::new(4 * u32::from(FULL), MOST)
                })
            });
            let down = down && wanted.slow_start.is_some();
            let off = backend.state == State::Down;
            self.all.push(Paced { id, generation, off, wanted, slow, recovered, down, auto });
        }
        self.all.sort_unstable_by_key(|paced| paced.id);
        self.finds_out = self.all.iter().any(|paced| paced.auto.is_some());
        self.seen = None;
        self.due = Time::ZERO;
        self.on = !self.all.is_empty();
    }

    #[inline]
    fn get(&self, id: BackendId) -> Option<&Paced> {
        self.all.binary_search_by_key(&id, |paced| paced.id).ok().map(|n| &self.all[n])
    }

    /// The limits of a backend of the directory's, of which `wanted` are wanted.
    pub fn limits(&self, id: BackendId, wanted: BackendLimits, now: Millis) -> Limits {
        self.get(id).map_or(Limits::from(wanted), |paced| paced.limits(now))
    }

    /// Some backend gets less than its weight: each choice asks [`Pace::passes_by`].
    #[inline]
    pub fn is_on(&self) -> bool {
        self.on
    }

    /// The new client with this hash does not go to this backend yet. The hash stays, so who goes there goes on doing so while it recovers.
    pub fn passes_by(&self, id: BackendId, hash: u64, now: Millis) -> bool {
        self.get(id).is_some_and(|paced| {
            let draw = mix(hash ^ u64::from(id.0).wrapping_mul(0x9e37_79b9_7f4a_7c15)) % 1000;
            draw >= u64::from(paced.slow.thousandths(now).max(1))
        })
    }

    /// Those that get less than their weight now, and how many thousandths of it.
    pub fn slow(&self, now: Millis) -> impl Iterator<Item = (BackendId, u32)> + '_ {
        self.all.iter().filter(move |p| p.slow.is_on(now)).map(move |p| (p.id, p.slow.thousandths(now).max(1)))
    }

    /// A server's hello has come.
    pub fn answered(&self, observed: &Observed, slots: &Slots, id: BackendId, resumed: bool, took: Duration) {
        if self.finds_out && self.get(id).is_some_and(|paced| paced.auto.is_some()) {
            observed.add(id, resumed, took, slots.used(id).units);
        }
    }

    /// Writes how far they have got. `gathers`: this is the one who says limits.
    pub fn pack(&mut self, observed: &Observed, gathers: bool, to: &mut Packer) {
        (self.due, self.all.len() as u32).pack(to);
        for paced in &mut self.all {
            if let Some(auto) = paced.auto.as_mut().filter(|_| gathers) {
                let (samples, peak) = observed.take(paced.id);
                auto.gather(&samples, peak);
            }
            to.sized(|to| {
                (paced.id, paced.off).pack(to);
                (paced.recovered, paced.down).pack(to);
                paced.auto.as_ref().map(Auto::to_words).pack(to);
            });
        }
    }

    /// Goes on from what another process knew of those that are here, too. `slots`: of the one who says limits.
    pub fn take_over(&mut self, from: &mut Unpacker<'_>, slots: Option<&Slots>, now: Time) -> Result<(), Unreadable> {
        let (due, count) = <(Time, u32)>::unpack(from)?;
        self.due = due;
        for _ in 0..count {
            let mut one = from.sized()?;
            let Some((id, _)) = of_backend::<(BackendId, bool)>(&mut one)? else { continue };
            let (recovered, down) = <(Option<Millis>, bool)>::unpack(&mut one)?;
            let auto = Option::<[u64; AUTO_WORDS]>::unpack(&mut one)?;
            let Ok(n) = self.all.binary_search_by_key(&id, |paced| paced.id) else { continue };
            let paced = &mut self.all[n];
            if paced.wanted.slow_start.is_some() {
                (paced.recovered, paced.down) = (recovered, down);
                recovered.into_iter().for_each(|at| paced.slow.recovered(at));
            }
            if let (Some(mine), Some(words)) = (&mut paced.auto, auto)
                && !mine.go_on_from(&words)
            {
                return Err(Unreadable::Impossible("a limit that is found out"));
            }
            slots.into_iter().for_each(|slots| slots.set_limits(id, paced.limits(Millis(now.as_millis()))));
        }
        Ok(())
    }

    /// There is something to look at.
    #[inline]
    pub fn is_due(&self, now: Time, health: &Health) -> bool {
        !self.all.is_empty() && (self.seen != Some(health.changes()) || (self.on || self.finds_out) && now >= self.due)
    }

    /// When there is, whatever the backends' health, for the one who says limits.
    pub fn due(&self) -> Option<Time> {
        (!self.all.is_empty() && (self.on || self.finds_out)).then_some(self.due)
    }

    /// Who is down, who has come back, and how far it has got.
    pub fn look(&mut self, health: &Health, now: Time) {
        let at = Millis(now.as_millis());
        let news = self.seen.replace(health.changes()) != Some(health.changes());
        for paced in self.all.iter_mut().filter(|paced| news && paced.wanted.slow_start.is_some()) {
            let up = !paced.off && health.is_up(paced.id);
            if paced.down && up {
                paced.recovered = Some(at);
                paced.slow.recovered(at);
            }
            // One that is fresh has not been anything yet.
            paced.down = !up && (paced.down || paced.off || !health.is_fresh(paced.id));
        }
        self.on = self.all.iter().any(|paced| paced.is_on(at));
        self.due = now + EVERY;
    }

    /// What limits are now, by all that was seen: `raised` is told of those that have more than they had. For one worker alone.
    pub fn say(&mut self, observed: &Observed, slots: &Slots, now: Millis, mut raised: impl FnMut(BackendId)) {
        for paced in &mut self.all {
            if let Some(auto) = &mut paced.auto {
                let (samples, peak) = observed.take(paced.id);
                auto.adjust(now, &samples, peak);
            }
            let (before, limits) = (slots.limits(paced.id), paced.limits(now));
            if limits != before {
                slots.set_limits(paced.id, limits);
                raised(paced.id);
            }
        }
    }
}

/// The finalizer of splitmix64: neighbouring numbers become unlike.
fn mix(x: u64) -> u64 {
    let x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_several_workers_saw_is_taken_once_and_whole() {
        let observed = Observed::new(2);
        std::thread::scope(|scope| {
            for worker in 0..4u64 {
                let observed = &observed;
                scope.spawn(move || {
                    (0..1000).for_each(|n| {
                        observed.add(BackendId(1), n % 2 == 0, Duration::from_micros(100 + worker), n as u32 % 50)
                    })
                });
            }
        });
        let mut all = Samples::default();
        (0..4000u64).for_each(|n| all.observe(n % 2 == 0, 100 + n / 1000));
        assert_eq!(observed.take(BackendId(1)), (all, 49));
        assert_eq!(observed.take(BackendId(1)), (Samples::default(), 0));
        observed.add(BackendId(2), false, Duration::MAX, 1);
        assert_eq!(observed.take(BackendId(2)).1, 0, "no such slot");
    }
}
