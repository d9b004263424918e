//! Every target over its kept inputs, and over each of them damaged a little: what cargo-fuzz does, on any toolchain and in a moment.

use fuzz_targets::TARGETS;
use sim::rng::Rng;
use std::path::{Path, PathBuf};

fn inputs(target: &str) -> Vec<PathBuf> {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../corpus")).join(target);
    let mut all: Vec<_> = std::fs::read_dir(&folder)
        .unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
        .map(|entry| entry.expect("an entry").path())
        .collect();
    all.sort();
    assert!(!all.is_empty(), "{target} has no inputs");
    all
}

/// Says which input it was, should the target panic.
struct Name<'a>(&'a str, &'a Path, &'a [u8]);

impl Drop for Name<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let kept = std::env::temp_dir().join(format!("fuzz-{}-{}", self.0, std::process::id()));
            let _ = std::fs::write(&kept, self.2);
            eprintln!("{}: {}, as {}", self.0, self.1.display(), kept.display());
        }
    }
}

fn run(name: &str, target: fn(&[u8]), path: &Path, bytes: &[u8]) {
    let _name = Name(name, path, bytes);
    target(bytes);
}

/// Overwrites, cuts, repeats or inserts.
fn damage(rng: &mut Rng, bytes: &mut Vec<u8>) {
    for _ in 0..rng.between(1, 4) {
        if bytes.is_empty() {
            return;
        }
        let at = rng.below(bytes.len());
        match rng.below(8) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, rng.u64() as u8),
            2 => drop(bytes.remove(at)),
            3 => {
                let part = bytes[at..(at + rng.between(1, 40)).min(bytes.len())].to_vec();
                bytes.splice(at..at, part);
            }
            4 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][rng.below(5)],
            5 => bytes[at] ^= 1 << rng.below(8),
            _ => bytes[at] = rng.u64() as u8,
        }
    }
}

fn target(name: &str, rounds: usize) {
    let (name, target) = *TARGETS.iter().find(|t| t.0 == name).expect("a target");
    let mut rng = Rng::new(7);
    for path in inputs(name) {
        let bytes = std::fs::read(&path).expect("readable");
        run(name, target, &path, &bytes);
        for _ in 0..rounds {
            let mut damaged = bytes.clone();
            damage(&mut rng, &mut damaged);
            run(name, target, &path, &damaged);
        }
    }
}

macro_rules! targets {
    ($($name:ident: $rounds:literal),* $(,)?) => {
        $(#[test]
        fn $name() {
            target(stringify!($name), $rounds);
        })*

        #[test]
        fn every_target_is_run() {
            assert_eq!([$(stringify!($name)),*], TARGETS.map(|t| t.0));
        }
    };
}

targets! {
    client_hello: 100,
    server_hello: 100,
    follower: 20,
    dtls: 100,
    messages: 100,
    engine: 5,
    capture: 200,
    flags: 20,
    config: 100,
    control: 40,
    state: 100,
    http: 100,
    tunnel: 20,
    takeover: 40,
}
