//! The dense table of sessions, against a map.

use lb::affinity::cuckoo::{Cuckoo, Room, Writer};
use lb::affinity::table::Inserted;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// SplitMix64: a hash of a key.
fn hash(key: u64) -> u64 {
    let mut z = key.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Rows are a key and a time, which is never zero.
fn insert(writer: &mut Writer<2>, key: u64, time: u64, expired_before: u64) -> (Room, Option<[u64; 2]>) {
    let room = writer.make_room(hash(key), |row| row[1] < expired_before, |row| row[1]);
    let gone = (room.how != Inserted::Free).then(|| writer.get(room.at));
    writer.put(&room, &[key, time]);
    (room, gone)
}

fn find(table: &Cuckoo<2>, key: u64) -> Option<u64> {
    let mut busy = 0;
    let found = table.find(hash(key), &mut busy, |row| (row[0] == key).then_some(row[1]));
    assert_eq!(busy, 0, "nobody writes meanwhile");
    found
}

#[derive(Clone, Debug)]
enum Op {
    Put(u64),
    Remove(u64),
    Replace(u64),
    Touch(u64),
    Expire(u64),
}

fn ops(keys: u64) -> impl Strategy<Value = Vec<Op>> {
    let key = 0..keys;
    let op = prop_oneof![
        12 => key.clone().prop_map(Op::Put),
        2 => key.clone().prop_map(Op::Remove),
        1 => key.clone().prop_map(Op::Replace),
        1 => key.prop_map(Op::Touch),
        1 => (0u64..40).prop_map(Op::Expire),
    ];
    proptest::collection::vec(op, 1..400)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..Default::default() })]

    /// Full or not, and however rows are moved: what was put and has neither been removed nor reported as gone is found, with what was said last;
    /// nothing else is.
    #[test]
    fn equals_a_map_from_which_only_goes_what_is_reported(ops in ops(120), rows in 1usize..80) {
        let mut writer = Cuckoo::<2>::new(rows);
        let table = writer.table();
        let mut model: BTreeMap<u64, u64> = BTreeMap::new();
        let mut expired_before = 0;
        for (now, op) in ops.into_iter().enumerate() {
            let now = now as u64 + 1;
            match op {
                Op::Put(key) if model.contains_key(&key) => {}
                Op::Put(key) => {
                    let (room, gone) = insert(&mut writer, key, now, expired_before);
                    if let Some([key, time]) = gone {
                        prop_assert_eq!(model.remove(&key), Some(time));
                        prop_assert_eq!(room.how == Inserted::Expired, time < expired_before);
                        let old = model.values().filter(|&&t| t < expired_before).count();
                        prop_assert!(room.how == Inserted::Expired || old == 0 || table.capacity() > 8);
                    }
                    model.insert(key, now);
                }
                Op::Remove(key) => {
                    let at = writer.position(hash(key), |row| row[0] == key);
                    prop_assert_eq!(at.is_some(), model.remove(&key).is_some());
                    if let Some(at) = at {
                        writer.remove(at);
                    }
                }
                Op::Replace(key) | Op::Touch(key) => {
                    let at = writer.position(hash(key), |row| row[0] == key);
                    prop_assert_eq!(at.is_some(), model.contains_key(&key));
                    if let Some(at) = at {
                        if matches!(op, Op::Touch(_)) { writer.touch(at, now) } else { writer.replace(at, &[key, now]) }
                        model.insert(key, now);
                    }
                }
                Op::Expire(ago) => expired_before = now.saturating_sub(ago),
            }
            prop_assert_eq!(writer.used(), model.len());
            for key in 0..120 {
                prop_assert_eq!(find(&table, key), model.get(&key).copied(), "{}", key);
            }
            let mut all: Vec<(u64, u64)> = table.snapshots().map(|[key, time]| (key, time)).collect();
            all.sort_unstable();
            prop_assert!(all.iter().eq(model.iter().map(|(k, t)| (*k, *t)).collect::<Vec<_>>().iter()));
        }
    }

    /// One bucket is exactly a list in order of last use, of eight rows.
    #[test]
    fn a_bucket_is_a_list_in_order_of_last_use(keys in proptest::collection::vec(1u64..14, 1..150)) {
        let mut writer = Cuckoo::<2>::new(8);
        let table = writer.table();
        let mut list: Vec<u64> = Vec::new();
        for (now, key) in keys.into_iter().enumerate() {
            let now = now as u64 + 1;
            if let Some(at) = writer.position(hash(key), |row| row[0] == key) {
                writer.touch(at, now);
                list.retain(|&k| k != key);
            } else {
                let (room, gone) = insert(&mut writer, key, now, 0);
                prop_assert_eq!(room.how, if list.len() == 8 { Inserted::Evicted } else { Inserted::Free });
                prop_assert_eq!(gone.map(|row| row[0]), (list.len() == 8).then(|| list.remove(0)));
            }
            list.push(key);
            for key in 1..14 {
                prop_assert_eq!(find(&table, key).is_some(), list.contains(&key));
            }
        }
    }
}

/// Filled to the brim, at any size, also of an odd number of buckets.
#[test]
fn it_is_nine_tenths_full_before_a_thousandth_is_lost() {
    for rows in [1000u64, 10_008, 100_000, 1_000_000] {
        let mut writer = Cuckoo::<2>::new(rows as usize);
        let (mut lost, mut first) = (0, None);
        for n in 1..=rows {
            if insert(&mut writer, n, n, 0).0.how == Inserted::Evicted {
                lost += 1;
                first.get_or_insert(n);
            }
            if n == rows * 9 / 10 {
                println!("{rows} rows, 90 %: {lost} lost");
                assert!(lost * 1000 <= n, "{lost} of {n} lost");
            }
        }
        println!(
            "{rows} rows, 100 %: {lost} lost, the first at {:.1} %",
            first.unwrap_or(rows) as f64 * 100.0 / rows as f64
        );
        assert!(lost * 50 <= rows, "{lost} of {rows} lost");
        assert_eq!(writer.used() as u64 + lost, rows);
    }
}
