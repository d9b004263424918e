//! Sessions come back to the servers that issued them, from wherever the client comes.

use core::time::Duration;
use dispatcher::time::Time;
use lb::HashOn;
use lb::Millis;
use sim::apps::Plan;
use sim::config::two_armed;
use sim::tls::Hello;
use sim::world::World;

const LONG: Duration = Duration::from_secs(60);

fn world(name: &'static str, clients: usize, servers: usize) -> World {
    World::new(name, two_armed(servers, false).pool(|p| p.hash_on = HashOn::SourceIp), 7, clients, servers, false)
}

fn millis(t: Time) -> Millis {
    Millis(t.as_millis())
}

fn census(w: &World) -> lb::affinity::Census {
    w.engine.affinity().census(millis(w.now))
}

/// Connects and runs to the end; returns the connection.
fn go(w: &mut World, client: usize, hello: Hello) -> (usize, usize) {
    let id = w.connect(client, Plan::tls(&hello, b"body"));
    w.run_until_done(LONG);
    assert!(w.conn(id).complete());
    id
}

#[test]
fn a_session_id_returns_to_its_issuer_from_another_address() {
    let mut w = world("session-id", 12, 3);
    let mut servers = std::collections::HashSet::new();
    for c in 0..12 {
        let first = go(&mut w, c, Hello::default());
        let issued = w.conn(first).flight().unwrap();
        assert!(!issued.resumed);
        servers.insert(issued.server);
        for back in [(c + 1) % 12, (c + 5) % 12] {
            let again = go(&mut w, back, Hello { session_id: issued.session_id.clone(), ..Hello::default() });
            let f = w.conn(again).flight().unwrap();
            assert!(f.resumed && f.server == issued.server);
            let t = w.told.last().unwrap();
            assert_eq!((t.reason, t.resumed, &t.offered[..]), ("session-id", Some(true), &["session-id"][..]));
            assert_eq!(t.decided, t.backend);
            assert_eq!(t.handshake, Some(2 * w.delay), "there and back: the server answers at once");
        }
    }
    assert_eq!(servers.len(), 3, "new sessions are spread");
    assert_eq!(census(&w).session_ids, 12);
    w.assert_quiescent();
}

#[test]
fn without_affinity_the_same_clients_lose_sessions() {
    let config = two_armed(3, false).policy(|p| p.affinity = false);
    let mut w = World::new("affinity-off", config, 7, 12, 3, false);
    let mut resumed = 0;
    for c in 0..12 {
        let first = go(&mut w, c, Hello::default());
        let id = w.conn(first).flight().unwrap().session_id;
        let again = go(&mut w, (c + 1) % 12, Hello { session_id: id, ..Hello::default() });
        resumed += usize::from(w.conn(again).flight().unwrap().resumed);
    }
    assert!(resumed < 10, "{resumed}");
    assert!(w.told.iter().all(|t| t.decided.is_none() && t.reason == "balanced"));
}

#[test]
fn a_ticket_returns_by_its_key_name_once_that_has_proved_to_be_one() {
    let mut w = world("ticket", 12, 3);
    for s in w.servers() {
        w.server_mut(s).issues_tickets = true;
    }
    let mut tickets = vec![];
    for c in 0..12 {
        let first = go(&mut w, c, Hello { ticket: Some(vec![]), ..Hello::default() });
        let f = w.conn(first).flight().unwrap();
        tickets.push((f.ticket.unwrap(), f.server));
    }
    assert_eq!(census(&w).key_names, 3, "{:?}", census(&w));
    for (i, (ticket, server)) in tickets.into_iter().enumerate() {
        // With the invented ID that clients use to see the ticket accepted.
        let hello = Hello { ticket: Some(ticket), session_id: vec![i as u8; 32], ..Hello::default() };
        let again = go(&mut w, (i + 1) % 12, hello);
        let f = w.conn(again).flight().unwrap();
        assert!(f.resumed && f.server == server);
        assert_eq!(w.told.last().unwrap().resumed, Some(true));
    }
    // A ticket never seen, sealed with a known key.
    let unseen = w.server_mut(w.servers()[1]).ticket();
    let id = go(&mut w, 0, Hello { ticket: Some(unseen), session_id: vec![99; 32], ..Hello::default() });
    assert!(w.conn(id).flight().unwrap().resumed);
    assert_eq!(w.told.last().unwrap().reason, "ticket-key");
    assert_eq!(census(&w).session_ids, 0, "invented IDs never enter");
    w.assert_quiescent();
}

#[test]
fn a_psk_finds_its_server_by_the_key_name_learned_from_acceptances() {
    // Where a client's address says nothing about its server, a refusal counts for all at once.
    let mut w = World::new("psk", two_armed(3, false).pool(|p| p.hash_on = HashOn::Tuple), 7, 12, 3, false);
    let servers = w.servers();
    for &s in &servers {
        w.server_mut(s).tls13 = true;
    }
    // TLS 1.3 tickets are encrypted, so nothing is learned of their issue; each server's are offered here until found.
    let psk = |w: &mut World, client, server| {
        let ticket = w.server_mut(server).ticket();
        let id = go(w, client, Hello { tls13: true, psk: vec![ticket], session_id: vec![1; 32], ..Hello::default() });
        w.conn(id).flight().unwrap()
    };
    let mut refused = [0; 3];
    for round in 0..8 {
        for (i, &s) in servers.iter().enumerate() {
            let f = psk(&mut w, (round * 5 + i) % 12, s);
            refused[i] += usize::from(!f.resumed);
            if round >= 5 {
                assert!(f.resumed, "server {i}, round {round}: {:?}", census(&w));
                assert_eq!(w.told.last().unwrap().reason, "psk-key");
            }
        }
    }
    assert!(
        refused.iter().all(|r| *r <= 2),
        "an unknown key costs at most one refusal less than there are servers: {refused:?}"
    );
    assert_eq!((census(&w).session_ids, census(&w).key_names), (0, 3));
    w.assert_quiescent();
}

#[test]
fn junk_and_inventions_never_enter_the_table() {
    let mut w = world("junk", 12, 3);
    for (i, &s) in w.servers().iter().enumerate() {
        w.server_mut(s).tls13 = i < 2;
    }
    for i in 0..40u8 {
        let junk = |n: u8| -> Vec<u8> { (0..32).map(|k| i ^ k ^ n).collect() };
        // TLS 1.3 with the session ID of middlebox compatibility, and invented PSKs.
        go(
            &mut w,
            usize::from(i % 12),
            Hello { tls13: true, session_id: junk(1), psk: vec![junk(2)], ..Hello::default() },
        );
    }
    let c = census(&w);
    // The one server without TLS 1.3 issued IDs of its own; no invention is a row.
    let own = w.told.iter().filter(|t| t.backend.as_deref() == Some("web2") && t.resumed == Some(false)).count();
    assert!(own > 0 && c.session_ids == own, "{c:?}, {own}");
    assert_eq!((c.tickets, c.key_names), (0, 0));
    w.assert_quiescent();
}

#[test]
fn a_session_of_a_server_that_is_gone_is_made_anew_elsewhere_and_the_client_does_not_notice() {
    let mut w = world("gone", 4, 3);
    let first = go(&mut w, 0, Hello::default());
    let issued = w.conn(first).flight().unwrap();
    let host = w.servers()[issued.server];
    w.hosts[host].dark = true;
    let again = go(&mut w, 1, Hello { session_id: issued.session_id.clone(), ..Hello::default() });
    let f = w.conn(again).flight().unwrap();
    assert!(!f.resumed && f.server != issued.server);
    w.assert_quiescent();
}

#[test]
fn a_ticket_key_told_in_advance_leads_the_first_client_to_its_backend() {
    use dispatcher::engine::TicketKey;
    let name = *b"sixteen bytes !!";
    let told = |backend: &str| TicketKey::Name { backend: backend.into(), name };
    let rows = |keys: Vec<TicketKey>| {
        let mut config = sim::config::two_armed(3, false);
        let first = config.backends()[1].name.clone();
        config.ticket_keys = keys.into_iter().chain([told(&first)]).collect();
        let engine = dispatcher::engine::Engine::new(config, [7; 32], dispatcher::time::Time::ZERO);
        engine.map(|e| {
            (e.affinity().census(lb::Millis(0)).key_names, {
                let bytes = [&name[..], &[0; 100]].concat();
                let offered = lb::Offered { kind: lb::IdentityKind::Psk, bytes: &bytes };
                let found = e.affinity().lookup(&[lb::Identity::new(&offered).unwrap()], lb::Millis(0), |_| true);
                found.decision.and_then(|d| d.backends.single())
            })
        })
    };
    assert_eq!(rows(Vec::new()).ok(), Some((1, Some(lb::BackendId(1)))));
    assert!(rows(vec![told("nobody")]).is_err());
}
