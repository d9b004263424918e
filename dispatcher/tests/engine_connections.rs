//! Connections as they stand, listed while they live: against what the frames at the ports, the clients and the servers show.

use core::time::Duration;
use dispatcher::engine::connections::{Meant, Shown};
use dispatcher::flow::FlowId;
use lb::BackendSet;
use sim::apps::{Closing, Expect, Plan, Write};
use sim::config::{two_armed, vip};
use sim::tls::Hello;
use sim::world::World;
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// A connection that says this, and stays.
fn stays(bytes: Vec<u8>) -> Plan {
    Plan { writes: vec![Write::now(bytes)], expect: Expect::Anything, closing: Closing::Never }
}

/// All that are meant, by a walk in portions of so many places.
fn listed(w: &World, places: usize, meant: &Meant) -> Vec<Shown> {
    let (mut all, mut next) = (Vec::new(), Some(FlowId(0)));
    while let Some(from) = next {
        let before = all.len();
        next = w.engine.connections(from, places, meant, w.engine_now(), &mut |shown| {
            all.push(shown);
            true
        });
        assert!(all.len() - before <= places);
    }
    all
}

/// Some that stay after a TLS hello, some after half of one, some that have ended just now.
fn world(v6: bool) -> (World, Vec<SocketAddr>, Vec<SocketAddr>, Vec<SocketAddr>) {
    let mut w = World::new("listed", two_armed(3, v6), 3, 4, 3, v6);
    let hello = Hello { sni: Some("a.example"), ..Hello::default() }.bytes();
    let at = |w: &World, id| w.conn(id).local;
    let (mut open, mut half, mut over) = (vec![], vec![], vec![]);
    for n in 0..12 {
        let id = w.connect(n % 4, stays(hello.clone()));
        open.push(at(&w, id));
        let id = w.connect(n % 4, stays(hello[..40].to_vec()));
        half.push(at(&w, id));
    }
    w.run(Duration::from_secs(2));
    for n in 0..6 {
        let id = w.connect(n % 4, Plan::get(3000));
        over.push(at(&w, id));
    }
    w.run(Duration::from_secs(1));
    (w, open, half, over)
}

#[test]
fn each_is_listed_once_with_its_client_its_server_our_address_and_its_state_however_large_the_portions() {
    for v6 in [false, true] {
        let (w, open, half, over) = world(v6);
        for places in [1, 3, 7, 1000] {
            let all = listed(&w, places, &Meant::default());
            let by_client: BTreeMap<SocketAddr, &Shown> = all.iter().map(|shown| (shown.client, shown)).collect();
            assert_eq!((all.len(), by_client.len()), (30, 30));
            let state = |of: &[SocketAddr]| of.iter().map(|c| by_client[c].state).collect::<Vec<_>>();
            assert_eq!(state(&open), ["spliced"; 12]);
            assert_eq!(state(&half), ["await-hello"; 12]);
            assert_eq!(state(&over), ["time-wait"; 6]);
            for shown in &all {
                assert_eq!(shown.vip, vip(v6));
                let address = shown.backend.map(|(id, _)| w.directory().backend(id).unwrap().addr);
                // As the frames towards servers show it.
                let place = w.place(shown.client);
                assert_eq!(shown.local.zip(address), place, "{shown:?}");
                assert_eq!(place.is_none(), half.contains(&shown.client));
            }
            // The server has answered each that is open, and none has moved for two seconds; those that are over have been closed just now.
            assert!(open.iter().all(|c| by_client[c].idle >= Duration::from_secs(2) && by_client[c].bytes[1] > 0));
            assert!(all.iter().all(|shown| shown.age >= shown.idle));
            assert!(open.iter().all(|c| by_client[c].age >= Duration::from_secs(3) - Duration::from_millis(100)));
            assert!(over.iter().all(|c| by_client[c].idle < Duration::from_secs(1) && by_client[c].bytes == [5, 3000]));
        }
    }
}

#[test]
fn a_filter_leaves_what_it_means_and_nothing_else() {
    let (w, open, half, _) = world(false);
    let all = listed(&w, 64, &Meant::default());
    let clients = |of: &[Shown]| of.iter().map(|shown| shown.client).collect::<Vec<_>>();
    let those = |is: &dyn Fn(&Shown) -> bool| all.iter().filter(|s| is(s)).map(|s| s.client).collect::<Vec<_>>();
    for backend in w.directory().backends() {
        let meant = Meant { backend: Some(BackendSet::one(backend.id)), ..Meant::default() };
        let here = those(&|s| s.backend == Some((backend.id, backend.generation)));
        assert!(!here.is_empty());
        assert_eq!(clients(&listed(&w, 5, &meant)), here);
    }
    let prefix: lb::admission::Prefix = format!("{}/32", open[1].ip()).parse().unwrap();
    let meant = Meant { client: Some(prefix), ..Meant::default() };
    let here = clients(&listed(&w, 5, &meant));
    assert_eq!(here, those(&|s| s.client.ip() == open[1].ip()));
    assert!(here.len() > 6 && here.len() < 12);
    let meant = Meant { state: Some("await-hello"), ..meant };
    assert_eq!(clients(&listed(&w, 5, &meant)), those(&|s| half.contains(&s.client) && s.client.ip() == open[1].ip()));
    let service = w.directory().services().next().unwrap().id();
    assert_eq!(listed(&w, 5, &Meant { service: Some(service), ..Meant::default() }).len(), 30);
    assert_eq!(listed(&w, 5, &Meant { state: Some("queued"), ..Meant::default() }).len(), 0);
}

#[test]
fn who_has_enough_is_told_no_more() {
    let (w, ..) = world(false);
    let mut told = 0;
    let next = w.engine.connections(FlowId(0), 1000, &Meant::default(), w.engine_now(), &mut |_| {
        told += 1;
        told < 7
    });
    assert_eq!((told, next), (7, None));
}
