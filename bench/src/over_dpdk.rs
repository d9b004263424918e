//! What `testpmd` runs in a process of its own: our driver over two ports of DPDK's, and above it the worker's loop, or a swap of Ethernet addresses.

use crate::forward::{Known, SMALL};
use crate::looped::Swap;
use crate::peers::World;
use anyhow::{Context, Result, anyhow, ensure};
use core::time::Duration;
use dispatcher::capture::Capture;
use dispatcher::engine::{Engine, PortId, Verdict};
use dispatcher::io::Port;
use dispatcher::io::dpdk::{Core, Dpdk, DpdkDevice, MAX_MTU, PortSetup};
use dispatcher::time::Time;
use dispatcher::wire::Frame;
use dispatcher::worker::poll::{Clock, Loop};
use dispatcher::worker::{Idle, Totals};
use std::io::BufRead;
use std::path::Path;
use std::time::Instant;

/// What forwards.
enum Forwarder {
    Worker { run: Box<Loop<Engine>>, now: Time },
    Swap(Box<Swap>),
}

impl Forwarder {
    fn turn(&mut self) -> usize {
        match self {
            Forwarder::Worker { run, now } => {
                // Slower than time goes: nobody is there who would say again what his Ethernet address is.
                *now += Duration::from_micros(1);
                run.turn(*now)
            }
            Forwarder::Swap(swap) => swap.turn(),
        }
    }

    /// Frames that were sent on.
    fn sent(&mut self) -> u64 {
        match self {
            Forwarder::Worker { run, .. } => run.handler().counters().frames_out,
            Forwarder::Swap(swap) => swap.sent(),
        }
    }
}

/// Forwards whenever it is told a number of milliseconds, until it is told anything else. With `flows` the worker's loop, with that many known flows.
pub fn forward(core: usize, flows: Option<usize>, devices: &[String]) -> Result<()> {
    let world = flows.map(|flows| Known::new(flows, SMALL).map(Known::world)).transpose()?;
    let setups: Vec<PortSetup> = devices
        .iter()
        .map(|device| {
            Ok(PortSetup { device: DpdkDevice::parse(device)?, mtu: MAX_MTU, huge: Some(false), offload: false })
        })
        .collect::<Result<_>>()?;
    let recordings: Vec<Option<String>> = setups.iter().map(|setup| recording(&setup.device)).collect();
    let mut dpdk = Dpdk::start(setups, &[core])?;
    let seat = dpdk.seat(0).context("a core")?;
    let (tell, told) = std::sync::mpsc::channel();
    seat.run(move |core| {
        // Who waits is gone only when this program is.
        let _ = tell.send(on_core(core, world, &recordings));
    });
    told.recv().map_err(|_| anyhow!("the core's work ended without a word"))??;
    drop(dpdk);
    println!("Bye");
    Ok(())
}

fn recording(device: &DpdkDevice) -> Option<String> {
    device.arguments.as_deref()?.split(',').find_map(|a| a.strip_prefix("rx_pcap=")).map(str::to_owned)
}

fn on_core(core: &Core, world: Option<World>, recordings: &[Option<String>]) -> Result<()> {
    let ports = core.open()?;
    let mut forwarder = match world {
        Some(world) => worker(world, ports, recordings)?,
        None => Forwarder::Swap(Box::new(Swap::new(ports))),
    };
    println!("Done");
    for line in std::io::stdin().lock().lines() {
        let line = line.context("reading orders")?;
        let Ok(ms) = line.parse() else { break };
        let (end, before) = (Instant::now() + Duration::from_millis(ms), forwarder.sent());
        let mut received = 0;
        // As often as a worker looks at its clock.
        while Instant::now() < end {
            received += forwarder.turn();
        }
        println!("RX-packets: {received} TX-packets: {}\nDone", forwarder.sent() - before);
    }
    Ok(())
}

/// An engine that knows the flows of these recordings, in a worker's loop.
fn worker(mut world: World, ports: Vec<Port>, recordings: &[Option<String>]) -> Result<Forwarder> {
    for (port, path) in recordings.iter().enumerate() {
        let path = Path::new(path.as_deref().context("the worker's loop needs recordings")?);
        let capture = Capture::open(path)?;
        for frame in capture.frames()? {
            let mut bytes = frame?.bytes.to_vec();
            let mut look = world.engine.look(&bytes);
            world.engine.look_again(&mut look);
            let len = bytes.len();
            let mut frame = Frame::new(&mut bytes, 0, len);
            let verdict = world.engine.straight(PortId(port as u8), look, &mut frame, world.now);
            ensure!(matches!(verdict, Some(Verdict::Forward(_))), "{} has a frame of no known flow", path.display());
        }
    }
    let now = world.now;
    let run = Loop::new(world.engine, ports, Clock::start(), Idle::Spin, None, Totals::default());
    Ok(Forwarder::Worker { run: Box::new(run), now })
}
