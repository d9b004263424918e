//! A frame through a tunnel whose packets are sealed, against the sealing alone: what boringtun takes for the same packets, without an engine around it.

use crate::figure::{Report, Target};
use crate::peers::{BURST, Burst, Conversation, From, SECRET, World};
use crate::region::{Turns, measured_region};
use anyhow::{Context, Result, ensure};
use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519::{PublicKey, StaticSecret};
use dispatcher::engine::{Unsealed, Verdict};
use dispatcher::path::tunnel::{End, Wrap, sealed_port};
use dispatcher::tunnel::{Edge, Secret};
use dispatcher::wire::packet::Flags;
use dispatcher::wire::{Addr, Mac};
use lb::{Tunnel, TunnelKind};
use sim::config::{ip, server_ip, two_armed};
use std::net::SocketAddr;

/// Frames between two looks at the clock.
const BATCH: usize = 256;
/// IPv4 and TCP without options.
const HEADERS: usize = 40;
const ETHERNET: usize = 14;
const FAR: [u8; 32] = [9; 32];
const BUFFER: usize = 2048;

/// A tunnel, with both its ends.
pub struct Through {
    pub edge: Edge,
    far: Tunn,
    /// Messages are opened as they are sent, by the far end, for who looks at them.
    opens: bool,
    back: Wrap,
}

fn keys() -> (Secret, [u8; 32]) {
    (Secret::from_bytes(SECRET), PublicKey::from(&StaticSecret::from(FAR)).to_bytes())
}

fn far() -> Tunn {
    Tunn::new(StaticSecret::from(FAR), PublicKey::from(keys().0.public_of(0)), None, None, 1, None)
}

impl Through {
    /// The packet in a frame, in a frame of its own, if there is one.
    pub fn opened(&mut self, frame: &[u8]) -> Option<Vec<u8>> {
        let udp = ETHERNET + 20;
        if !self.opens || frame.get(23) != Some(&17) {
            return None;
        }
        let mut out = vec![0; BUFFER];
        match self.far.decapsulate(None, &frame[udp + 8..], &mut out) {
            TunnResult::WriteToTunnelV4(packet, _) => Some([&frame[..ETHERNET], packet].concat()),
            _ => None,
        }
    }

    /// The frame in which the far end sends a packet.
    fn sealed(&mut self, frame: &[u8]) -> Vec<u8> {
        let begin = ETHERNET + self.back.message_at();
        let mut out = vec![0; BUFFER];
        out[..ETHERNET].copy_from_slice(&frame[..ETHERNET]);
        let n = match self.far.encapsulate(&frame[ETHERNET..], &mut out[begin..]) {
            TunnResult::WriteToNetwork(message) => message.len(),
            _ => 0,
        };
        out.truncate(begin + n);
        self.back.write_around(&mut out[ETHERNET..], sealed_port(0), 0);
        out
    }
}

/// One connection through a tunnel, and beside it two ends that nobody is between.
struct Rig {
    world: World,
    who: Vec<Conversation>,
    burst: Burst,
    alone: [Tunn; 2],
    packet: usize,
}

/// Until neither has anything to say.
fn shake(a: &mut Tunn, b: &mut Tunn) -> Result<()> {
    let (mut out, mut back) = (vec![0; BUFFER], vec![0; BUFFER]);
    let TunnResult::WriteToNetwork(first) = a.format_handshake_initiation(&mut out, true) else {
        anyhow::bail!("no handshake")
    };
    let TunnResult::WriteToNetwork(answer) = b.decapsulate(None, first, &mut back) else { anyhow::bail!("no answer") };
    let answer = answer.to_vec();
    let TunnResult::WriteToNetwork(last) = a.decapsulate(None, &answer, &mut out) else { anyhow::bail!("no session") };
    let last = last.to_vec();
    b.decapsulate(None, &last, &mut back);
    Ok(())
}

impl Rig {
    fn new(packet: usize) -> Result<Rig> {
        let (secret, public_key) = keys();
        let config = sim::tunnels::behind(two_armed(1, false), TunnelKind::Wireguard { public_key });
        let end = End::from(config.backends()[0].tunnel.context("it is behind one")?.endpoint);
        let mut world = World::of(config)?;
        let mut edge = Edge::new(&secret, 0, 1500, world.now);
        edge.follow(world.engine.directory(), world.now);
        let mut far = far();
        let (mut out, mut back) = (vec![0; BUFFER], vec![0; BUFFER]);
        let (_, n) = edge.next_message(&mut out).context("a handshake")?;
        let TunnResult::WriteToNetwork(answer) = far.decapsulate(None, &out[..n], &mut back) else {
            anyhow::bail!("no answer")
        };
        let Unsealed::Answer(n) = edge.unseal(end, answer, &mut out) else { anyhow::bail!("no session") };
        far.decapsulate(None, &out[..n], &mut back);
        let ours = Tunnel {
            kind: TunnelKind::Wireguard { public_key },
            endpoint: SocketAddr::new(ip("10.2.0.1"), sealed_port(0)),
        };
        let wrap = Wrap::new(&ours, Addr::from(server_ip(0, false)), Mac::default());
        world.behind(Through { edge, far, opens: true, back: wrap });
        let mut alone = [Tunn::new(secret.of_worker(0), PublicKey::from(public_key), None, None, 2, None), self::far()];
        let [a, b] = &mut alone;
        shake(a, b)?;
        let mut rig =
            Rig { world, who: vec![Conversation::new(0)], burst: Burst::new(BATCH.max(BURST)), alone, packet };
        let syn_ack = Flags(Flags::SYN.0 | Flags::ACK.0);
        rig.say(From::Client, Flags::SYN, &[])?;
        rig.say(From::Client, Flags::ACK, &[])?;
        rig.say(From::Client, Flags::ACK, b"GET / HTTP/1.0\r\n\r\n")?;
        ensure!(rig.who[0].server().is_some(), "the server is dialled through the tunnel");
        rig.say(From::Server, syn_ack, &[])?;
        rig.say(From::Server, Flags::ACK, b"answer")?;
        rig.say(From::Client, Flags::ACK, &[])?;
        Ok(rig)
    }

    fn say(&mut self, from: From, flags: Flags, payload: &[u8]) -> Result<()> {
        self.burst.clear();
        let mut frame = self.who[0].says(from, flags, payload);
        if from == From::Server {
            frame = self.world.through().context("a tunnel")?.sealed(&frame);
        }
        self.burst.push(from, &frame);
        self.world.take(&mut self.burst);
        self.world.hear(&self.burst, &mut self.who);
        Ok(())
    }

    /// A batch of that side's packets, nanoseconds each.
    fn through(&mut self, from: From) -> Result<f64> {
        let payload = vec![0xe7; self.packet - HEADERS];
        self.burst.clear();
        for _ in 0..BATCH {
            let mut frame = self.who[0].says(from, Flags::ACK, &payload);
            if from == From::Server {
                frame = self.world.through().context("a tunnel")?.sealed(&frame);
            }
            self.burst.push(from, &frame);
        }
        if let Some(through) = self.world.through() {
            through.opens = false;
        }
        let Rig { world, burst, .. } = self;
        let took = measured_region(&mut || world.take(burst));
        let other = burst.verdicts.iter().find(|v| !matches!(v, Verdict::Forward(_)));
        ensure!(other.is_none(), "not every frame is forwarded: {other:?}");
        // What was said is acknowledged, so that the window does not end.
        let ack = self.who[0].says(if from == From::Client { From::Server } else { From::Client }, Flags::ACK, &[]);
        let ack = match (from, self.world.through()) {
            (From::Client, Some(through)) => through.sealed(&ack),
            _ => ack,
        };
        self.burst.clear();
        self.burst.push(if from == From::Client { From::Server } else { From::Client }, &ack);
        self.world.take(&mut self.burst);
        Ok(took.as_nanos() as f64 / BATCH as f64)
    }

    /// As many packets of that length sealed, or opened, and nothing else.
    fn alone(&mut self, seals: bool) -> Result<f64> {
        let mut packets = vec![vec![0; BUFFER]; BATCH];
        for packet in &mut packets {
            packet.truncate(self.packet);
            packet[0] = 0x45;
            packet[2..4].copy_from_slice(&(self.packet as u16).to_be_bytes());
        }
        let (mut out, [a, b]) = (vec![0; BUFFER], &mut self.alone);
        if seals {
            let took = measured_region(&mut || packets.iter().for_each(|packet| _ = a.encapsulate(packet, &mut out)));
            return Ok(took.as_nanos() as f64 / BATCH as f64);
        }
        let sealed = |packet: &Vec<u8>| match b.encapsulate(packet, &mut out) {
            TunnResult::WriteToNetwork(message) => message.to_vec(),
            _ => vec![],
        };
        let messages: Vec<Vec<u8>> = packets.iter().map(sealed).collect();
        let took = measured_region(&mut || messages.iter().for_each(|m| _ = a.decapsulate(None, m, &mut out)));
        Ok(took.as_nanos() as f64 / BATCH as f64)
    }
}

/// Packets of 1420 bytes, and small ones.
pub fn run(rounds: usize, report: &mut Report) -> Result<()> {
    report.begin("seal", 2);
    for packet in [1420, HEADERS + 24] {
        let case = format!("packets of {packet} B");
        report.step(&case);
        let mut rig = Rig::new(packet)?;
        let turns = Turns::<4>::take(rounds, || {
            Ok([rig.through(From::Client)?, rig.alone(true)?, rig.through(From::Server)?, rig.alone(false)?])
        })?;
        for (at, what, alone) in [(0, "to the server", "sealing alone"), (2, "from the server", "opening alone")] {
            report.add("seal", &case, what, turns.median(at), "ns");
            report.add("seal", &case, alone, turns.median(at + 1), "ns");
            let ratio = turns.ratio(at, at + 1);
            let measure = format!("{what} / {alone}");
            if packet == 1420 {
                report.aim(("seal", &case, &measure), ratio, "x", Target::AtMost(1.6));
            } else {
                report.add("seal", &case, &measure, ratio, "x");
            }
        }
    }
    Ok(())
}
