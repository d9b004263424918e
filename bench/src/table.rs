//! The affinity table: lookups, inserts, memory and losses, beside two maps that others would take for it.
//!
//! A batch is 256 lookups that know nothing of each other, as in a burst. With a writer: another thread refreshes rows as fast as it can
//! meanwhile, on another core.

use crate::figure::{Report, Target, number};
use crate::region::{Draw, Turns, measured_region, median};
use anyhow::{Result, ensure};
use core::hint::black_box;
use core::sync::atomic::{AtomicBool, Ordering};
use dashmap::DashMap;
use lb::affinity::client;
use lb::{Affinity, BackendId, Config, Identity, IdentityKind, Lookup, Millis, Offered, Sighting};
use std::collections::HashMap;
use std::sync::RwLock;

/// Lookups between two looks at the clock.
const BATCH: usize = 256;
/// Batches of one table before it is the next one's turn. The caches are its own by then: the first third is not told.
const STINT: usize = 24;
/// Servers that rows lead to.
const SERVERS: usize = 32;
const NOW: Millis = Millis(1_000_000);

/// Session ID number `n`.
pub fn session_id(n: u64) -> [u8; 32] {
    let mut id = [0; 32];
    for (i, word) in id.chunks_exact_mut(8).enumerate() {
        // SplitMix64: no two alike, and none like its neighbours.
        let mut z = (n * 4 + i as u64).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word.copy_from_slice(&(z ^ (z >> 31)).to_le_bytes());
    }
    id
}

fn identity(n: u64) -> Identity {
    let id = session_id(n);
    Identity::new(&Offered { kind: IdentityKind::SessionId, bytes: &id }).expect("32 bytes are a session ID")
}

fn seen(n: u64) -> Sighting {
    Sighting {
        backend: BackendId((n % SERVERS as u64) as u16),
        // Of as many clients as there are sessions.
        client: client(n as u32, n as u32),
        now: NOW,
    }
}

/// Whose row it is, and when it was used last.
type Row = (u16, u64);

fn row(n: u64) -> Row {
    ((n % SERVERS as u64) as u16, NOW.0)
}

/// Tables of two workers, filled: one looks, the other may write.
pub struct Tables {
    reader: Affinity,
    writer: Affinity,
    /// Sessions of the writer's shard, some of them.
    of_writer: Vec<u64>,
}

impl Tables {
    /// With rooms for `capacity` rows, and `rows` inserted.
    pub fn new(capacity: usize, rows: u64) -> Tables {
        let config = Config { session_capacity: capacity, ..Config::new(SERVERS) };
        let mut workers = Affinity::for_workers(config, 2).into_iter();
        let (mut reader, mut writer) = (workers.next().expect("two"), workers.next().expect("two"));
        // As a worker does.
        [&reader, &writer].iter().flat_map(|of| of.memory()).for_each(|m| dispatcher::io::move_into_large_pages(&m));
        let mut of_writer = vec![];
        for n in 0..rows {
            reader.issued(&identity(n), seen(n));
            while let Some(update) = reader.next_update() {
                writer.apply(update);
                if of_writer.len() < 100_000 {
                    of_writer.push(n);
                }
            }
        }
        Tables { reader, writer, of_writer }
    }

    /// A batch of lookups; nanoseconds for one. So many must be found at least, or none.
    pub fn look(&self, identities: &[Identity], found: usize) -> Result<f64> {
        look(&self.reader, identities, found)
    }

    /// Live rows.
    pub fn live(&self) -> usize {
        self.reader.census(NOW).session_ids
    }
}

fn look(reader: &Affinity, identities: &[Identity], at_least: usize) -> Result<f64> {
    let mut hits = 0;
    let mut found = Lookup::default();
    let took = measured_region(&mut || {
        for identity in identities {
            // As the engine asks, into what it has at hand.
            reader.lookup_into(None, core::slice::from_ref(identity), NOW, |_| true, &mut found);
            hits += usize::from(black_box(&found).decision.is_some());
        }
    });
    ensure!(if at_least > 0 { hits >= at_least } else { hits == 0 }, "{hits} of {} found", identities.len());
    Ok(took.as_nanos() as f64 / identities.len() as f64)
}

/// Identities of a batch: sessions that are known, or that nobody has heard of.
pub fn draw(draw: &mut Draw, rows: usize, known: bool) -> (Vec<Identity>, Vec<[u8; 32]>) {
    let numbers = (0..BATCH).map(|_| draw.below(rows) as u64 + if known { 0 } else { 1 << 40 });
    numbers.map(|n| (identity(n), session_id(n))).unzip()
}

/// At nine tenths some row may have been lost: not many.
const FOUND: usize = BATCH * 9 / 10;

/// Batches when instructions are counted.
pub const COUNTED: usize = 8;

/// Lookups of the counted batches.
pub const fn counted() -> usize {
    COUNTED * BATCH
}

struct Maps {
    dash: DashMap<[u8; 32], Row>,
    locked: RwLock<HashMap<[u8; 32], Row>>,
}

impl Maps {
    fn new(rows: u64) -> Maps {
        let maps = Maps { dash: DashMap::new(), locked: RwLock::default() };
        for n in 0..rows {
            maps.dash.insert(session_id(n), row(n));
            maps.write(n);
        }
        maps
    }

    fn write(&self, n: u64) {
        // Nobody panics with the lock in hand.
        self.locked.write().unwrap_or_else(|e| e.into_inner()).insert(session_id(n), row(n));
    }

    fn look(ids: &[[u8; 32]], get: impl Fn(&[u8; 32]) -> Option<Row>) -> f64 {
        let took = measured_region(&mut || ids.iter().for_each(|id| _ = black_box(get(id))));
        took.as_nanos() as f64 / ids.len() as f64
    }

    fn in_dash(&self, ids: &[[u8; 32]]) -> f64 {
        Maps::look(ids, |id| self.dash.get(id).map(|row| *row))
    }

    fn in_locked(&self, ids: &[[u8; 32]]) -> f64 {
        Maps::look(ids, |id| self.locked.read().unwrap_or_else(|e| e.into_inner()).get(id).copied())
    }
}

/// Hit and miss of one table: batch after batch, until the caches are as they are where nothing else is looked up.
fn stint(
    random: &mut Draw,
    rows: usize,
    mut look: impl FnMut(&[Identity], &[[u8; 32]], bool) -> Result<f64>,
) -> Result<[f64; 2]> {
    let mut took = [vec![], vec![]];
    for n in 0..STINT {
        for (known, took) in [true, false].into_iter().zip(&mut took) {
            let (identities, ids) = draw(random, rows, known);
            let one = look(&identities, &ids, known)?;
            if n >= STINT / 3 {
                took.push(one);
            }
        }
    }
    Ok(took.map(median))
}

/// Hit and miss of all three, in turns.
fn lookups(tables: &Tables, maps: &Maps, rows: usize, rounds: usize) -> Result<Turns<6>> {
    let mut random = Draw::new(11);
    Turns::take(rounds, || {
        let ours =
            stint(&mut random, rows, |identities, _, known| tables.look(identities, if known { FOUND } else { 0 }))?;
        let dash = stint(&mut random, rows, |_, ids, _| Ok(maps.in_dash(ids)))?;
        let locked = stint(&mut random, rows, |_, ids, _| Ok(maps.in_locked(ids)))?;
        Ok([ours[0], ours[1], dash[0], dash[1], locked[0], locked[1]])
    })
}

const WHAT: [&str; 6] =
    ["hit", "miss", "dashmap, hit", "dashmap, miss", "RwLock<HashMap>, hit", "RwLock<HashMap>, miss"];

/// Has `write` called again and again on another thread while `work` goes on.
fn beside<T>(mut write: impl FnMut(u64) + Send, work: impl FnOnce() -> T) -> T {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Relaxed: it orders nothing.
            for n in (0..).take_while(|_| !over.load(Ordering::Relaxed)) {
                write(n);
            }
        });
        let done = work();
        over.store(true, Ordering::Relaxed);
        done
    })
}

/// Measures tables of each number of rows, nine tenths full.
pub fn run(rows: &[usize], rounds: usize, report: &mut Report) -> Result<()> {
    report.begin("table", rows.len() * 4);
    for &n in rows {
        let case = format!("{} rows", number(n as f64));
        report.step(&format!("{case}: filling"));
        let capacity = n * 10 / 9;
        let mut tables = Tables::new(capacity, n as u64);
        let maps = Maps::new(n as u64);
        report.step(&case);
        let turns = lookups(&tables, &maps, n, rounds)?;
        let million = n == 1_000_000;
        for (which, what) in WHAT.into_iter().enumerate() {
            let ns = turns.median(which);
            match which {
                0 if million => report.aim(("table", &case, what), ns, "ns", Target::AtMost(110.0)),
                1 if million => report.aim(("table", &case, what), ns, "ns", Target::AtMost(40.0)),
                _ => report.add("table", &case, what, ns, "ns"),
            }
        }
        report.add("table", &case, "hit over dashmap's", turns.ratio(0, 2), "ratio");
        report.add("table", &case, "miss over dashmap's", turns.ratio(1, 3), "ratio");
        report.step(&format!("{case}: with a writer"));
        with_writer(&mut tables, &maps, n, &case, rounds, report)?;
        let live = tables.live();
        let lost = 100.0 * (n - live) as f64 / n as f64;
        let bytes = |rows| Affinity::bytes(&Config { session_capacity: rows, ..Config::new(SERVERS) }, 2);
        // What is there for other purposes is there without any row, too.
        let each = (bytes(capacity) - bytes(1)) as f64 / live as f64;
        if million {
            report.aim(("table", &case, "lost at 90 %"), lost, "%", Target::AtMost(1.0));
            report.aim(("table", &case, "a live row at 90 %"), each, "bytes", Target::AtMost(48.0));
        } else {
            report.add("table", &case, "lost at 90 %", lost, "%");
            report.add("table", &case, "a live row at 90 %", each, "bytes");
        }
        report.step(&format!("{case}: inserting"));
        drop((tables, maps));
        inserts(n, &case, report)?;
    }
    Ok(())
}

fn with_writer(
    tables: &mut Tables,
    maps: &Maps,
    n: usize,
    case: &str,
    rounds: usize,
    report: &mut Report,
) -> Result<()> {
    if std::thread::available_parallelism().map_or(1, |n| n.get()) < 2 {
        report.leave_out("table", "with a writer: there is one core only");
        return Ok(());
    }
    let mut random = Draw::new(13);
    let Tables { writer, of_writer, .. } = tables;
    let some: Vec<(Identity, Sighting)> = of_writer.iter().map(|&n| (identity(n), seen(n))).collect();
    let (reader, count) = (&tables.reader, some.len().max(1) as u64);
    // One after the other, not in turns: there is one other core, for one writer.
    let ours = beside(
        |n| {
            let (identity, seen) = &some[(n % count) as usize];
            writer.accepted(identity, *seen);
        },
        || {
            Turns::<2>::take(rounds, || {
                stint(&mut random, n, |identities, _, known| look(reader, identities, if known { FOUND } else { 0 }))
            })
        },
    )?;
    let dash = beside(
        |n| _ = maps.dash.insert(session_id(n % 100_000), row(n)),
        || Turns::<2>::take(rounds, || stint(&mut random, n, |_, ids, _| Ok(maps.in_dash(ids)))),
    )?;
    let locked = beside(
        |n| maps.write(n % 100_000),
        || Turns::<2>::take(rounds, || stint(&mut random, n, |_, ids, _| Ok(maps.in_locked(ids)))),
    )?;
    for (name, turns) in [("", ours), ("dashmap, ", dash), ("RwLock<HashMap>, ", locked)] {
        report.add("table", case, &format!("{name}hit beside a writer"), turns.median(0), "ns");
        report.add("table", case, &format!("{name}miss beside a writer"), turns.median(1), "ns");
    }
    Ok(())
}

/// What an insert costs, on the way from an empty table to nine tenths: into memory that was asked for beforehand.
fn inserts(n: usize, case: &str, report: &mut Report) -> Result<()> {
    let config = Config { session_capacity: n * 10 / 9, ..Config::new(SERVERS) };
    let mut table = Affinity::single(config);
    let (dash, mut plain) = (DashMap::with_capacity(n), HashMap::with_capacity(n));
    let (mut ours, mut theirs, mut hash) = (vec![], vec![], vec![]);
    for begin in (0..n as u64).step_by(BATCH) {
        let numbers: Vec<u64> = (begin..(begin + BATCH as u64).min(n as u64)).collect();
        let each = numbers.len() as f64;
        let identities: Vec<_> = numbers.iter().map(|n| (identity(*n), seen(*n))).collect();
        let ids: Vec<_> = numbers.iter().map(|n| (session_id(*n), row(*n))).collect();
        let took =
            measured_region(&mut || identities.iter().for_each(|(identity, seen)| table.issued(identity, *seen)));
        ours.push(took.as_nanos() as f64 / each);
        let took = measured_region(&mut || ids.iter().for_each(|(id, row)| _ = dash.insert(*id, *row)));
        theirs.push(took.as_nanos() as f64 / each);
        let took = measured_region(&mut || ids.iter().for_each(|(id, row)| _ = plain.insert(*id, *row)));
        hash.push(took.as_nanos() as f64 / each);
    }
    ensure!(dash.len() == n && plain.len() == n, "all of them are there");
    for (what, ns) in [("insert", ours), ("dashmap, insert", theirs), ("HashMap, insert", hash)] {
        report.add("table", case, what, median(ns), "ns");
    }
    Ok(())
}
