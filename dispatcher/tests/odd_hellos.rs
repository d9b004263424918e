//! Hellos off the beaten track (testdata/odd-hellos), through the whole engine: it refuses none, whatever it makes of them.

mod captures;

use captures::odd_hellos;
use core::time::Duration;
use dispatcher::engine::{Class, End};
use dispatcher::tls::OfferedSessions;
use lb::IdentityKind;
use sim::apps::{Manner, Plan};
use sim::config::two_armed;
use sim::world::World;

#[test]
fn each_reaches_a_server_to_its_last_byte_and_counts_as_secure_if_any_server_takes_it() {
    let hellos = odd_hellos();
    assert!(hellos.len() > 200);
    let mut w = World::new("odd-hellos", two_armed(1, false), 1, 1, 1, false);
    // It sends back what it gets.
    w.server_mut(1).manner = Manner::Greets(vec![]);
    for (i, (name, bytes, taken)) in hellos.iter().enumerate() {
        w.connect(0, Plan::echo(bytes));
        w.run_until_done(Duration::from_secs(60));
        let told = w.told.last().unwrap();
        assert_eq!((w.told.len(), told.end, told.bytes_to_server), (i + 1, End::Fin, bytes.len() as u64), "{name}");
        assert!(!taken || told.class == Class::Secure, "{name}");
    }
    w.assert_all_complete();
    let c = w.engine.counters();
    // Longer than the buffer: 24 kB, 60 kB, and a key share of 21 kB.
    assert_eq!(c.hellos_unread, 3, "{c:?}");
    assert_eq!(c.drops.iter().chain(c.refused.iter()).sum::<u64>(), 0, "{c:?}");
    w.assert_quiescent();
}

#[test]
fn psk_identities_beside_no_offer_of_tls_1_3_are_none() {
    let kinds = |bytes: &[u8]| {
        let hello = ssl_parse::client_hello(bytes, &mut []).complete().unwrap();
        assert_eq!(hello.psk_identities().count(), 1);
        OfferedSessions::new(&hello).identities().iter().map(|i| i.kind()).collect::<Vec<_>>()
    };
    let hellos = odd_hellos();
    let (_, fine, _) = hellos.iter().find(|(name, ..)| name == "13/psk-fine").unwrap();
    assert_eq!(kinds(fine), [IdentityKind::Psk, IdentityKind::SessionId]);
    // The same hello, but it offers TLS 1.2 twice.
    let at = fine.windows(9).position(|w| w == [0, 43, 0, 5, 4, 3, 4, 3, 3]).unwrap();
    let mut older = fine.clone();
    older[at + 6] = 3;
    assert_eq!(kinds(&older), [IdentityKind::SessionId]);
}
