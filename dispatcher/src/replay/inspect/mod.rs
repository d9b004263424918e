//! What the TLS and DTLS streams of a capture say in the clear: every hello, every ticket, and whether a session was
//! resumed. `tls-inspect` prints it; tests compare it with the captures' oracles.

mod datagrams;
mod report;
mod streams;

pub use report::{Blob, ClientHelloReport, Endpoint, ServerHelloReport, StreamReport, TicketReport};

use super::decode::Transport;
use super::fragments::Defragmenter;
use super::reassembly::{At, Limits, Tracker};
use super::unread::Unread;
use crate::capture::{Capture, CaptureError};

/// Everything found in a capture.
pub struct Inspection {
    /// TCP connections, and UDP flows that speak DTLS, in order of their first frames.
    pub streams: Vec<StreamReport>,
    /// Frames read.
    pub frames: u64,
    /// Frames that the recorder cut short (snap length).
    pub cut_frames: u64,
    /// What was read, and what was not.
    pub unread: Unread,
    /// Why the rest of the capture could not be read.
    pub error: Option<CaptureError>,
}

/// Reads a whole capture. Memory grows with the number of connections and what they say in the clear, not with what
/// they carry.
pub fn inspect(capture: &Capture) -> Inspection {
    let mut tracker = Tracker::new(streams::Inspector, Limits::default());
    let mut flows = datagrams::Flows::default();
    let mut fragments = Defragmenter::default();
    let mut found =
        Inspection { streams: Vec::new(), frames: 0, cut_frames: 0, unread: Unread::default(), error: None };
    match capture.frames() {
        Err(error) => found.error = Some(error),
        Ok(frames) => {
            for frame in frames {
                let frame = match frame {
                    Ok(frame) => frame,
                    Err(error) => {
                        found.error = Some(error);
                        break;
                    }
                };
                found.frames += 1;
                found.cut_frames += u64::from(frame.missing() > 0);
                let at = At { frame: frame.number, time: frame.time, unix_nanos: frame.unix_nanos };
                let mut joined = Vec::new();
                let packet = fragments.decode(&frame, &mut joined);
                let packet = match packet {
                    Ok(packet) => packet,
                    Err(why) => {
                        found.unread.not_taken(why);
                        continue;
                    }
                };
                found.unread.taken();
                match &packet.transport {
                    Transport::Tcp(segment) => tracker.segment(&packet, segment, at),
                    Transport::Udp { payload, missing } => flows.datagram(&packet, payload, *missing, at),
                }
            }
        }
    }
    found.unread.end_of_file();
    tracker.finish();
    found.streams = tracker.connections().map(|(connection, state)| state.report(connection)).collect();
    found.streams.extend(flows.into_reports());
    found.streams.sort_by_key(|s| s.first_frame);
    found
}
