//! Ports of DPDK: found, set up and started, and let go of again; as often as is asked for, while EAL runs.
//!
//! Those that EAL is told of at its start are there then. Later they are attached first.

use super::setup::DESCRIPTORS;
use super::{PortSetup, explain};
use crate::io::OpenError;
use crate::io::cards::Spread;
use crate::wire::Mac;
use capsule_ffi as ffi;
use core::ffi::CStr;
use std::ffi::CString;

/// What is hashed, where a port divides what it receives.
const HASHED: u64 = ffi::ETH_RSS_IP | ffi::ETH_RSS_TCP | ffi::ETH_RSS_UDP | ffi::ETH_RSS_SCTP;

/// Longest key, and largest table, that are asked for.
const KEY: usize = 64;
const TABLE: usize = 4096;

/// A port's number and what it says of itself.
pub(super) fn port_of(name: &str) -> Option<(u16, ffi::rte_eth_dev_info)> {
    let (mut port, mut info) = (0, ffi::rte_eth_dev_info::default());
    let name = CString::new(name).ok()?;
    // SAFETY: a string that ends with a zero, and places of the right types for the answers.
    let asked = unsafe {
        ffi::rte_eth_dev_get_port_by_name(name.as_ptr(), &mut port) == 0
            && ffi::rte_eth_dev_info_get(port, &mut info) == 0
    };
    asked.then_some((port, info))
}

pub(super) fn mac_of(name: &str) -> Option<Mac> {
    let (port, _) = port_of(name)?;
    let mut mac = ffi::rte_ether_addr::default();
    // SAFETY: a place for the answer.
    (unsafe { ffi::rte_eth_macaddr_get(port, &mut mac) } == 0).then_some(Mac(mac.addr_bytes))
}

/// How a port divides frames among so many queues; none when it does not tell.
pub(super) fn spread_of(name: &str, queues: usize) -> Option<Spread> {
    if queues < 2 {
        return None;
    }
    let (port, _) = port_of(name)?;
    let (mut key, mut table) = (vec![0u8; KEY], vec![0u16; TABLE]);
    let mut key_size = KEY as u32;
    // SAFETY: room for as much as said.
    let entries = unsafe {
        ffi::dispatcher_rss(port, key.as_mut_ptr(), &mut key_size, table.as_mut_ptr(), TABLE as u32) as usize
    };
    if entries == 0 || entries > TABLE {
        return None;
    }
    key.truncate(key_size as usize);
    table.truncate(entries);
    // SAFETY: only the port's number is given.
    let tcp = unsafe { ffi::dispatcher_rss_tcp(port) };
    Some(Spread { key, table, v4: tcp & 1 != 0, v6: tcp & 2 != 0 })
}

/// capsule makes one for each NUMA node that has cores: this node's, or the first.
pub(super) fn mempool(node: i32, cores: usize) -> Result<*mut ffi::rte_mempool, OpenError> {
    let mut found: *mut ffi::rte_mempool = core::ptr::null_mut();
    for number in 0..cores {
        let name = CString::new(format!("mempool{number}")).unwrap_or_default();
        // SAFETY: a string that ends with a zero; what is found lives as long as DPDK.
        unsafe {
            let raw = ffi::rte_mempool_lookup(name.as_ptr());
            if raw.is_null() {
                break;
            }
            if found.is_null() || (*raw).socket_id == node {
                found = raw;
            }
        }
    }
    if found.is_null() { Err(OpenError("dpdk: the mempool is not there".into())) } else { Ok(found) }
}

/// What DPDK says of a result that is an error.
fn result(code: i32) -> Result<(), String> {
    if code == 0 {
        return Ok(());
    }
    // SAFETY: what is returned is a string that ends with a zero.
    Err(unsafe { CStr::from_ptr(ffi::rte_strerror(-code)) }.to_string_lossy().into_owned())
}

/// Finds all of them, while EAL runs, and opens them, or none.
pub(super) fn attach_and_open(setups: &[PortSetup], cores: &[usize]) -> Result<(), OpenError> {
    // What is told of a failure is what was said of it.
    // SAFETY: no arguments.
    unsafe { ffi::dispatcher_log_forget() };
    let attached = setups.iter().try_for_each(|setup| attach(setup, cores.len()));
    if let Err(why) = attached {
        let why = explain::failed("cannot find the ports", &why, setups, cores);
        _ = close(setups);
        return Err(why);
    }
    open(setups, cores)
}

/// Opens all of them, or none: with a queue for each core, and started.
pub(super) fn open(setups: &[PortSetup], cores: &[usize]) -> Result<(), OpenError> {
    let started = setups.iter().try_for_each(|setup| start(setup, cores));
    let failed = |why: String| {
        let why = explain::failed("cannot start", &why, setups, cores);
        _ = close(setups);
        why
    };
    started.map_err(failed)?;
    for setup in setups {
        let mut mtu = 0;
        let port = port_of(&setup.device.name).map_or(u16::MAX, |(port, _)| port);
        // SAFETY: a place for the answer.
        if unsafe { ffi::rte_eth_dev_get_mtu(port, &mut mtu) } == 0 && setup.mtu > mtu {
            _ = close(setups);
            return Err(OpenError(format!("dpdk:{}: has an MTU of {mtu} only", setup.device.name)));
        }
    }
    Ok(())
}

fn attach(setup: &PortSetup, queues: usize) -> Result<(), String> {
    let name = &setup.device.name;
    if port_of(name).is_some() {
        return Ok(());
    }
    let arguments = setup.device.arguments_for(queues).map_or(String::new(), |arguments| format!(",{arguments}"));
    let device = CString::new(format!("{name}{arguments}")).unwrap_or_default();
    // SAFETY: a string that ends with a zero, and is copied.
    result(unsafe { ffi::dispatcher_attach(device.as_ptr()) })
}

fn start(setup: &PortSetup, cores: &[usize]) -> Result<(), String> {
    let (port, info) = port_of(&setup.device.name).ok_or("No such device")?;
    let queues = cores.len() as u16;
    if info.max_rx_queues.min(info.max_tx_queues) < queues {
        return Err("too few queues".into());
    }
    let mut conf = ffi::rte_eth_conf::default();
    if queues > 1 {
        conf.rxmode.mq_mode = ffi::rte_eth_rx_mq_mode::ETH_MQ_RX_RSS;
        conf.rx_adv_conf.rss_conf.rss_hf = HASHED & info.flow_type_rss_offloads;
    }
    conf.txmode.offloads |= info.tx_offload_capa & ffi::DEV_TX_OFFLOAD_MBUF_FAST_FREE;
    let (mut received, mut sent) = (DESCRIPTORS as u16, DESCRIPTORS as u16);
    // SAFETY: only the number of a port that is not started, and places for answers; `conf` is copied. A core's node is asked for by its number.
    let node = unsafe {
        result(ffi::rte_eth_dev_configure(port, queues, queues, &conf))?;
        result(ffi::rte_eth_dev_adjust_nb_rx_tx_desc(port, &mut received, &mut sent))?;
        match ffi::rte_eth_dev_socket_id(port) {
            // A virtual device is on none.
            node if node < 0 => ffi::numa_node_of_cpu(cores.iter().copied().min().unwrap_or(0) as i32),
            node => node,
        }
    };
    let pool = mempool(node, cores.len()).map_err(|e| e.0)?;
    // SAFETY: the port is configured with so many queues, and nobody uses them before it is started; the mempool lives as long as DPDK, which is not
    // ended before its ports are closed.
    unsafe {
        let node = (*pool).socket_id as u32;
        for queue in 0..queues {
            result(ffi::rte_eth_rx_queue_setup(port, queue, received, node, core::ptr::null(), pool))?;
            result(ffi::rte_eth_tx_queue_setup(port, queue, sent, node, core::ptr::null()))?;
        }
        // Not every port can be asked for it, and such take all.
        ffi::rte_eth_promiscuous_enable(port);
        ffi::rte_eth_allmulticast_enable(port);
        result(ffi::rte_eth_dev_start(port))
    }
}

/// Has a port go on with this address, and divide its frames so, as far as it can. False when its address is another one.
pub(super) fn go_on_as(name: &str, mac: Mac, spread: Option<&Spread>) -> bool {
    let Some((port, _)) = port_of(name) else { return false };
    if let Some(spread) = spread.filter(|spread| spread_of(name, 2).as_ref() != Some(*spread)) {
        let (key, table) = (&spread.key, &spread.table);
        // SAFETY: as many bytes and entries as said, which are copied. What it cannot do costs handing over, and nothing else.
        unsafe {
            ffi::dispatcher_rss_set(port, key.as_ptr(), key.len() as u32, table.as_ptr(), table.len() as u32);
        }
    }
    if mac_of(name) != Some(mac) {
        let mut address = ffi::rte_ether_addr { addr_bytes: mac.0 };
        // SAFETY: an address, which is copied.
        unsafe { ffi::rte_eth_dev_default_mac_addr_set(port, &mut address) };
    }
    mac_of(name) == Some(mac)
}

/// Lets go of all of them. Nobody uses their queues meanwhile or afterwards. `Err`: what another process may not be able to open.
pub(super) fn close(setups: &[PortSetup]) -> Result<(), String> {
    let mut all = Ok(());
    for PortSetup { device, .. } in setups {
        let Some((port, _)) = port_of(&device.name) else { continue };
        // SAFETY: only the port's number is given, whose queues nobody uses.
        let closed = result(unsafe { ffi::dispatcher_detach(port) });
        all = all.and(closed.map_err(|why| format!("dpdk:{}: cannot be let go of: {why}", device.name)));
    }
    all
}
