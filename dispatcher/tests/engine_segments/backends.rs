//! Where clients are led, and what is believed of the servers.

use super::*;
use dispatcher::engine::{Balance, HashOn};

/// The names of the servers that these clients' connections are dialled to.
fn led(config: &Config, secret: u8, v6: bool, clients: &[&str]) -> Vec<String> {
    let mut b = Bench::with_secret(config.clone(), v6, [secret; 32]);
    let mut names = vec![];
    for client in clients {
        b.client = client.parse().unwrap();
        b.dial(HTTP);
        names.push(config.backends.iter().find(|s| s.addr == b.dialled).unwrap().name.clone());
    }
    names
}

const CLIENTS: [&str; 8] = [
    "192.0.2.1:40000",
    "192.0.2.2:40000",
    "192.0.2.3:40000",
    "198.51.100.77:1025",
    "203.0.113.9:65535",
    "10.1.0.10:50000",
    "100.64.1.1:2000",
    "8.8.8.8:53",
];

#[test]
fn a_client_meets_the_same_server_in_every_run_and_on_every_dispatcher() {
    for hash_on in [HashOn::SourceIp, HashOn::Tuple] {
        let config = Config { hash_on, ..two_armed(5, false) };
        let first = led(&config, 1, false, &CLIENTS);
        assert_eq!(led(&config, 2, false, &CLIENTS), first, "whatever the process's secret");
        let mut turned = config.clone();
        turned.backends.reverse();
        assert_eq!(led(&turned, 3, false, &CLIENTS), first, "whatever the order of the flags");
        assert_ne!(led(&Config { hash_seed: 1, ..config.clone() }, 1, false, &CLIENTS), first, "the seed counts");
        // Written down, so that no version leads elsewhere than the one before.
        let golden = match hash_on {
            HashOn::SourceIp => ["web2", "web3", "web1", "web1", "web0", "web3", "web2", "web0"],
            HashOn::Tuple => ["web4", "web1", "web1", "web2", "web4", "web0", "web0", "web1"],
        };
        assert_eq!(first, golden, "{hash_on:?}");
    }
}

#[test]
fn a_client_of_an_unknown_session_is_led_by_its_address_whatever_the_algorithm() {
    let hello = Hello { session_id: vec![3; 32], ..Hello::default() }.bytes();
    let meets = |balance, secret| {
        let config = Config { balance, hash_on: HashOn::Tuple, ..two_armed(5, false) };
        let mut b = Bench::with_secret(config, false, [secret; 32]);
        let mut dialled = vec![];
        for port in 1..6 {
            b.client.set_port(port);
            b.dial(&hello);
            dialled.push(b.dialled);
        }
        dialled
    };
    let all = meets(Balance::Maglev, 1);
    assert!(all.iter().all(|d| *d == all[0]), "{all:?}");
    assert_eq!(meets(Balance::RoundRobin, 2), all);
}

#[test]
fn the_addresses_of_one_ipv6_network_meet_one_server() {
    let config = two_armed(5, true);
    let host = |n: u32| format!("[2001:db8:0:77:{:x}:{:x}:0:1]:50000", n, n.wrapping_mul(0x9e37) & 0xffff);
    let hosts: Vec<String> = (0..12).map(host).collect();
    let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
    let met = led(&config, 1, true, &hosts);
    assert!(met.iter().all(|name| *name == met[0]), "{met:?}");
    let networks: Vec<String> = (0..12).map(|n| format!("[2001:db8:0:{n:x}::1]:50000")).collect();
    let networks: Vec<&str> = networks.iter().map(String::as_str).collect();
    assert!(led(&config, 1, true, &networks).iter().any(|name| *name != met[0]));
}
