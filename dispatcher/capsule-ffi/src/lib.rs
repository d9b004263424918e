//! The names that capsule 0.1.5 uses, on top of a DPDK of today. See `README.md` beside `Cargo.toml`.
//!
//! What the functions do, and what they ask of their callers, is in DPDK's own documentation; names with an underscore
//! in front are DPDK's inline functions.

#![cfg(target_os = "linux")]
#![allow(non_camel_case_types, non_snake_case, non_upper_case_globals, clippy::all)]

use std::ffi::{c_char, c_int, c_uint, c_void, CStr};

mod bindings {
    use super::{rte_eth_rx_mq_mode, rte_mbuf};
    include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
}
pub use bindings::*;

/// A frame's buffer and where the frame lies in it: the part of DPDK's struct that has stayed the same since 20.11.
/// `shim.c` checks the offsets against the headers.
#[repr(C, align(64))]
pub struct rte_mbuf {
    pub buf_addr: *mut c_void,
    pub buf_iova: u64,
    pub data_off: u16,
    pub refcnt: u16,
    pub nb_segs: u16,
    pub port: u16,
    pub ol_flags: u64,
    pub packet_type: u32,
    pub pkt_len: u32,
    pub data_len: u16,
    pub vlan_tci: u16,
    hash: [u32; 2],
    pub vlan_tci_outer: u16,
    pub buf_len: u16,
    pub pool: *mut rte_mempool,
    second_line: [u64; 8],
}

const _: () = assert!(size_of::<rte_mbuf>() == 128);

// Constants by their old names.
pub const ETH_RSS_IP: u64 = CAPSULE_RSS_IP;
pub const ETH_RSS_TCP: u64 = CAPSULE_RSS_TCP;
pub const ETH_RSS_UDP: u64 = CAPSULE_RSS_UDP;
pub const ETH_RSS_SCTP: u64 = CAPSULE_RSS_SCTP;
pub const DEV_TX_OFFLOAD_MBUF_FAST_FREE: u64 = CAPSULE_TX_MBUF_FAST_FREE;
pub const RTE_MBUF_DEFAULT_BUF_SIZE: u32 = CAPSULE_MBUF_BUF_SIZE;

pub mod rte_eth_rx_mq_mode {
    pub type Type = std::ffi::c_uint;
    pub const ETH_MQ_RX_NONE: Type = super::CAPSULE_MQ_RX_NONE;
    pub const ETH_MQ_RX_RSS: Type = super::CAPSULE_MQ_RX_RSS;
}

mod raw {
    use std::ffi::{c_char, c_int};
    extern "C" {
        pub fn rte_eal_init(argc: c_int, argv: *mut *mut c_char) -> c_int;
    }
}

/// EAL's, with the options of 19.11 as those of today.
///
/// # Safety
/// `argv` points to `argc` strings that end with a zero.
pub unsafe fn rte_eal_init(argc: c_int, argv: *mut *mut c_char) -> c_int {
    let given: Vec<*mut c_char> = (0..argc as usize).map(|i| unsafe { *argv.add(i) }).collect();
    let words: Vec<&[u8]> = given.iter().map(|word| unsafe { CStr::from_ptr(*word) }.to_bytes()).collect();
    let mut translated: Vec<*mut c_char> = words
        .iter()
        .zip(&given)
        .enumerate()
        .map(|(i, (word, as_given))| match *word {
            b"--master-lcore" => c"--main-lcore".as_ptr().cast_mut(),
            b"-w" | b"--pci-whitelist" => c"-a".as_ptr().cast_mut(),
            b"--vdev" if words.get(i + 1).is_some_and(|device| is_pci(device)) => c"-a".as_ptr().cast_mut(),
            _ => *as_given,
        })
        .collect();
    // As in C: a null behind the last.
    translated.push(std::ptr::null_mut());
    unsafe { raw::rte_eal_init(argc, translated.as_mut_ptr()) }
}

/// `0000:0a:00.1`: capsule knows decimal digits only.
fn is_pci(device: &[u8]) -> bool {
    device.len() == 12
        && device.iter().enumerate().all(|(i, c)| match i {
            4 | 7 => *c == b':',
            10 => *c == b'.',
            _ => c.is_ascii_hexdigit(),
        })
}

/// Binds the thread, and registers it with DPDK.
///
/// # Safety
/// `cores` points to a set of cores.
pub unsafe fn rte_thread_set_affinity(cores: *mut rte_cpuset_t) -> c_int {
    unsafe { dispatcher_thread_set_affinity(cores) }
}

/// DPDK's, with the checksum offloads that the port has for what it receives: capsule asks for none.
///
/// # Safety
/// As DPDK's.
pub unsafe fn rte_eth_dev_configure(port: u16, rx_queues: u16, tx_queues: u16, conf: *const rte_eth_conf) -> c_int {
    unsafe { dispatcher_eth_dev_configure(port, rx_queues, tx_queues, conf) }
}

/// libnuma's, as DPDK sees it.
pub unsafe fn numa_node_of_cpu(core: c_int) -> c_int {
    match c_uint::try_from(core) {
        Ok(core) => unsafe { rte_lcore_to_socket_id(core) as c_int },
        Err(_) => -1,
    }
}

// KNI has left DPDK with 23.11. What capsule says to it is answered by failure; without `kni = true` it says nothing.

/// No such thing exists.
pub enum rte_kni {}

/// What a kernel interface would be like.
#[derive(Clone, Copy, Default)]
pub struct rte_kni_conf {
    pub name: [c_char; 32],
    pub core_id: u32,
    pub group_id: u16,
    pub mbuf_size: c_uint,
    pub mac_addr: [u8; 6],
    pub mtu: u16,
}

/// What a kernel interface would ask for.
#[derive(Clone, Copy, Default)]
pub struct rte_kni_ops {
    pub port_id: u16,
    pub change_mtu: Option<extern "C" fn(u16, c_uint) -> c_int>,
    pub config_network_if: Option<extern "C" fn(u16, u8) -> c_int>,
    pub config_mac_address: Option<extern "C" fn(u16, *mut u8) -> c_int>,
    pub config_promiscusity: Option<extern "C" fn(u16, u8) -> c_int>,
}

const NOT_SUPPORTED: c_int = -95;

pub unsafe fn rte_kni_init(_: c_uint) -> c_int {
    NOT_SUPPORTED
}

pub unsafe fn rte_kni_close() {}

pub unsafe fn rte_kni_alloc(_: *mut rte_mempool, _: *const rte_kni_conf, _: *mut rte_kni_ops) -> *mut rte_kni {
    std::ptr::null_mut()
}

pub unsafe fn rte_kni_release(_: *mut rte_kni) -> c_int {
    NOT_SUPPORTED
}

pub unsafe fn rte_kni_handle_request(_: *mut rte_kni) -> c_int {
    NOT_SUPPORTED
}

pub unsafe fn rte_kni_get_name(_: *const rte_kni) -> *const c_char {
    c"".as_ptr()
}

pub unsafe fn rte_kni_rx_burst(_: *mut rte_kni, _: *mut *mut rte_mbuf, _: c_uint) -> c_uint {
    0
}

pub unsafe fn rte_kni_tx_burst(_: *mut rte_kni, _: *mut *mut rte_mbuf, _: c_uint) -> c_uint {
    0
}

#[cfg(test)]
mod tests {
    #[test]
    fn pci_addresses_are_told_from_virtual_devices() {
        for yes in ["0000:00:1f.6", "0001:ab:00.0"] {
            assert!(super::is_pci(yes.as_bytes()), "{yes}");
        }
        for no in ["net_null0", "net_ring_123", "0000:00:1f:6", "00:1f.6"] {
            assert!(!super::is_pci(no.as_bytes()), "{no}");
        }
    }
}
