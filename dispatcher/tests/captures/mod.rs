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
    let all = captures_in(&directory());
    assert!(all.len() >= 43);
    all
}

/// Hellos that are odd in one thing each, by name: the bytes, and whether some server took it. The corpus keeps 3000 bytes of
/// each; zeros in records stand for the rest.
pub fn odd_hellos() -> Vec<(String, Vec<u8>, bool)> {
    let path = directory().join("../odd-hellos/hellos.jsonl");
    let text = std::fs::read_to_string(path).expect("testdata/odd-hellos");
    let odd = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap();
        let digits = line["hello"].as_str().unwrap();
        let byte = |i| u8::from_str_radix(&digits[i..i + 2], 16).unwrap();
        let mut bytes: Vec<u8> = (0..digits.len()).step_by(2).map(byte).collect();
        if bytes.len() >= 3000 {
            let record = usize::from(u16::from_be_bytes([bytes[3], bytes[4]]));
            let mut left = 4 + u32::from_be_bytes([0, bytes[6], bytes[7], bytes[8]]) as usize - record;
            bytes.resize(5 + record, 0);
            while left > 0 {
                let n = left.min(1 << 14);
                bytes.extend([&[22, 3, 1][..], &(n as u16).to_be_bytes(), &vec![0; n]].concat());
                left -= n;
            }
        }
        let taken = line["answers"].as_object().unwrap().values().any(|answer| answer == "SH");
        (line["name"].as_str().unwrap().to_owned(), bytes, taken)
    };
    text.lines().map(odd).collect()
}

/// Real handshakes with such hellos.
pub fn odd_captures() -> Vec<PathBuf> {
    captures_in(&directory().join("../odd-hellos"))
}

fn captures_in(directory: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = std::fs::read_dir(directory)
        .unwrap_or_else(|e| panic!("{}: {e}", directory.display()))
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "pcap" || e == "pcapng"))
        .collect();
    all.sort();
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
