//! The worker's own loop over ports in memory, and the least that a loop over the same ports can do.

use crate::peers::{BURST, Crowd, From, World};
use crate::region::measured_region;
use anyhow::{Result, ensure};
use core::time::Duration;
use dispatcher::engine::Engine;
use dispatcher::io::mem::{Memory, Wire};
use dispatcher::io::{Burst, Port, Receiver, Transmitter, send};
use dispatcher::time::Time;
use dispatcher::worker::poll::{Clock, Loop};
use dispatcher::worker::{Exchange, Idle, Totals};

/// Frames that a queue holds.
const DEPTH: usize = 4 * BURST;

/// Two ports in memory and their far ends: clients' and servers'.
pub fn ports() -> (Vec<Port>, [Wire; 2]) {
    let memory = Memory::new(4 * DEPTH);
    let ((a, a_wire), (b, b_wire)) = (memory.port(DEPTH), memory.port(DEPTH));
    (vec![a, b], [a_wire, b_wire])
}

/// Puts a burst of frames onto each wire.
pub fn inject(wires: &[Wire; 2], mut frame: impl FnMut(From, &mut [u8]) -> usize) -> Result<()> {
    let mut buffer = [0; 2048];
    for from in [From::Client, From::Server] {
        for _ in 0..BURST {
            let n = frame(from, &mut buffer);
            ensure!(wires[from as usize].inject(&buffer[..n]), "the queue has room for a burst");
        }
    }
    Ok(())
}

fn put(wires: &[Wire; 2], from: From, frame: impl FnOnce(&mut [u8]) -> usize) -> Result<()> {
    let mut buffer = [0; 2048];
    let n = frame(&mut buffer);
    ensure!(wires[from as usize].inject(&buffer[..n]), "the queue has room");
    Ok(())
}

/// Takes from the wires what was sent; how many frames.
pub fn drain(wires: &[Wire; 2]) -> usize {
    wires.iter().map(|wire| core::iter::from_fn(|| wire.take()).count()).sum()
}

/// A worker's loop with an engine that knows its flows.
pub struct Looped {
    run: Loop<Engine>,
    wires: [Wire; 2],
    now: Time,
}

impl Looped {
    /// With the engine of a world.
    pub fn new(world: World) -> Looped {
        let (ports, wires) = ports();
        let now = world.now;
        let run = Loop::new(world.engine, ports, Clock::start(), Idle::Spin, None, Totals::default());
        Looped { run, wires, now }
    }

    /// The same as one of several workers.
    pub fn among(world: World, exchange: Exchange) -> Looped {
        let Looped { run, wires, now } = Looped::new(world);
        Looped { run: run.among(exchange), wires, now }
    }

    /// A turn with a burst at each port of frames that are another worker's; nanoseconds a frame.
    pub fn turn_away(&mut self, crowd: &mut Crowd) -> Result<f64> {
        inject(&self.wires, |from, buffer| crowd.speak(from, buffer))?;
        let before = self.run.handover().sent;
        let (_, ns) = self.timed_turn();
        let sent = self.run.handover().sent - before;
        ensure!(sent == 2 * BURST as u64, "{sent} frames were handed over");
        Ok(ns / sent as f64)
    }

    /// A turn with what is there: frames, and nanoseconds for all of them.
    pub fn timed_turn(&mut self) -> (usize, f64) {
        self.now += Duration::from_micros(10);
        let mut frames = 0;
        let took = measured_region(&mut || frames = self.run.turn(self.now));
        drain(&self.wires);
        (frames, took.as_nanos() as f64)
    }

    /// Puts one frame onto a wire.
    pub fn give_one(&mut self, crowd: &mut Crowd, from: From) -> Result<()> {
        put(&self.wires, from, |buffer| crowd.speak(from, buffer))
    }

    /// A turn with what is there; how many frames passed. The worker's clock goes by what it is told.
    pub fn just_turn(&mut self) -> usize {
        self.now += Duration::from_nanos(500);
        self.run.turn(self.now);
        drain(&self.wires)
    }

    /// A turn with a burst of new data at each port; nanoseconds a frame.
    pub fn turn(&mut self, crowd: &mut Crowd) -> Result<f64> {
        inject(&self.wires, |from, buffer| crowd.speak(from, buffer))?;
        self.now += Duration::from_micros(10);
        let mut frames = 0;
        let took = measured_region(&mut || frames = self.run.turn(self.now));
        ensure!(frames == 2 * BURST, "{frames} frames in a turn");
        let passed = drain(&self.wires);
        ensure!(passed == frames, "{passed} of {frames} frames passed");
        Ok(took.as_nanos() as f64 / frames as f64)
    }
}

/// Swaps the Ethernet addresses of every frame and sends it back by the port it came from: what the driver, and having frames in hand at all, cost
/// whoever loops. It looks at nothing else of a frame, not even at its headers.
pub struct Swap {
    rx: Vec<Box<dyn Receiver>>,
    tx: Vec<Box<dyn Transmitter>>,
    burst: Burst,
}

impl Swap {
    /// Over these ports.
    pub fn new(ports: Vec<Port>) -> Swap {
        let (rx, tx) = ports.into_iter().map(|p| (p.rx, p.tx)).unzip();
        Swap { rx, tx, burst: Burst::new() }
    }

    /// A turn; how many frames came in.
    pub fn turn(&mut self) -> usize {
        let mut frames = 0;
        for (rx, tx) in self.rx.iter_mut().zip(&mut self.tx) {
            rx.receive(&mut self.burst);
            frames += self.burst.len();
            for mut slot in self.burst.drain(..) {
                let mut frame = rx.frame(&mut slot);
                let (dst, rest) = frame.bytes_mut().split_at_mut(6);
                dst.swap_with_slice(&mut rest[..6]);
                // One that found no room would be missed by who counts.
                let _ = send(&mut **rx, &mut **tx, slot);
            }
        }
        self.tx.iter_mut().for_each(|tx| tx.flush());
        frames
    }

    /// Frames that have left.
    #[cfg(feature = "dpdk")]
    pub fn sent(&mut self) -> u64 {
        self.tx.iter_mut().map(|tx| tx.traffic().frames).sum()
    }
}

/// The same over ports in memory.
pub struct SwapLoop {
    swap: Swap,
    wires: [Wire; 2],
}

impl SwapLoop {
    /// Over ports of its own.
    pub fn new() -> SwapLoop {
        let (ports, wires) = ports();
        SwapLoop { swap: Swap::new(ports), wires }
    }

    /// Puts one frame onto a wire.
    pub fn give_one(&mut self, crowd: &mut Crowd, from: From) -> Result<()> {
        put(&self.wires, from, |buffer| crowd.hum(from, buffer))
    }

    /// A turn with what is there; how many frames passed.
    pub fn just_turn(&mut self) -> usize {
        self.swap.turn();
        drain(&self.wires)
    }

    /// A turn with frames of the same flows; nanoseconds a frame.
    pub fn turn(&mut self, crowd: &mut Crowd) -> Result<f64> {
        inject(&self.wires, |from, buffer| crowd.hum(from, buffer))?;
        let mut frames = 0;
        let took = measured_region(&mut || frames = self.swap.turn());
        let passed = drain(&self.wires);
        ensure!(passed == 2 * BURST && frames == passed, "{passed} of {frames} frames passed");
        Ok(took.as_nanos() as f64 / frames as f64)
    }
}

/// Turns when instructions are counted.
pub const COUNTED: usize = 80;

/// Frames of the counted turns.
pub const fn counted_frames() -> usize {
    COUNTED * 2 * BURST
}
