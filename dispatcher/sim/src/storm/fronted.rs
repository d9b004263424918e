//! Clients behind another balancer, which names them by a PROXY header in front of what they write.

use crate::apps::{Plan, Write};
use crate::rng::Rng;
use core::time::Duration;
use dispatcher::wire::proxy::SIGNATURE;
use lb::Policy;
use lb::service::AcceptProxy;
use std::net::{IpAddr, SocketAddr};

/// The service takes such headers, from everywhere.
pub fn accept(policy: &mut Policy, pass: bool) {
    let everywhere = ["0.0.0.0/0", "::/0"].map(|prefix| prefix.parse().expect("a prefix"));
    policy.accept_proxy = AcceptProxy { from: everywhere.to_vec(), pass };
}

/// A header of either version, and the client that it names, if any; `v6`: the addresses in it.
fn header(rng: &mut Rng, v6: bool) -> (Vec<u8>, Option<SocketAddr>) {
    let mut address = |port: u16| {
        let bytes = rng.bytes(16);
        let ip = match v6 {
            true => IpAddr::from(<[u8; 16]>::try_from(&bytes[..]).expect("16 bytes")),
            false => IpAddr::from([203, bytes[0], bytes[1], bytes[2]]),
        };
        SocketAddr::new(ip, port)
    };
    let (client, to) = (address(0), address(443));
    let client = SocketAddr::new(client.ip(), rng.between(1, 65_535) as u16);
    match rng.below(8) {
        0 => (b"PROXY UNKNOWN\r\n".to_vec(), None),
        1..=3 => {
            let family = if v6 { "TCP6" } else { "TCP4" };
            let line = format!("PROXY {family} {} {} {} {}\r\n", client.ip(), to.ip(), client.port(), to.port());
            (line.into_bytes(), Some(client))
        }
        kind => {
            let local = kind == 4;
            let octets = |ip: IpAddr| match ip {
                IpAddr::V4(ip) => ip.octets().to_vec(),
                IpAddr::V6(ip) => ip.octets().to_vec(),
            };
            let ports = [client.port().to_be_bytes(), to.port().to_be_bytes()].concat();
            let more = [0, 0, 7, 300, 1800][rng.below(5)];
            let body = [octets(client.ip()), octets(to.ip()), ports, rng.bytes(more)].concat();
            let what = [if local { 0x20 } else { 0x21 }, if v6 { 0x21 } else { 0x11 }];
            let header = [&SIGNATURE[..], &what, &(body.len() as u16).to_be_bytes(), &body].concat();
            (header, (!local).then_some(client))
        }
    }
}

/// Puts one in front of what a client writes: together with its first bytes, by itself, or in two pieces. The client that it names, if any.
pub fn name(rng: &mut Rng, plan: &mut Plan) -> Option<SocketAddr> {
    let v6 = rng.per_mille(400);
    let (header, client) = header(rng, v6);
    match rng.below(3) {
        0 => {
            let first = plan.writes.first_mut().expect("every client writes");
            first.bytes.splice(0..0, header);
        }
        1 => plan.writes.insert(0, Write::now(header)),
        _ => {
            let cut = rng.between(1, header.len() - 1);
            let pause = Duration::from_micros(rng.below(30_000) as u64);
            let rest = Write { pause, ..Write::now(&header[cut..]) };
            plan.writes.splice(0..0, [Write::now(&header[..cut]), rest]);
        }
    }
    client
}
