//! A worker with DPDK ports: capsule has the thread, and calls back when the ports are open.

use super::{Device, Plan, Shared, Started, prepare};
use crate::io;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

/// The ports that DPDK is to open, and the core; none when there is none.
pub(super) fn wanted(plan: &Plan) -> Option<(Vec<io::dpdk::PortSetup>, usize)> {
    let setups: Vec<_> = plan
        .ports
        .iter()
        .filter_map(|port| match &port.device {
            Device::Dpdk(device) => Some(io::dpdk::PortSetup { device: device.clone(), mtu: port.mtu }),
            _ => None,
        })
        .collect();
    (!setups.is_empty()).then(|| (setups, plan.core.unwrap_or(0)))
}

/// Runs the whole worker on the calling thread.
pub(super) fn run(
    plan: Plan,
    (setups, core): (Vec<io::dpdk::PortSetup>, usize),
    shared: Arc<Shared>,
    tell: SyncSender<Result<Started, String>>,
) {
    let told_inside = tell.clone();
    let done = io::dpdk::run(setups, core, move |opened| {
        match opened.map_err(|e| e.to_string()).and_then(|opened| prepare(plan, opened)) {
            Ok((mut run, started)) => {
                let _ = told_inside.send(Ok(started));
                // Nobody waits for it any more, and what it holds must not outlive what comes next.
                drop(told_inside);
                run.run(&shared);
            }
            Err(why) => _ = told_inside.send(Err(why)),
        }
    });
    if let Err(why) = done {
        let _ = tell.send(Err(why.to_string()));
    }
}
