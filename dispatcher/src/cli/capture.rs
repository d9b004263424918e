//! `dispatcher ctl capture`: frames as they pass, written into a file of its owner's.

use super::ctl::{CtlArgs, NOT_ASKED, REFUSED, refusal};
use crate::control::socket::capture::{LEAST_SNAP, LONGEST, MOST};
use crate::control::socket::client::{self, Question, escaped};
use crate::control::values;
use crate::engine::DropReason;
use crate::io::MAX_UNIT;
use clap::Args;
use hyper::Method;
use lb::admission::Prefix;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Flags of `ctl capture`.
#[derive(Args, Debug)]
pub struct CaptureArgs {
    /// Frames of clients whose addresses begin so, on both sides
    #[arg(long, value_name = "ADDR[/BITS]")]
    pub client: Option<Prefix>,

    /// Frames of connections to this backend, and from and to its address
    #[arg(long, value_name = "NAME")]
    pub backend: Option<String>,

    /// Frames that were dropped, or answered by a reset: for any reason, or for this one
    #[arg(long, value_name = "REASON", num_args = 0..=1, require_equals = true, default_missing_value = "all", value_parser = reason)]
    pub drops: Option<String>,

    /// End after so many frames, received and sent: at most 10000000 [default: 10000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=MOST))]
    pub count: Option<u64>,

    /// End after this time: at most an hour [default: 1h]
    #[arg(long = "for", value_name = "D", value_parser = time)]
    pub time: Option<String>,

    /// Bytes of each frame that are kept: 64 to 65557 [default: 2048]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(LEAST_SNAP as i64..=MAX_UNIT as i64))]
    pub snap: Option<u32>,

    /// Where to, as pcapng; what was there is gone, and only its owner may read it. -: standard output
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
}

fn reason(name: &str) -> Result<String, String> {
    if name == "all" || DropReason::ALL.iter().any(|why| why.as_str() == name) {
        return Ok(name.to_string());
    }
    let all: Vec<_> = DropReason::ALL.iter().map(|why| why.as_str()).collect();
    Err(format!("none of {}", all.join(", ")))
}

fn time(text: &str) -> Result<String, String> {
    match values::duration(text)? {
        time if time > LONGEST => Err("an hour at most".into()),
        _ => Ok(text.to_string()),
    }
}

impl CaptureArgs {
    fn question(&self) -> Question {
        let CaptureArgs { client, backend, drops, count, time, snap, out: _ } = self;
        let given = [
            ("client", client.map(|prefix| prefix.to_string())),
            ("backend", backend.clone()),
            ("drops", drops.clone()),
            ("count", count.map(|n| n.to_string())),
            ("for", time.clone()),
            ("snap", snap.map(|n| n.to_string())),
        ];
        let given = given.iter().filter_map(|(key, value)| Some(format!("{key}={}", escaped(value.as_ref()?))));
        Question::new(Method::GET, format!("/v1/capture?{}", given.collect::<Vec<_>>().join("&")))
    }
}

/// Blocks of a pcapng file as they come, whole ones only.
#[derive(Default)]
struct Blocks {
    rest: Vec<u8>,
    frames: u64,
    lost: u64,
}

impl Blocks {
    /// What is whole by now.
    fn whole(&mut self, more: &[u8]) -> Vec<u8> {
        self.rest.extend_from_slice(more);
        let word = |b: &[u8], at: usize| {
            b.get(at..at + 4).map_or(0, |b| u32::from_le_bytes(b.try_into().expect("four bytes")))
        };
        let mut end = 0;
        while let Some(block) = self.rest.get(end..)
            && let len = word(block, 4) as usize
            && len >= 12
            && block.len() >= len
        {
            match word(block, 0) {
                6 => self.frames += 1,
                // Interface statistics, whose only option says how many frames were lost.
                5 => self.lost = u64::from(word(block, 24)) | u64::from(word(block, 28)) << 32,
                _ => {}
            }
            end += len;
        }
        self.rest.drain(..end).collect()
    }
}

/// The command. What to print.
pub(super) fn run(args: &CtlArgs, capture: &CaptureArgs) -> Result<String, (u8, String)> {
    let shown = capture.out.display();
    let wrong = |e: io::Error| (NOT_ASKED, format!("--out {shown}: {e}"));
    let stop = Arc::new(AtomicBool::new(false));
    let mut out: Option<Box<dyn Write>> = None;
    let mut blocks = Blocks::default();
    let mut failed = None;
    for signal in [SIGINT, SIGTERM] {
        flag::register(signal, stop.clone()).map_err(|e| (NOT_ASKED, format!("cannot catch signals: {e}")))?;
    }
    let ended = client::stream(&args.socket, capture.question(), &stop, |more| {
        let whole = blocks.whole(more);
        let written = (|| {
            let out = match &mut out {
                Some(out) => out,
                none => {
                    // Now it is known that nothing refuses.
                    eprintln!("dispatcher: capturing; ^C ends it");
                    none.insert(create(&capture.out)?)
                }
            };
            out.write_all(&whole)?;
            out.flush()
        })();
        written.map_err(|e| failed = Some(e)).is_ok()
    });
    if let Some(e) = failed {
        // A reader that has seen enough is no error.
        return if e.kind() == io::ErrorKind::BrokenPipe { Ok(String::new()) } else { Err(wrong(e)) };
    }
    let answer = ended.map_err(|why| (NOT_ASKED, why))?;
    if !(200..300).contains(&answer.status) {
        return Err((REFUSED, refusal(args, &answer)));
    }
    let why = if stop.load(Ordering::Relaxed) { ", ended by a signal" } else { "" };
    let lost =
        if blocks.lost > 0 { format!(", {} more were lost: there was no room", blocks.lost) } else { String::new() };
    let told = format!("{} frames in {shown}{lost}{why}\n", blocks.frames);
    if capture.out == Path::new("-") {
        eprint!("{told}");
        return Ok(String::new());
    }
    Ok(told)
}

/// For its owner only.
fn create(path: &Path) -> io::Result<Box<dyn Write>> {
    if path == Path::new("-") {
        return Ok(Box::new(io::stdout()));
    }
    let file: File = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    // One that was there may have been anybody's to read.
    if file.metadata()?.is_file() {
        file.set_permissions(Permissions::from_mode(0o600))?;
    }
    Ok(Box::new(file))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::pcapng::PcapngWriter;
    use crate::capture::{Capture, LinkType};

    #[test]
    fn a_file_that_is_cut_anywhere_on_its_way_has_whole_blocks_and_its_frames_are_counted() {
        let mut writer = PcapngWriter::new(Vec::new(), "test").unwrap();
        writer.interface("lan-received", LinkType::ETHERNET).unwrap();
        for n in 0..5 {
            writer.frame(0, n, &vec![n as u8; 60 + n as usize], Some("dropped: no-flow")).unwrap();
            writer.dropped(0, n, n << 33).unwrap();
        }
        let file = writer.finish().unwrap();
        for size in [1, 7, 64, 1000] {
            let (mut blocks, mut whole) = (Blocks::default(), Vec::new());
            for piece in file.chunks(size) {
                whole.extend(blocks.whole(piece));
                if whole.len() > 60 {
                    let capture = Capture::from_bytes(whole.clone()).unwrap();
                    assert_eq!(capture.frames().unwrap().map(Result::unwrap).count() as u64, blocks.frames);
                }
            }
            assert_eq!((whole == file, blocks.frames, blocks.lost), (true, 5, 4 << 33));
        }
    }
}
