//! What `dispatcher run` has to do with DPDK's devices, which one process only can have. Where DPDK is not built in there are none.

use super::check::Checked;
use crate::engine::{Config, Returning};
use crate::io::OpenError;
use crate::io::cards::{Cards, Told};
#[cfg(feature = "dpdk")]
use crate::io::dpdk;
#[cfg(feature = "dpdk")]
pub use crate::io::dpdk::Dpdk;
use crate::worker::{self, PortPlan};

/// DPDK, which is not built in.
#[cfg(not(feature = "dpdk"))]
pub enum Dpdk {}

/// Whether a port's device is one of them.
pub fn is_card(plan: &PortPlan) -> bool {
    #[cfg(feature = "dpdk")]
    let is_card = matches!(plan.device, worker::Device::Dpdk(_));
    #[cfg(not(feature = "dpdk"))]
    let (is_card, _) = (false, plan);
    is_card
}

/// Bytes of memory for frames that all ports take together.
pub fn port_memory(ports: &[PortPlan], workers: usize) -> usize {
    #[cfg(feature = "dpdk")]
    let of_dpdk = match worker::dpdk_ports(ports).as_slice() {
        [] => 0,
        some => dpdk::port_memory(some, workers),
    };
    #[cfg(not(feature = "dpdk"))]
    let of_dpdk = 0;
    worker::port_memory(ports, workers) + of_dpdk
}

/// Whether another process can have the device when this one has let go of it.
pub fn can_change_hands(plan: &PortPlan) -> bool {
    #[cfg(feature = "dpdk")]
    if let worker::Device::Dpdk(setup) = &plan.device {
        return setup.device.can_change_hands();
    }
    is_card(plan)
}

/// The same devices are wanted here that another process has told of, in the same order. Sets down the addresses of their ports. `Err`: why not.
pub fn agree(told: Option<&Told>, checked: &mut Checked) -> Result<(), String> {
    let there: Vec<&str> = told.iter().flat_map(|told| &told.cards).map(|card| card.name.as_str()).collect();
    #[cfg(feature = "dpdk")]
    let here: Vec<String> = worker::dpdk_ports(&checked.ports).into_iter().map(|setup| setup.device.name).collect();
    #[cfg(not(feature = "dpdk"))]
    let here: Vec<String> = Vec::new();
    if here != there {
        return Err(match there.as_slice() {
            [] => "the running one does not have its ports by dpdk: stop, and start".into(),
            there => format!("the running one has these devices by dpdk: {}", there.join(", ")),
        });
    }
    let ours = checked.config.ports.iter_mut().zip(&checked.ports).filter(|(_, plan)| is_card(plan));
    let there = told.iter().flat_map(|told| &told.cards);
    ours.zip(there).for_each(|((spec, _), card)| spec.mac = card.mac);
    Ok(())
}

/// Brings up DPDK, if there is a port of its, and sets down the addresses that its ports turn out to have. `told`: by a process that has the devices still.
#[cfg(feature = "dpdk")]
pub fn bring_up(checked: &mut Checked, told: Option<Told>) -> Result<Option<Dpdk>, OpenError> {
    let setups = worker::dpdk_ports(&checked.ports);
    if setups.is_empty() {
        return Ok(None);
    }
    let cores: Vec<_> = checked.cores.iter().flatten().copied().collect();
    let started = match told {
        Some(told) => Dpdk::start_beside(setups, &cores, told)?,
        None => Dpdk::start(setups, &cores)?,
    };
    let ours = checked.config.ports.iter_mut().zip(&checked.ports).filter(|(_, plan)| is_card(plan));
    ours.zip(started.macs()).for_each(|((spec, _), mac)| spec.mac = mac);
    Ok(Some(started))
}

/// There is none.
#[cfg(not(feature = "dpdk"))]
pub fn bring_up(_: &mut Checked, _: Option<Told>) -> Result<Option<Dpdk>, OpenError> {
    Ok(None)
}

/// Whose what returns is, by what DPDK's ports tell of their cards.
#[cfg(feature = "dpdk")]
pub fn returning(config: &Config, ports: &[PortPlan], workers: usize, dpdk: Option<&Dpdk>) -> Returning {
    let mut told = dpdk.into_iter().flat_map(Dpdk::rss);
    let of_port = |plan: &PortPlan| if is_card(plan) { told.next().flatten() } else { None };
    Returning::by_ports(config, workers, &ports.iter().map(of_port).collect::<Vec<_>>())
}

/// By ranges.
#[cfg(not(feature = "dpdk"))]
pub fn returning(_: &Config, _: &[PortPlan], workers: usize, _: Option<&Dpdk>) -> Returning {
    Returning::by_range(workers)
}

/// All of them.
pub fn all(dpdk: Option<&Dpdk>) -> Option<&dyn Cards> {
    #[cfg(feature = "dpdk")]
    let all = dpdk.map(|dpdk| dpdk as &dyn Cards);
    #[cfg(not(feature = "dpdk"))]
    let all = dpdk.map(|dpdk| match *dpdk {});
    all
}

/// What the ports are, where it was not known when the workers began.
pub fn describe(dpdk: Option<&Dpdk>, are_cards: &[bool], ports: &mut [String]) {
    #[cfg(feature = "dpdk")]
    {
        let theirs = ports.iter_mut().zip(are_cards).filter(|(_, is_card)| **is_card);
        theirs.zip(dpdk.into_iter().flat_map(Dpdk::descriptions)).for_each(|((port, _), known)| *port = known);
    }
    #[cfg(not(feature = "dpdk"))]
    let _ = (dpdk, are_cards, ports);
}
