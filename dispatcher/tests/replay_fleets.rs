//! The default replay on the fleets: four servers, hundreds of sessions, and the truth about each of them.

mod captures;

use captures::{capture, load_oracle, load_truth};
use dispatcher::capture::{Capture, RecordedFrame};
use dispatcher::replay::recorded::{Listener, Prediction, RecordedConnection, Replay, Totals, Tuning};
use lb::affinity::Census;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

#[derive(Default)]
struct Records(Vec<RecordedConnection>);

impl Listener for Records {
    fn connection(&mut self, record: &RecordedConnection) -> anyhow::Result<()> {
        self.0.push(record.clone());
        Ok(())
    }
    fn frame(&mut self, _: &RecordedFrame<'_>, _: Option<&str>, _: usize) -> anyhow::Result<()> {
        Ok(())
    }
}

fn replay(name: &str) -> (Vec<RecordedConnection>, Totals, Census) {
    let tuning = Tuning { session_capacity: 65_536, session_ttl: Duration::from_secs(3600), affinity: true };
    let mut records = Records::default();
    let mut replay = Replay::new(tuning, &mut records);
    replay.capture(&Capture::open(&capture(&format!("{name}.pcap"))).unwrap()).unwrap().unwrap();
    let (totals, census) = replay.finish().unwrap();
    (records.0, totals, census)
}

/// A connection of the truth tables.
struct Truth {
    server: String,
    key: Option<String>,
    resumed: bool,
    misrouted: bool,
}

/// By first frame, which names a connection.
fn truth(name: &str) -> (BTreeMap<u64, Truth>, HashMap<String, String>) {
    let table = load_truth(name);
    let text = |v: &Value| v.as_str().map(str::to_owned);
    let map = table["map"].as_object().unwrap().iter().map(|(k, v)| (k.clone(), text(v).unwrap())).collect();
    let sessions = table["sessions"].as_array().unwrap();
    let connections = sessions.iter().flat_map(|s| s["connections"].as_array().unwrap()).map(|c| {
        let truth = Truth {
            server: text(&c["server"]["ip"]).unwrap(),
            key: text(&c["key"]),
            resumed: c["resumed"].as_bool().unwrap(),
            misrouted: c["misrouted"].as_bool().unwrap(),
        };
        (c["first_frame"].as_u64().unwrap(), truth)
    });
    (connections.collect(), map)
}

/// Whatever the identity: what the truth says about each connection, and that the table was never wrong.
fn agrees_with_truth(name: &str) -> (BTreeMap<u64, RecordedConnection>, Totals, Census) {
    let (records, totals, census) = replay(name);
    let (truth, map) = truth(name);
    let records: BTreeMap<u64, RecordedConnection> =
        records.into_iter().map(|r| (r.connection.first.frame, r)).collect();
    assert_eq!(records.keys().collect::<Vec<_>>(), truth.keys().collect::<Vec<_>>(), "the same connections");
    for (frame, t) in &truth {
        let r = &records[frame];
        assert_eq!(r.resumed, Some(t.resumed), "frame {frame}");
        assert_eq!(r.offered.is_empty(), t.key.is_none(), "frame {frame}");
        assert_eq!(r.connection.server.ip().to_string(), t.server, "frame {frame}");
        // Where the truth knows the issuer, whoever was named is that one.
        if let (Some(decided), Some(issuer)) = (r.decided, t.key.as_ref().and_then(|k| map.get(k))) {
            assert_eq!(decided.ip().to_string(), *issuer, "frame {frame}: the table named another than the issuer");
        }
        let expected: &[Option<Prediction>] = match (&t.key, t.misrouted, t.resumed) {
            (None, ..) => &[None],
            (Some(_), false, true) => &[Some(Prediction::Right), Some(Prediction::Unknown)],
            (Some(_), true, false) => &[Some(Prediction::Rescued), Some(Prediction::Unknown)],
            odd => panic!("frame {frame}: the truth says {odd:?}"),
        };
        assert!(expected.contains(&r.prediction), "frame {frame}: {:?}", r.prediction);
    }
    let of = |p: Prediction| totals.predictions[p as usize];
    assert_eq!(of(Prediction::Wrong), 0);
    assert_eq!(of(Prediction::Stale), 0);
    assert_eq!(totals.offered, truth.values().filter(|t| t.key.is_some()).count() as u64);
    (records, totals, census)
}

#[test]
fn every_session_id_issued_in_the_capture_is_known_when_it_is_offered() {
    let name = "fleet_tls12_sessionid";
    let (records, totals, census) = agrees_with_truth(name);
    let (truth, map) = truth(name);
    for (frame, t) in truth.iter().filter(|(_, t)| t.key.as_ref().is_some_and(|k| map.contains_key(k))) {
        let expected = if t.misrouted { Prediction::Rescued } else { Prediction::Right };
        assert_eq!(records[frame].prediction, Some(expected), "frame {frame}");
        assert_eq!(records[frame].key.unwrap().to_string(), *t.key.as_ref().unwrap());
    }
    assert_eq!(totals.predictions, [544, 0, 21, 0, 0, 0]);
    assert_eq!(census.session_ids, map.len(), "one row for each session that a server issued");
}

#[test]
fn tickets_are_known_by_their_key_names_and_the_table_holds_keys_not_sessions() {
    let (_, totals, census) = agrees_with_truth("fleet_tls12_ticket");
    assert_eq!(totals.predictions, [560, 0, 15, 0, 0, 0]);
    assert_eq!(census.key_names, 4, "four servers, one ticket key each");
    assert!(census.rows() <= 16, "{census:?}");
}

/// When an identity is first offered, nothing in the clear has shown who issued it. Earlier packets could have told if a
/// server had accepted another identity with the same key name before this hello was complete.
#[test]
fn psk_identities_are_unknown_only_where_no_earlier_packet_could_have_told() {
    let name = "fleet_tls13_psk";
    let (records, totals, census) = agrees_with_truth(name);
    let oracle = load_oracle(&capture(&format!("{name}.pcap")));
    let mut accepted: Vec<(u64, String)> = Vec::new();
    for stream in &oracle {
        let (hello, answer) = (&stream["client_hellos"][0], &stream["server_hellos"][0]);
        if answer["psk_accepted"] == true {
            let key_name = hello["psk_identities"][0]["first16"].as_str().unwrap().to_owned();
            accepted.push((answer["frame"].as_u64().unwrap(), key_name));
        }
    }
    let mut could_not_tell = HashSet::new();
    for stream in &oracle {
        let hello = &stream["client_hellos"][0];
        let Some(key_name) = hello["psk_identities"][0]["first16"].as_str() else { continue };
        let frame = hello["frame"].as_u64().unwrap();
        if !accepted.iter().any(|(when, name)| *when < frame && name == key_name) {
            could_not_tell.insert(stream["first_frame"].as_u64().unwrap());
        }
    }
    let unknown: HashSet<u64> =
        records.iter().filter(|(_, r)| r.prediction == Some(Prediction::Unknown)).map(|(frame, _)| *frame).collect();
    assert_eq!(unknown, could_not_tell);
    assert!(!unknown.is_empty() && unknown.len() < 10);
    assert_eq!(totals.predictions.iter().sum::<u64>(), 580);
    assert_eq!(census.key_names, 4, "four servers, one ticket key each");
    assert!(census.rows() <= 16, "{census:?}");
}
