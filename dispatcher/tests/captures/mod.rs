//! Where the captures are, and what is said about them.
#![allow(dead_code, reason = "each test uses some of it")]

use serde_json::Value;
use std::path::{Path, PathBuf};

pub fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/captures")
}

pub fn capture(name: &str) -> PathBuf {
    directory().join(name)
}

pub fn all_captures() -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = std::fs::read_dir(directory())
        .expect("testdata/captures")
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "pcap" || e == "pcapng"))
        .collect();
    all.sort();
    assert!(all.len() >= 43);
    all
}

fn json(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The oracle beside a capture.
pub fn load_oracle(capture: &Path) -> Vec<Value> {
    let Value::Array(streams) = json(&capture.with_extension("oracle.json")) else { panic!("an array") };
    streams
}

/// Which server each session of a fleet belongs to.
pub fn load_truth(name: &str) -> Value {
    json(&directory().join(format!("{name}.truth.json")))
}
