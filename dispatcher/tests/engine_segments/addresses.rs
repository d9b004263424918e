//! Whether our addresses are ours alone.

use super::*;
use dispatcher::engine::{Conflict, PortId};
use dispatcher::wire::Mac;
use dispatcher::wire::build::{Arp, Ndp, arp_op, ndp_type, solicited_node};
use dispatcher::wire::packet::{Ethernet, ethertype};
use std::net::IpAddr;

const OTHER: Mac = Mac([2, 6, 6, 6, 6, 6]);

fn untaken() -> Bench {
    Bench::new(two_armed(1, false), false)
}

/// What another host says when it has an address: in an ARP reply, an announcement, any question; or in an advertisement.
fn claims(address: IpAddr) -> Vec<Vec<u8>> {
    let addr = Addr::from(address);
    let link = Link { dst: Mac::BROADCAST, src: OTHER, ..Link::default() };
    let mut frames = Vec::new();
    if address.is_ipv6() {
        let mut f = vec![0; 100];
        let all_nodes = Addr::from(sim::config::ip("ff02::1"));
        let n = Ndp { kind: ndp_type::ADVERTISEMENT, flags: 0x20, target: addr, mac: Some(OTHER) }
            .write(&mut f, &link, addr, all_nodes);
        f.truncate(n);
        return vec![f];
    }
    for (op, target) in
        [(arp_op::REPLY, Addr::v4([0; 4])), (arp_op::REQUEST, addr), (arp_op::REQUEST, Addr::v4([10, 250, 250, 250]))]
    {
        let mut f = vec![0; 60];
        Arp { op, sender_mac: OTHER, sender: addr, target_mac: Mac::default(), target }.write(&mut f, &link);
        frames.push(f);
    }
    frames
}

#[test]
fn another_hosts_claim_to_an_address_of_ours_is_noted_once_and_changes_nothing() {
    for v6 in [false, true] {
        let config = two_armed(1, v6);
        let own = config.ports[1].addresses[0].0;
        let on_link = |ip: IpAddr| ip == vip(v6).ip() || ip == own;
        for address in [vip(v6).ip(), own] {
            let port = usize::from(address == own);
            for claim in claims(address) {
                let mut b = Bench::new(config.clone(), v6);
                let expected = Conflict { port: PortId(port as u8), ip: address, mac: OTHER };
                b.hand_in(1 - port, &claim);
                let elsewhere = b.engine.conflicts().len();
                b.hand_in(port, &claim);
                b.hand_in(port, &claim);
                assert_eq!(b.engine.conflicts()[..], [expected], "{address}");
                assert_eq!(elsewhere, 0, "another network has addresses of its own");
                assert!(on_link(address));
                b.splice(HTTP);
            }
        }
    }
}

#[test]
fn what_we_announce_ourselves_is_no_claim_nor_is_a_vip_that_routes_lead_to() {
    let mut b = untaken();
    let own = b.engine.conflicts().len();
    let mut claim = claims(vip(false).ip()).remove(1);
    // By way of another port of ours.
    claim[22..28].copy_from_slice(&two_armed(1, false).ports[1].mac.0);
    b.hand_in(0, &claim);
    assert_eq!((own, b.engine.conflicts().len()), (0, 0));

    let mut routed = two_armed(1, false);
    routed.wanted.services[0].listen = vec!["203.0.113.5:443".parse().unwrap()];
    let mut b = Bench::new(routed, false);
    for claim in claims("203.0.113.5".parse().unwrap()) {
        b.hand_in(0, &claim);
    }
    assert_eq!(b.engine.conflicts().len(), 0, "several dispatchers may have it");
}

/// RFC 5227 section 2.1.1 and RFC 4862 section 5.4.2: from no address, so that nobody's cache is changed.
#[test]
fn before_the_first_announcement_it_is_asked_whether_an_address_is_taken() {
    for v6 in [false, true] {
        let config = two_armed(1, v6);
        let mut engine =
            dispatcher::engine::Engine::new(config.clone(), [1; 32], dispatcher::time::Time::ZERO).unwrap();
        let mut sent = Sent::default();
        engine.poll(dispatcher::time::Time::ZERO, &mut sent);
        let address = Addr::from(vip(v6).ip());
        let about = |(_, f): &&(usize, Vec<u8>)| {
            let eth = Ethernet::parse(f).unwrap();
            if eth.ethertype == ethertype::ARP {
                Arp::parse(&f[14..]).is_some_and(|arp| arp.target == address)
            } else {
                eth.ethertype == ethertype::IPV6 && Ndp::parse(&f[54..]).is_some_and(|ndp| ndp.target == address)
            }
        };
        let told: Vec<_> = sent.0.iter().filter(about).collect();
        let [(0, probe), (0, announcement)] = told[..] else { panic!("a question and an announcement: {told:x?}") };
        let ours = config.ports[0].mac;
        if v6 {
            let (probe, said) = (Ndp::parse(&probe[54..]).unwrap(), Ndp::parse(&announcement[54..]).unwrap());
            assert_eq!((probe.kind, probe.mac, said.kind), (ndp_type::SOLICITATION, None, ndp_type::ADVERTISEMENT));
            let first = &told[0].1;
            assert_eq!(first[22..38], [0; 16], "from the unspecified address");
            let (group, mac) = solicited_node(address);
            assert_eq!((&first[38..54], &first[..6]), (group.octets(), &mac.0[..]));
        } else {
            let (probe, said) = (Arp::parse(&probe[14..]).unwrap(), Arp::parse(&announcement[14..]).unwrap());
            assert_eq!((probe.op, probe.sender, probe.sender_mac), (arp_op::REQUEST, Addr::v4([0; 4]), ours));
            assert_eq!((said.op, said.sender, said.sender_mac), (arp_op::REQUEST, address, ours));
        }
    }
}

#[derive(Default)]
struct Sent(Vec<(usize, Vec<u8>)>);

impl dispatcher::engine::Effects for Sent {
    fn transmit(&mut self, port: PortId, frame: &[u8]) -> bool {
        self.0.push((usize::from(port.0), frame.to_vec()));
        true
    }
    fn connection_ended(&mut self, _: &dispatcher::engine::ConnectionRecord<'_>) {}
}
