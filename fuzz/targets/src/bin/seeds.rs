//! Makes the first inputs of the fuzz targets from captures: `seeds FOLDER CAPTURE...` writes `FOLDER/<target>/*`.
//!
//! Afterwards `cargo fuzz cmin` keeps those that add something.

use dispatcher::capture::Capture;
use dispatcher::replay::decode::{Transport, decode};
use dispatcher::replay::reassembly::{At, Connection, Handler, Limits, Tracker, Turn, Way};
use ssl_parse::Outcome;
use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Longest input, bytes: long ones make a fuzzer slow.
const LONGEST: usize = 4096;

/// Keeps the beginnings of streams.
struct Beginnings;

impl Handler for Beginnings {
    type State = [Vec<u8>; 2];

    fn opened(&mut self, _: &Connection) -> Self::State {
        Default::default()
    }

    fn data(&mut self, _: &mut Connection, state: &mut Self::State, way: Way, bytes: &[u8], _: At) -> Turn {
        let kept = &mut state[way.index()];
        kept.extend_from_slice(&bytes[..bytes.len().min(LONGEST - kept.len())]);
        Turn::Keep
    }

    fn gap(&mut self, _: &mut Connection, _: &mut Self::State, _: Way, _: u64, _: At) {}

    fn ended(&mut self, _: &Connection, _: &mut Self::State) {}

    fn wants(&self, state: &Self::State, way: Way) -> bool {
        state[way.index()].len() < LONGEST
    }
}

/// Writes inputs, each shape once.
struct Seeds {
    folder: PathBuf,
    shapes: HashSet<(&'static str, Vec<u8>)>,
}

impl Seeds {
    /// Those of one `shape` are as good as each other.
    fn keep(&mut self, target: &'static str, shape: Vec<u8>, bytes: &[u8]) -> std::io::Result<()> {
        if bytes.is_empty() || !self.shapes.insert((target, shape)) {
            return Ok(());
        }
        let folder = self.folder.join(target);
        fs::create_dir_all(&folder)?;
        let n = self.shapes.iter().filter(|(t, _)| *t == target).count();
        fs::write(folder.join(format!("seed-{n:04}")), bytes)
    }

    fn connection(&mut self, [client, server]: &[Vec<u8>; 2]) -> std::io::Result<()> {
        let mut scratch = vec![0; 1 << 16];
        let mut shape = vec![];
        match ssl_parse::client_hello(client, &mut scratch) {
            Outcome::Complete(h) => {
                for x in h.extensions {
                    shape.extend(x.kind.0.to_be_bytes());
                }
                shape.push(h.session_id.len() as u8);
                self.keep("client_hello", shape.clone(), &client[..h.consumed])?;
                if h.framing == ssl_parse::Framing::Tls && client[3..5] == ((h.consumed - 5) as u16).to_be_bytes() {
                    self.keep("messages", shape.clone(), &[&[0], &client[9..h.consumed]].concat())?;
                } else {
                    self.keep("messages", shape.clone(), &[&[4], &client[..h.consumed]].concat())?;
                }
            }
            Outcome::NotTls => shape.extend(client.iter().take(8)),
            Outcome::NeedMore | Outcome::Malformed(_) => shape.push(0),
        }
        let mut kinds: Vec<u8> = server.iter().take(12).copied().collect();
        if let Outcome::Complete(h) = ssl_parse::server_hello(server, &mut scratch) {
            kinds = vec![h.session_id.len() as u8, u8::from(h.hello_retry)];
            for x in h.extensions {
                kinds.extend(x.kind.0.to_be_bytes());
            }
            let len = server.len().min(600);
            self.keep("server_hello", kinds.clone(), &server[..len])?;
            if len > 9 {
                let body = usize::from(u16::from_be_bytes([server[7], server[8]]));
                let end = (9 + body).min(server.len());
                self.keep("messages", [&[3][..], &kinds].concat(), &[&[3], &server[9..end]].concat())?;
            }
        }
        self.keep("follower", [&[0][..], &shape].concat(), &[&[0, 40, 9], &client[..]].concat())?;
        self.keep("follower", [&[1][..], &kinds].concat(), &[&[1, 200, 3], &server[..]].concat())
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let folder = arguments.next().ok_or("usage: seeds FOLDER CAPTURE...")?;
    let mut seeds = Seeds { folder, shapes: HashSet::new() };
    for path in arguments {
        one(&mut seeds, &path)?;
    }
    let words = [
        "run\n--port\nwan=af-packet:eth0,ip=10.0.0.1/24,gateway=10.0.0.254,queues=2\n--vip\n10.0.0.9:443\n--backend\n\
         web1=10.0.1.1:8443,weight=3\n--workers\n2\n--idle\nsleep\n--hello-timeout\n500ms\n--stats-interval\n1s",
        "run\n--port\nlan=af-xdp:eth1,ip=[fd00::1]/64,vlan=7\n--vip\n[fd00::9]:443\n--backend\nw=[fd01::1]:443\n--cores\n\
         0,2-3\n--balance\nleast-conn\n--address-mode\ndnat\n--proxy-protocol\nv2\n--affinity\noff",
        "replay\na.pcap\n--json\n--out\nb.pcapng\n--vip\n10.0.0.9:443\n--backend\nw=10.0.1.1:443\n--session-ttl\n1h\n\
         --session-capacity\n4096\n--flow-capacity\n100\n--flow-idle-timeout\n5m\n--ticket-key\nw=000102030405060708090a0b0c0d0e0f",
        "--help",
    ];
    for (n, line) in words.iter().enumerate() {
        seeds.keep("flags", vec![n as u8], line.as_bytes())?;
    }
    for seed in 1..5 {
        seeds.keep("takeover", vec![seed as u8], &fuzz_targets::takeover_seed(seed))?;
    }
    Ok(())
}

fn one(seeds: &mut Seeds, path: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let capture = Capture::open(path)?;
    let raw = capture.as_bytes();
    let mut tracker = Tracker::new(Beginnings, Limits::default());
    let mut datagrams: Vec<(std::net::SocketAddr, Vec<u8>)> = vec![];
    let mut second = None;
    for frame in capture.frames()? {
        let Ok(frame) = frame else { break };
        let at = At { frame: frame.number, time: frame.time, unix_nanos: frame.unix_nanos };
        match decode(&frame) {
            Ok(packet) => match &packet.transport {
                Transport::Tcp(segment) => tracker.segment(&packet, segment, at),
                Transport::Udp { payload, .. } => datagrams.push((packet.src, payload.to_vec())),
            },
            Err(_) => continue,
        }
        if frame.number == 2 {
            // The file up to here, whatever its format.
            let begin = frame.bytes.as_ptr() as usize - raw.as_ptr() as usize;
            second = Some((begin + frame.bytes.len()).next_multiple_of(4).min(raw.len()));
        }
    }
    if let Some(end) = second.filter(|end| *end < LONGEST) {
        seeds.keep("capture", path.as_os_str().as_encoded_bytes().to_vec(), &raw[..end])?;
    }
    for (_, streams) in tracker.connections() {
        seeds.connection(streams)?;
    }
    let sides: HashSet<_> = datagrams.iter().map(|d| d.0).collect();
    for side in sides {
        let own = datagrams.iter().filter(|d| d.0 == side && d.1.len() < 2000).take(6);
        let input: Vec<u8> =
            own.flat_map(|(_, d)| [&(d.len() as u16).to_le_bytes()[..], d].concat()).take(LONGEST).collect();
        for way in [0u8, 1] {
            seeds.keep(
                "dtls",
                [&[way][..], &input[..input.len().min(200)]].concat(),
                &[&[way], &input[..]].concat(),
            )?;
        }
    }
    Ok(())
}
