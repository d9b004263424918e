//! `max-handshakes = "auto"`: how much a backend can do at a time, found out from how long it takes.
//!
//! The time from a server's SYN-ACK to its ServerHello is seen in clear, and nothing is needed of the server. It is the time of its work when it has
//! room, and grows when handshakes wait inside. So the limit is raised by [`STEP`] while it is used and times are good, and cut to [`KEPT`] percent
//! when they are [`SLOW`] percent of the best: additive increase, multiplicative decrease (Chiu and Jain, Computer Networks and ISDN Systems 17, 1989), as TCP does it and Envoy's adaptive
//! concurrency for HTTP. Resumed and full handshakes are told apart, since a mixture that changes must not look like a server that does.
//!
//! The best is that of the last [`WINDOW`] to twice as long, so that a server that becomes another one is learned anew. Since under load there may be no good time in
//! a whole window, and what is bad would slowly be taken for best, each begins with a look at the server with a [`QUARTER`] of the limit, for two intervals: as BBR drains its
//! pipe to see the path's delay (Cardwell et al.: BBR, ACM Queue 14:5, 2016), and Envoy its concurrency.

use super::slots::{FULL, Limits, MOST};
use crate::time::{Millis, millis};
use core::time::Duration;

/// Units more after a good interval.
pub const STEP: u32 = FULL as u32;

/// Percent of the limit that remain after a bad one.
pub const KEPT: u32 = 70;

/// Percent of the best time, at which an interval is bad.
pub const SLOW: u64 = 200;

/// Part of the limit that is used while the best time is looked for: the limit is never more than about twice what the server can do at a time.
pub const QUARTER: u32 = 4;

/// Between two decisions.
pub const INTERVAL: Duration = Duration::from_millis(100);

/// For how long the best time is the best.
pub const WINDOW: Duration = Duration::from_secs(30);

/// Times that an interval must have of a kind to count. With fewer the interval goes on.
pub const ENOUGH: u32 = 5;

/// Times of handshakes at one backend since they were last looked at. Each worker has its own, and they are merged.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Samples([Times; 2]);

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Times {
    count: u32,
    /// Microseconds.
    sum: u64,
    least: u64,
}

impl Times {
    fn add(&mut self, other: Times) {
        if other.count > 0 {
            self.least = if self.count > 0 { self.least.min(other.least) } else { other.least };
            self.count = self.count.saturating_add(other.count);
            self.sum = self.sum.saturating_add(other.sum);
        }
    }
}

impl Samples {
    /// A handshake took so many microseconds from SYN-ACK to ServerHello.
    pub fn observe(&mut self, resumed: bool, micros: u64) {
        self.0[usize::from(resumed)].add(Times { count: 1, sum: micros, least: micros });
    }

    /// So many did, together in so many, the fastest in `least`.
    pub fn observe_all(&mut self, resumed: bool, count: u32, sum: u64, least: u64) {
        self.0[usize::from(resumed)].add(Times { count, sum, least });
    }

    /// Adds another worker's.
    pub fn merge(&mut self, other: &Samples) {
        self.0.iter_mut().zip(other.0).for_each(|(mine, theirs)| mine.add(theirs));
    }
}

/// The best time of one kind: of this window, and of that before.
#[derive(Clone, Copy, Debug)]
struct Best {
    this: u64,
    before: u64,
}

/// Words of [`Auto::to_words`].
pub const AUTO_WORDS: usize = 16;

/// The limit of one backend. One owner; a few words, and nothing that could be full.
#[derive(Clone, Debug)]
pub struct Auto {
    limit: u32,
    most: u32,
    best: [Best; 2],
    window_ends: Option<Millis>,
    due: Millis,
    gathered: Samples,
    /// Most units in use since the last decision.
    peak: u32,
    /// After a cut one interval passes unheard: what ends in it began before.
    settling: bool,
    /// The best time is to be looked for.
    look: bool,
    /// The limit, while it is, with less.
    aside: Option<u32>,
}

impl Auto {
    /// Begins with room for `begin` units (four full handshakes is a good start), never has more than `most`.
    pub fn new(begin: u32, most: u32) -> Auto {
        let most = most.clamp(u32::from(FULL), MOST);
        let unknown = Best { this: u64::MAX, before: u64::MAX };
        Auto {
            limit: begin.clamp(u32::from(FULL), most),
            most,
            best: [unknown; 2],
            window_ends: None,
            due: Millis(0),
            gathered: Samples::default(),
            peak: 0,
            settling: false,
            look: false,
            aside: None,
        }
    }

    /// Units now.
    pub fn limit(&self) -> u32 {
        self.limit
    }

    /// The lower of this and of other limits.
    pub fn limits(&self, limits: Limits) -> Limits {
        Limits { units: Some(limits.units.map_or(self.limit, |units| units.min(self.limit))), ..limits }
    }

    /// What was seen, and the most units that were in use, for the next [`Auto::adjust`] to go by.
    pub fn gather(&mut self, seen: &Samples, peak: u32) {
        self.gathered.merge(seen);
        self.peak = self.peak.max(peak);
    }

    /// All that it knows, in words.
    pub fn to_words(&self) -> [u64; AUTO_WORDS] {
        let Auto { limit, most: _, best, window_ends, due, gathered: Samples(kinds), peak, settling, look, aside } =
            self;
        let mut words = [0; AUTO_WORDS];
        let flags = u64::from(*settling) | u64::from(*look) << 1;
        let rest = [u64::from(*limit), window_ends.map_or(u64::MAX, |at| at.0), due.0, u64::from(*peak), flags];
        let best = best.iter().flat_map(|best| [best.this, best.before]);
        let times = kinds.iter().flat_map(|times| [u64::from(times.count), times.sum, times.least]);
        let all = rest.into_iter().chain([u64::from(aside.unwrap_or(0))]).chain(best).chain(times);
        words.iter_mut().zip(all).for_each(|(word, is)| *word = is);
        words
    }

    /// Goes on from what another one knew. False, and nothing is changed, when that cannot be.
    pub fn go_on_from(&mut self, words: &[u64; AUTO_WORDS]) -> bool {
        let [limit, window_ends, due, peak, flags, aside, a, b, c, d, times @ ..] = *words;
        let units = |word: u64| u32::try_from(word).ok().filter(|units| *units <= MOST);
        let (Some(limit), Some(peak), Some(aside)) = (units(limit), units(peak), units(aside)) else { return false };
        let mut kinds = [Times::default(); 2];
        for (kind, said) in kinds.iter_mut().zip(times.chunks_exact(3)) {
            let Ok(count) = u32::try_from(said[0]) else { return false };
            // No time is longer than an hour.
            if said[1] > u64::from(count) * 3_600_000_000 {
                return false;
            }
            *kind = Times { count, sum: said[1], least: said[2] };
        }
        let within = |units: u32| units.clamp(u32::from(FULL), self.most);
        self.limit = within(limit);
        self.best = [Best { this: a, before: b }, Best { this: c, before: d }];
        self.window_ends = (window_ends != u64::MAX).then_some(Millis(window_ends));
        (self.due, self.gathered, self.peak) = (Millis(due), Samples(kinds), peak);
        (self.settling, self.look) = (flags & 1 != 0, flags & 2 != 0);
        self.aside = (aside > 0).then(|| within(aside));
        true
    }

    /// What was seen since the last call, and the most units that were in use. To be called every few milliseconds; true when the limit has changed.
    pub fn adjust(&mut self, now: Millis, seen: &Samples, peak: u32) -> bool {
        self.gathered.merge(seen);
        self.peak = self.peak.max(peak);
        if now < self.due {
            return false;
        }
        let before = self.limit;
        let window_ends = *self.window_ends.get_or_insert(now.after(WINDOW));
        if now >= window_ends {
            self.look = true;
            self.window_ends = Some(now.after(WINDOW));
            self.best.iter_mut().for_each(|best| *best = Best { this: u64::MAX, before: best.this });
        }
        if self.gathered.0.iter().all(|times| times.count < ENOUGH) {
            // Too little to say anything. It is kept, but not for ever; and who has so few needs no look.
            if now.since(self.due) > 10 * millis(INTERVAL) {
                self.limit = self.aside.take().unwrap_or(self.limit);
                self.begin(now);
            }
            return before != self.limit;
        }
        let mut slow = false;
        for (times, best) in self.gathered.0.iter().zip(&mut self.best) {
            if times.count > 0 {
                best.this = best.this.min(times.least.max(1));
            }
            let base = best.this.min(best.before);
            slow |= times.count >= ENOUGH && times.sum / u64::from(times.count) > base.saturating_mul(SLOW) / 100;
        }
        match (self.settling, self.aside) {
            // Whatever was seen: it may have begun before the last cut.
            (true, _) => self.settling = false,
            (false, Some(limit)) => (self.limit, self.aside) = (limit, None),
            (false, None) if self.look => {
                self.look = false;
                self.aside = Some(self.limit);
                self.limit = (self.limit / QUARTER).max(u32::from(FULL));
                self.settling = true;
            }
            (false, None) if slow => {
                self.limit = (self.limit * KEPT / 100).max(u32::from(FULL));
                self.settling = true;
            }
            (false, None) if self.peak + STEP > self.limit => self.limit = (self.limit + STEP).min(self.most),
            (false, None) => {}
        }
        self.begin(now);
        before != self.limit
    }

    fn begin(&mut self, now: Millis) {
        (self.gathered, self.peak, self.due) = (Samples::default(), 0, now.after(INTERVAL));
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// A server of so many cores, offered more than it can do: with `units` in use a handshake takes its own time, or longer if it has to share a core.
    struct Server {
        cores: u64,
        micros: [u64; 2],
    }

    impl Server {
        fn run(&self, auto: &mut Auto, from: u64, turns: u64, noise: impl Fn(u64) -> u64) -> Vec<u32> {
            let each = |turn: u64| {
                let now = Millis(from + turn * 10);
                let inside = u64::from(auto.limit()).div_ceil(10);
                let crowd = |micros: u64| (micros * inside).div_ceil(self.cores).max(micros) + noise(turn);
                let mut seen = Samples::default();
                (0..3).for_each(|_| {
                    seen.observe(false, crowd(self.micros[0]));
                    seen.observe(true, crowd(self.micros[1]));
                });
                auto.adjust(now, &seen, auto.limit());
                auto.limit()
            };
            (0..turns).map(each).collect()
        }
    }

    #[test]
    fn the_limit_stays_about_what_the_server_can_do_at_a_time() {
        let server = Server { cores: 8, micros: [2000, 300] };
        let mut auto = Auto::new(40, 10_000);
        let limits = server.run(&mut auto, 0, 60_000, |turn| turn * 7919 % 60);
        let later = &limits[2000..];
        // Each core busy, and at most as much waiting inside as is worked on, and a step.
        assert!(later.iter().all(|&limit| limit <= 180), "{:?}", later.iter().max());
        let less = later.iter().filter(|&&limit| limit < 80).count();
        assert!(less * 50 < later.len(), "only to look at the server: {less}");
    }

    #[test]
    fn a_server_that_loses_half_of_its_cores_is_given_less_and_one_that_gains_more() {
        let mut auto = Auto::new(40, 10_000);
        let mean = |limits: &[u32]| limits.iter().sum::<u32>() / limits.len() as u32;
        let whole = mean(&Server { cores: 8, micros: [2000, 300] }.run(&mut auto, 0, 5000, |_| 0)[2000..]);
        let half = mean(&Server { cores: 4, micros: [2000, 300] }.run(&mut auto, 50_000, 5000, |_| 0)[500..]);
        let twice = mean(&Server { cores: 16, micros: [2000, 300] }.run(&mut auto, 100_000, 5000, |_| 0)[2000..]);
        assert!(half * 3 < whole * 2 && whole * 3 < twice * 2, "{half} {whole} {twice}");
    }

    #[test]
    fn a_limit_that_is_not_used_is_not_raised() {
        let mut auto = Auto::new(100, 10_000);
        for turn in 0..1000 {
            let mut seen = Samples::default();
            (0..10).for_each(|_| seen.observe(false, 2000));
            auto.adjust(Millis(turn * 10), &seen, 50);
        }
        assert_eq!(auto.limit(), 100);
    }

    #[test]
    fn it_never_leaves_its_bounds_whatever_the_times() {
        let mut auto = Auto::new(0, 50);
        assert_eq!(auto.limit(), 10);
        for turn in 0..1000u64 {
            let mut seen = Samples::default();
            (0..10).for_each(|_| seen.observe(turn % 3 == 0, turn * turn * turn % 1009 * (u64::MAX / 2000)));
            auto.adjust(Millis(turn * 200), &seen, u32::MAX / 2);
            assert!((10..=50).contains(&auto.limit()));
        }
        assert_eq!(Auto::new(30, 50).limits(Limits::NONE), Limits { connections: None, units: Some(30) });
    }
}
