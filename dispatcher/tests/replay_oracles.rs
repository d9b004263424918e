//! The inspector's reading of every capture, compared member by member with what another program (tshark) read.

mod captures;

use captures::{all_captures, load_oracle};
use dispatcher::capture::Capture;
use dispatcher::replay::inspect::inspect;
use serde_json::Value;

/// Members that the oracles have and that depend on how a tool counts: when a message is complete.
const NOT_COMPARED: &[&str] = &["frame"];

/// Every member of the oracle must be in ours, with the same value.
fn differences(path: &str, oracle: &Value, ours: &Value, out: &mut Vec<String>) {
    match (oracle, ours) {
        (Value::Object(a), Value::Object(b)) => {
            for (key, value) in a.iter().filter(|(key, _)| !NOT_COMPARED.contains(&key.as_str())) {
                differences(&format!("{path}.{key}"), value, b.get(key).unwrap_or(&Value::Null), out);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (i, (x, y)) in a.iter().zip(b).enumerate() {
                differences(&format!("{path}[{i}]"), x, y, out);
            }
        }
        (x, y) if x == y => {}
        (x, y) => out.push(format!("{path}: oracle {x}, ours {y}")),
    }
}

#[test]
fn every_stream_of_every_capture_reads_as_its_oracle_says() {
    let mut streams = 0;
    for path in all_captures() {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        // Its hellos are encrypted under keys that anybody can derive; that is not done here.
        if name.starts_with("quic") {
            continue;
        }
        let oracle = load_oracle(&path);
        let found = inspect(&Capture::open(&path).unwrap());
        assert!(found.error.is_none(), "{name}");
        let ours: Vec<Value> = found.streams.iter().map(|s| serde_json::to_value(s).unwrap()).collect();
        assert_eq!(ours.len(), oracle.len(), "{name}: number of streams");
        let mut out = Vec::new();
        for (i, (x, y)) in oracle.iter().zip(&ours).enumerate() {
            differences(&format!("{name}[{i}]"), x, y, &mut out);
        }
        assert!(out.is_empty(), "{}", out.join("\n"));
        streams += oracle.len();
    }
    assert!(streams > 3300, "only {streams} streams compared: are the captures there?");
}
