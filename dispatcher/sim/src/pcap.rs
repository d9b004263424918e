//! A capture left by a world that failed.

use dispatcher::capture::LinkType;
use dispatcher::capture::pcapng::PcapngWriter;
use dispatcher::time::Time;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};

/// The last frames at the dispatcher's ports.
pub struct Recorder {
    frames: VecDeque<Noted>,
    kept: usize,
}

struct Noted {
    at: Time,
    port: usize,
    out: bool,
    frame: Vec<u8>,
}

impl Recorder {
    /// Keeps so many frames; none at all, with 0, is fast.
    pub fn new(kept: usize) -> Recorder {
        Recorder { frames: VecDeque::new(), kept }
    }

    /// Whether it keeps any.
    pub fn keeps(&self) -> bool {
        self.kept > 0
    }

    /// A frame passed a port: `out` of the dispatcher, or into it.
    pub fn note(&mut self, at: Time, port: usize, out: bool, frame: &[u8]) {
        if self.kept == 0 {
            return;
        }
        if self.frames.len() == self.kept {
            self.frames.pop_front();
        }
        self.frames.push_back(Noted { at, port, out, frame: frame.to_vec() });
    }

    /// Bytes of the largest frame kept.
    pub fn largest(&self) -> usize {
        self.frames.iter().map(|f| f.frame.len()).max().unwrap_or(0)
    }

    /// Writes a pcapng into a folder, one interface for each port and direction;
    /// returns its path.
    pub fn write(&self, folder: &Path, name: &str) -> std::io::Result<PathBuf> {
        std::fs::create_dir_all(folder)?;
        let path = folder.join(format!("{name}.pcapng"));
        let file = std::io::BufWriter::new(std::fs::File::create(&path)?);
        let mut out = PcapngWriter::new(file, "dispatcher sim")?;
        let ports = self.frames.iter().map(|f| f.port + 1).max().unwrap_or(0);
        for port in 0..ports {
            out.interface(&format!("port{port} in"), LinkType::ETHERNET)?;
            out.interface(&format!("port{port} out"), LinkType::ETHERNET)?;
        }
        for f in &self.frames {
            out.frame((f.port * 2 + usize::from(f.out)) as u32, f.at.as_nanos(), &f.frame, None)?;
        }
        out.finish()?;
        Ok(path)
    }
}
