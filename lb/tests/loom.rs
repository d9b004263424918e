//! The memory protocols of `affinity::table` and `affinity::cuckoo`, under every interleaving and every reordering loom knows.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p lb --test loom --release`
#![cfg(loom)]

mod models;

use lb::affinity::cuckoo::{Cuckoo, WAYS, Writer};
use lb::affinity::table::Table;
use loom::thread;
use models::bounded;

/// One row, one publication over another, a reader that looks `tries` times.
fn one_row(tries: usize) -> impl Fn() + Sync + Send + 'static {
    move || {
        // Three words: each more multiplies the interleavings.
        let mut writer = Table::<3>::new(1, 1);
        let table = writer.table();
        writer.insert(&[7, 10, 1], 0, |_| 0);
        let reader = thread::spawn(move || {
            let mut last = 0;
            for _ in 0..tries {
                if let Some(words) = table.find(7, &mut 0, |words| Some(*words)) {
                    assert!(words == [7, 10, 1] || words == [7, 20, 2], "{words:?}");
                    assert!(words[1] >= last, "an older row after a newer one");
                    last = words[1];
                }
            }
        });
        writer.replace(0, &[7, 20, 2]);
        reader.join().unwrap();
    }
}

#[test]
fn a_snapshot_is_one_publication() {
    loom::model(one_row(1));
}

/// Looking twice: all interleavings of up to three preemptions.
#[test]
fn publications_are_seen_in_their_order() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(one_row(2));
}

/// A row that is replaced by another key's is found as neither a mixture nor under the wrong key.
#[test]
fn a_replaced_row_is_found_under_its_own_key_only() {
    loom::model(|| {
        let mut writer = Table::<4>::new(1, 1);
        let table = writer.table();
        writer.insert(&[7, 10, 1, 70], 0, |_| 0);
        let reader = thread::spawn(move || {
            for key in [7, 8] {
                if let Some(words) = table.find(key, &mut 0, |words| Some(*words)) {
                    assert_eq!((words[0], words[3]), (key, key * 10), "{words:?}");
                }
            }
        });
        writer.insert(&[8, 20, 1, 80], 0, |words| words[1]);
        reader.join().unwrap();
    });
}

/// A stamp stored alone belongs to the publication it is read with.
#[test]
fn a_touched_stamp_is_of_the_same_publication() {
    loom::model(|| {
        let mut writer = Table::<4>::new(1, 1);
        let table = writer.table();
        writer.insert(&[7, 10, 1, 1], 0, |_| 0);
        let reader = thread::spawn(move || {
            if let Some(words) = table.find(7, &mut 0, |words| Some(*words)) {
                let stamps: &[u64] = if words[3] == 1 { &[10, 11] } else { &[20] };
                assert!(stamps.contains(&words[1]), "{words:?}");
            }
        });
        writer.touch(0, 11);
        writer.replace(0, &[7, 20, 1, 2]);
        reader.join().unwrap();
    });
}

/// What happened before is found: a row published before the reader began, or handed over by it, is never missed.
#[test]
fn a_row_published_before_is_found() {
    loom::model(|| {
        let mut writer = Table::<4>::new(2, 2);
        let table = writer.table();
        writer.insert(&[7, 10, 1, 70], 0, |_| 0);
        let reader = thread::spawn(move || {
            // The writer is at another row of the bucket.
            assert_eq!(table.find(7, &mut 0, |words| Some(words[3])), Some(70));
        });
        writer.insert(&[8, 20, 1, 80], 0, |words| words[1]);
        reader.join().unwrap();
    });
}

/// A key of the cuckoo table of three buckets whose first bucket is `bucket`; both of its buckets add up to `sum`, modulo three.
fn key(bucket: u64, sum: u64, n: usize) -> u64 {
    let sum_of = |tag: u64| (u128::from(tag.wrapping_mul(0x9e37_79b9_7f4a_7c15)) * 3 >> 64) as u64;
    let tag = (1..=255).filter(|&tag| sum_of(tag) == sum).nth(n).unwrap();
    // The middle of the third of all hashes that the bucket has.
    (u64::MAX / 3 * bucket + u64::MAX / 6) & !0xff | tag
}

fn put(writer: &mut Writer<2>, key: u64, rest: u64) {
    let room = writer.make_room(key, |_| false, |row| row[1]);
    writer.put(&room, &[key, rest]);
}

fn find(table: &Cuckoo<2>, key: u64) -> (Option<u64>, u64) {
    let mut busy = 0;
    (table.find(key, &mut busy, |row| (row[0] == key).then_some(row[1])), busy)
}

/// Three buckets. The first is full: with one row that can be moved into the second, its key in front, and others that can be nowhere else.
fn full() -> (Writer<2>, u64) {
    let mut writer = Cuckoo::new(3 * WAYS);
    let movable = key(0, 1, 0);
    put(&mut writer, movable, 1);
    (1..WAYS).for_each(|n| put(&mut writer, key(0, 0, n), 2));
    (writer, movable)
}

/// Wherever the reader looks first, and whenever: a row that is moved is in one bucket or the other.
#[test]
fn a_row_that_is_moved_is_found() {
    bounded(3, || {
        let (mut writer, movable) = full();
        let table = writer.table();
        let before = writer.position(movable, |row| row[0] == movable).unwrap();
        let reader = thread::spawn(move || {
            let (found, busy) = find(&table, movable);
            assert!(found == Some(1) || (found.is_none() && busy > 0), "{found:?}");
        });
        put(&mut writer, key(0, 0, 0), 3);
        let after = writer.position(movable, |row| row[0] == movable).unwrap();
        assert!(before / WAYS == 0 && after / WAYS == 1, "the model moves nothing: {before} {after}");
        reader.join().unwrap();
    });
}

/// Whatever is found under a key was said of it, in a place that was another key's before.
#[test]
fn a_dense_row_is_one_publication() {
    bounded(3, || {
        let mut writer = Cuckoo::<2>::new(WAYS);
        let table = writer.table();
        let (one, two) = (key(0, 0, 0), key(0, 0, 1));
        put(&mut writer, one, 1);
        let at = writer.position(one, |_| true).unwrap();
        let reader = thread::spawn(move || {
            for key in [one, two] {
                if let Some([found, rest]) = table.find(key, &mut 0, |row| Some(*row)) {
                    assert!([(one, 1), (one, 2), (two, 3)].contains(&(found, rest)), "{found:x} {rest}");
                }
            }
        });
        writer.touch(at, 2);
        writer.remove(at);
        put(&mut writer, two, 3);
        reader.join().unwrap();
    });
}

/// Whatever the writer does to other rows of the bucket.
#[test]
fn a_dense_row_published_before_is_found() {
    bounded(3, || {
        let mut writer = Cuckoo::<2>::new(WAYS);
        let table = writer.table();
        let (one, two) = (key(0, 0, 0), key(0, 0, 1));
        put(&mut writer, one, 1);
        let reader = thread::spawn(move || {
            let (found, busy) = find(&table, one);
            assert!(found == Some(1) || (found.is_none() && busy > 0), "{found:?}");
        });
        put(&mut writer, two, 2);
        let at = writer.position(two, |_| true).unwrap();
        writer.remove(at);
        reader.join().unwrap();
    });
}
