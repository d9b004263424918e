//! Captures damaged in every way: reading ends with what was whole and one error, never with a panic, and never with
//! more memory than the file is worth.

mod captures;

use captures::all_captures;
use dispatcher::capture::Capture;
use dispatcher::replay::inspect::inspect;
use dispatcher::replay::recorded::{Listener, RecordedConnection, Replay, Tuning};
use std::time::Duration;

/// xorshift64*: the same damage every time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

struct Nobody;

impl Listener for Nobody {
    fn connection(&mut self, _: &RecordedConnection) -> anyhow::Result<()> {
        Ok(())
    }
    fn frame(&mut self, _: &dispatcher::capture::RecordedFrame<'_>, _: Option<&str>, _: usize) -> anyhow::Result<()> {
        Ok(())
    }
}

fn read(bytes: Vec<u8>) {
    let len = bytes.len() as u64;
    if let Ok(capture) = Capture::from_bytes(bytes) {
        let found = inspect(&capture);
        assert!(found.frames * 16 <= len, "a frame costs at least its header");
        let tuning = Tuning { session_capacity: 1024, session_ttl: Duration::from_secs(60), affinity: true };
        let mut nobody = Nobody;
        let mut replay = Replay::new(tuning, &mut nobody);
        let _ = replay.capture(&capture).unwrap();
        let (totals, _) = replay.finish().unwrap();
        assert_eq!(totals.frames_in, found.frames, "both read the same frames");
        assert_eq!(
            totals.frames_in,
            totals.frames_out + totals.drops.iter().sum::<u64>(),
            "every frame is accounted for"
        );
    }
}

/// The head of a file, so that many rounds of damage stay quick.
fn head(path: &std::path::Path) -> Vec<u8> {
    let mut bytes = std::fs::read(path).unwrap();
    bytes.truncate(60_000);
    bytes
}

#[test]
fn truncated_captures_never_panic() {
    let mut random = Random(0x5eed_0001);
    for (n, path) in all_captures().iter().enumerate() {
        let whole = head(path);
        for _ in 0..6 {
            read(whole[..random.below(whole.len())].to_vec());
        }
        // The first 64 places to cut at, in turns: headers of files are much alike.
        for cut in (n % 8..64).step_by(8) {
            read(whole[..cut].to_vec());
        }
    }
}

#[test]
fn corrupted_captures_never_panic() {
    let mut random = Random(0x5eed_0002);
    for path in all_captures() {
        let whole = head(&path);
        for round in 0..8 {
            let mut bytes = whole.clone();
            // From a single byte to a file full of holes; sometimes a stretch of it missing.
            for _ in 0..1usize << round {
                let at = random.below(bytes.len());
                bytes[at] = random.next() as u8;
            }
            if round % 3 == 0 {
                let at = random.below(bytes.len());
                let len = random.below(bytes.len() - at).min(500);
                bytes.drain(at..at + len);
            }
            read(bytes);
        }
    }
}

#[test]
fn corrupted_payloads_never_panic() {
    // The record headers stay as they are, so that the damage reaches the parsers behind them.
    let mut random = Random(0x5eed_0003);
    for path in all_captures().iter().filter(|p| p.extension().is_some_and(|e| e == "pcap")) {
        let mut bytes = head(path);
        let mut at = 24;
        while at + 16 <= bytes.len() {
            let len = u32::from_le_bytes(bytes[at + 8..at + 12].try_into().unwrap()) as usize;
            let end = (at + 16 + len).min(bytes.len());
            if random.below(3) == 0 && end > at + 16 {
                let hit = at + 16 + random.below(end - at - 16);
                bytes[hit] = random.next() as u8;
            }
            at = end;
        }
        read(bytes);
    }
}
