//! A capture left by a test that failed.

use dispatcher::time::Time;
use std::io::Write;

/// The last frames at the dispatcher's ports.
pub struct Recorder {
    frames: std::collections::VecDeque<(Time, Vec<u8>)>,
}

/// Frames kept.
const KEPT: usize = 100_000;

impl Recorder {
    pub fn new() -> Recorder {
        Recorder { frames: Default::default() }
    }

    pub fn note(&mut self, now: Time, frame: &[u8]) {
        if self.frames.len() == KEPT {
            self.frames.pop_front();
        }
        self.frames.push_back((now, frame.to_vec()));
    }

    /// Bytes of the largest frame kept.
    pub fn largest(&self) -> usize {
        self.frames.iter().map(|f| f.1.len()).max().unwrap_or(0)
    }

    /// Writes a nanosecond pcap to the temporary folder; returns its path.
    pub fn write(&self, name: &str) -> std::io::Result<std::path::PathBuf> {
        let path = std::env::temp_dir().join(format!("lab-{name}-{}.pcap", std::process::id()));
        let mut out = std::io::BufWriter::new(std::fs::File::create(&path)?);
        for word in [0xa1b2_3c4du32, 0x0004_0002, 0, 0, 65535, 1] {
            out.write_all(&word.to_le_bytes())?;
        }
        for (at, frame) in &self.frames {
            let n = frame.len() as u32;
            for word in [at.as_secs() as u32, (at.as_nanos() % 1_000_000_000) as u32, n, n] {
                out.write_all(&word.to_le_bytes())?;
            }
            out.write_all(frame)?;
        }
        out.flush()?;
        Ok(path)
    }
}
