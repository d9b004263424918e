//! Real threads: readers race with the writer and never see a row that was not written.

mod common;

use common::ByBytes;
use lb::affinity::cuckoo::Cuckoo;
use lb::affinity::table::Table;
use lb::{Affinity, BackendId, Config, IdentityKind, Millis, Offered, Sighting};
use std::sync::atomic::{AtomicBool, Ordering};

/// Each row's words are functions of one number; a mixture of two rows would not be.
fn row(key: u64, version: u64) -> [u64; 21] {
    core::array::from_fn(|i| match i {
        0 => key,
        1 => version, // also touched alone, see below
        2 => 1,
        _ => key.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ version.wrapping_mul(i as u64),
    })
}

#[test]
fn a_reader_never_sees_a_torn_row() {
    const KEYS: u64 = 24;
    const WRITES: u64 = 300_000;
    // One bucket of eight rows for 24 keys: rows are replaced all the time.
    let mut writer = Table::<21>::new(8, 8);
    let table = writer.table();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|reader| {
                let (table, done) = (&table, &done);
                scope.spawn(move || {
                    let (mut seen, mut last) = (0u64, [0u64; KEYS as usize]);
                    let mut at = reader;
                    while !done.load(Ordering::Relaxed) || seen == 0 {
                        at = (at * 5 + 1) % KEYS;
                        table.find(at, &mut 0, |words| {
                            // Word 3 tells the version that the others must have.
                            let key_part = at.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                            let of = |i: usize| words[i] ^ key_part;
                            let version = of(4).wrapping_sub(of(3));
                            let mut want = row(at, version);
                            assert!(words[1] >= version, "a stamp of an older publication");
                            want[1] = words[1];
                            assert_eq!(*words, want);
                            assert!(version >= last[at as usize], "time ran backwards");
                            last[at as usize] = version;
                            seen += 1;
                            Some(())
                        });
                    }
                    seen
                })
            })
            .collect();
        let mut x = 1u64;
        for version in 1..=WRITES {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let key = (x >> 33) % KEYS;
            match writer.position(key, |words| words[0] == key) {
                // Keys hash to different buckets in general; with one bucket all share it.
                Some(at) if x >> 60 == 0 => writer.remove(at),
                Some(at) if x >> 60 < 4 => writer.touch(at, version),
                Some(at) => writer.replace(at, &row(key, version)),
                None => drop(writer.insert(&row(key, version), 0, |words| words[1])),
            }
        }
        done.store(true, Ordering::Relaxed);
        for reader in readers {
            assert!(reader.join().unwrap() > 0);
        }
    });
}

/// Two workers issue sessions, one of which is theirs by hash and one not, and carry updates through real queues;
/// whatever anybody finds meanwhile names the backend that issued it.
#[test]
fn workers_find_only_what_was_said() {
    const SESSIONS: u64 = 20_000;
    let config = Config { session_capacity: 4096, ..Config::new(1000) };
    let workers = Affinity::for_workers(config, 2);
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..2).map(|_| std::sync::mpsc::sync_channel(64)).unzip();
    let id = |n: u64| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15)).to_le_bytes();
    let backend = |n: u64| BackendId((n % 997) as u16);
    std::thread::scope(|scope| {
        for (me, (mut affinity, inbox)) in workers.into_iter().zip(receivers).enumerate() {
            let senders = senders.clone();
            scope.spawn(move || {
                let (mut found, mut lost) = (0u64, 0u64);
                for step in 0..SESSIONS {
                    let n = step * 2 + me as u64;
                    let now = Millis(step);
                    affinity.session_issued(&id(n), Sighting { backend: backend(n), client: n, now });
                    while let Some(update) = affinity.next_update() {
                        lost += u64::from(senders[update.owner()].try_send(update).is_err());
                    }
                    while let Ok(update) = inbox.try_recv() {
                        affinity.apply(update);
                    }
                    let asked = (step * 7919 + me as u64) % (2 * step + 1);
                    let bytes = id(asked);
                    let offered = [Offered { kind: IdentityKind::SessionId, bytes: &bytes }];
                    if let Some(decision) = affinity.find(&offered, now, |_| true).decision {
                        assert_eq!(decision.backends.single(), Some(backend(asked)));
                        found += 1;
                    }
                }
                assert!(found > 0 && lost < SESSIONS);
            });
        }
    });
}

/// Rows are moved all the time, to make room; those that stay are found by readers at every moment, whole.
#[test]
fn rows_that_are_moved_are_never_missed_nor_torn() {
    const ROWS: u64 = 4096;
    const WRITES: u64 = 400_000;
    let hash = |key: u64| {
        let z = key.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let z = (z ^ (z >> 32)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z ^ (z >> 29)
    };
    let words = |key: u64, version: u64| [key, key ^ version, !version, version];
    let mut writer = Cuckoo::<4>::new(ROWS as usize);
    let table = writer.table();
    // Half of the rows stay for good, and the others come and go between 90 % and full.
    let stays = ROWS / 2;
    let put = |writer: &mut lb::affinity::cuckoo::Writer<4>, key: u64, version: u64| {
        let worth = |row: &[u64; 4]| if row[0] < stays { u64::MAX } else { row[3] };
        let room = writer.make_room(hash(key), |_| false, worth);
        if room.worth < u64::MAX {
            writer.put(&room, &words(key, version));
        }
    };
    (0..stays).for_each(|key| put(&mut writer, key, key + 1));
    assert_eq!(writer.used() as u64, stays);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..2u64)
            .map(|reader| {
                let (table, done) = (&table, &done);
                scope.spawn(move || {
                    let (mut found, mut busy, mut at) = (0u64, 0, reader);
                    while !done.load(Ordering::Relaxed) || found < 1000 {
                        at = (at * 5 + 1) % (2 * stays);
                        let before = busy;
                        let row = table.find(hash(at), &mut busy, |row| (row[0] == at).then_some(*row));
                        match row {
                            Some(row) => {
                                assert_eq!(row, words(at, row[3]), "torn");
                                found += 1;
                            }
                            None => assert!(at >= stays || busy > before, "{at} was missed"),
                        }
                    }
                })
            })
            .collect();
        let mut x = 1u64;
        for version in 1..=WRITES {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let key = stays + (x >> 33) % stays;
            match writer.position(hash(key), |row| row[0] == key) {
                Some(at) if writer.used() as u64 * 10 > ROWS * 9 => writer.remove(at),
                Some(at) => writer.replace(at, &words(key, version)),
                None => put(&mut writer, key, version),
            }
        }
        done.store(true, Ordering::Relaxed);
        readers.into_iter().for_each(|reader| reader.join().unwrap());
    });
}
