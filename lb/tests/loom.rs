//! The memory protocol of `affinity::table`, under every interleaving and every reordering loom knows.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p lb --test loom --release`
#![cfg(loom)]

use lb::affinity::table::Table;
use loom::thread;

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
