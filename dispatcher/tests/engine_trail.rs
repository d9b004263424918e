//! Why connections went where they went, told by the engine itself: against what was sent, who answered, and who issued the session.

use core::time::Duration;
use dispatcher::engine::connections::Shown;
use dispatcher::engine::moving::{pack_sessions, pack_trails};
use dispatcher::engine::trail::{Holder, STEPS, Sought, TRAILS, Trail, What};
use dispatcher::engine::{End, Engine, Share};
use dispatcher::pack::Unreadable;
use lb::Reason;
use sim::apps::Plan;
use sim::config::two_armed;
use sim::script::{ACK, Bench, RST_ACK, SYN_ACK, Seg, seg, written};
use sim::tls::Hello;
use sim::upgrade::{TRAILS as TRAILS_SECTION, entries, left};
use sim::world::World;

/// All that are meant, by a walk in portions of so many places.
fn trails(engine: &Engine, now: dispatcher::time::Time, sought: &Sought) -> Vec<(Trail, Option<Shown>)> {
    let mut told: Option<Vec<u64>> = None;
    let mut found = vec![];
    for places in [1, 7, TRAILS] {
        found = vec![];
        let mut next = Some(0);
        while let Some(from) = next {
            next = engine.trails(from, places, sought, now, &mut |trail, lives| {
                found.push((trail, lives));
                true
            });
        }
        let numbers: Vec<u64> = found.iter().map(|(trail, _)| trail.number).collect();
        assert!(numbers.is_sorted_by(|a, b| a > b), "the latest first: {numbers:?}");
        assert_eq!(told.get_or_insert_with(|| numbers.clone()), &numbers, "in portions of {places}");
    }
    found
}

fn whats(trail: &Trail) -> Vec<What> {
    trail.steps.iter().map(|step| step.what).collect()
}

#[test]
fn a_session_that_comes_back_is_told_with_its_identity_its_row_and_each_step() {
    let mut w = World::new("trail", two_armed(3, false), 7, 2, 3, false);
    let go = |w: &mut World, hello: &Hello| {
        let id = w.connect(0, Plan::tls(hello, b"body"));
        w.run_until_done(Duration::from_secs(60));
        (w.conn(id).local, w.conn(id).flight().unwrap())
    };
    let (first, issued) = go(&mut w, &Hello { sni: Some("shop.example"), ..Hello::default() });
    let back = Hello { sni: Some("Shop.Example"), session_id: issued.session_id.clone(), ..Hello::default() };
    let (second, flight) = go(&mut w, &back);
    assert!(flight.resumed);
    let now = w.engine_now();
    let of = |at: std::net::SocketAddr| Sought { client: Some(at.ip()), port: Some(at.port()), ..Sought::default() };
    let [(cold, None)] = &trails(&w.engine, now, &of(first))[..] else { panic!("one, and it is over") };
    assert_eq!((cold.client(), cold.row, &cold.name[..]), (first, None, &b"shop.example"[..]));
    let [(warm, None)] = &trails(&w.engine, now, &of(second))[..] else { panic!("one, and it is over") };
    let row = warm.row.expect("a row led it");
    assert_eq!((row.reason, row.named, row.followed), (Reason::SessionId, 1, true));
    assert_eq!(row.key.as_bytes(), &issued.session_id[..]);
    assert_eq!((warm.offered.len(), warm.offered[0].key()), (1, &row.key));
    let web = w.engine.directory().backends().nth(issued.server).unwrap();
    let holder: Holder = (web.id, web.generation);
    let steps = [What::Hello, What::Dials(holder), What::Answers(holder), What::Ends(End::Fin)];
    assert_eq!(whats(warm), steps);
    assert!(warm.steps.is_sorted_by_key(|step| step.after()));
    let ended = warm.ended.as_ref().unwrap();
    assert_eq!((ended.resumed, ended.times.handshake()), (Some(true), Some(2 * w.delay)));
    // By its name, whatever its case: both; by its number: one.
    let named = Sought { name: Some("SHOP.example".into()), ..Sought::default() };
    assert_eq!(trails(&w.engine, now, &named).len(), 2);
    assert_eq!(trails(&w.engine, now, &Sought { number: Some(warm.number), ..Sought::default() }).len(), 1);
    assert!(trails(&w.engine, now, &Sought { name: Some("shop.exampl".into()), ..Sought::default() }).is_empty());
}

#[test]
fn servers_that_refuse_and_servers_that_are_silent_are_told_apart_and_one_that_lives_is_shown_as_it_stands() {
    let mut b = Bench::new(two_armed(3, false), false);
    b.dial(b"GET / HTTP/1.0\r\n\r\n");
    let first = b.dialled;
    let (out, _) = b.server_sends(seg(RST_ACK, 0, 1, &[]));
    assert!(out.iter().any(|o| o.tcp().is_bare_syn()), "another one is asked");
    let second = b.dialled;
    while b.dialled == second {
        b.wait(Duration::from_secs(1));
    }
    let third = b.dialled;
    let options = written(&sim::script::linux());
    b.server_sends(Seg { options: &options, ..seg(SYN_ACK, 0, 1, &[]) });
    b.server_sends(seg(ACK, 1, 19, b"hello"));
    let holder = |addr| {
        let backend = b.engine.directory().backends().find(|backend| backend.addr == addr).unwrap();
        (backend.id, backend.generation)
    };
    let [first, second, third] = [first, second, third].map(holder);
    let [(trail, Some(lives))] = &trails(&b.engine, b.now, &Sought::default())[..] else { panic!("one that lives") };
    let steps = [
        What::NotTls,
        What::Dials(first),
        What::Refuses(first),
        What::Dials(second),
        What::Silence(second),
        What::Dials(third),
        What::Answers(third),
    ];
    assert_eq!(whats(trail), steps);
    assert_eq!((lives.state, lives.bytes, lives.backend), ("spliced", [18, 5], Some(third)));
    assert!(trail.ended.is_none());
    b.shutdown();
    let [(trail, None)] = &trails(&b.engine, b.now, &Sought::default())[..] else { panic!("one that is over") };
    assert_eq!(whats(trail).last(), Some(&What::Ends(End::Shutdown)));
    assert_eq!(trail.ended.as_ref().unwrap().bytes, [18, 5]);
}

#[test]
fn the_latest_are_kept_and_a_place_is_used_anew_when_as_many_have_begun_since() {
    let mut b = Bench::new(two_armed(1, false), false);
    for n in 0..TRAILS as u32 + 10 {
        b.client.set_port(1024 + (n % 60_000) as u16);
        b.client_syn(&Default::default());
        b.client_sends(seg(ACK, 1, 1, &[]));
        b.client_sends(seg(RST_ACK, 1, 1, &[]));
        if n % 500 == 0 {
            b.wait(Duration::from_secs(5));
        }
    }
    let all = trails(&b.engine, b.now, &Sought::default());
    let numbers: Vec<u64> = all.iter().map(|(trail, _)| trail.number).collect();
    assert_eq!(numbers, (11..=TRAILS as u64 + 10).rev().collect::<Vec<_>>());
    assert!(all.iter().all(|(trail, lives)| lives.is_none() && trail.steps.len() < STEPS));
    assert!(all.iter().all(|(trail, _)| whats(trail) == [What::Ends(End::ClientReset)]));
}

/// All that is told, in a form that can be compared.
fn told(w: &World) -> Vec<String> {
    trails(&w.engine, w.engine_now(), &Sought::default()).iter().map(|one| format!("{one:?}")).collect()
}

/// Some that are over, of which the last came back with its session; and one that lives.
fn some(w: &mut World) -> (usize, usize) {
    let over = w.connect(0, Plan::tls(&Hello::default(), b"body"));
    w.run_until_done(Duration::from_secs(60));
    let session_id = w.conn(over).flight().unwrap().session_id.clone();
    w.connect(0, Plan::tls(&Hello { sni: Some("shop.example"), session_id, ..Hello::default() }, b"body"));
    w.run_until_done(Duration::from_secs(60));
    let lives = w.connect(1, Plan::get(300_000));
    while w.conn(lives).received.is_empty() {
        w.run(w.delay);
    }
    assert!(!w.conn(lives).complete());
    lives
}

#[test]
fn another_process_tells_the_same_and_goes_on_with_one_that_lives() {
    let mut w = World::new("trail-moved", two_armed(3, false), 7, 2, 3, false);
    let lives = some(&mut w);
    let before = told(&w);
    assert_eq!(before.len(), 3);
    w.upgrade(1);
    assert_eq!(told(&w), before);
    w.run_until_done(Duration::from_secs(60));
    w.connect(0, Plan::get(10));
    w.run_until_done(Duration::from_secs(60));
    let local = w.conn(lives).local;
    let all = trails(&w.engine, w.engine_now(), &Sought::default());
    assert_eq!(all.len(), 4, "its own stands before those");
    let (trail, _) = all.iter().find(|(trail, _)| trail.client() == local).unwrap();
    assert_eq!((whats(trail).last(), trail.ended.is_some()), (Some(&What::Ends(End::Fin)), true));
}

/// Most go while the workers still turn, and only what changed since with the connections.
#[test]
fn what_goes_before_and_what_has_changed_since_come_to_the_same() {
    let mut w = World::new("trail-pieces", two_armed(3, false), 8, 2, 3, false);
    some(&mut w);
    let then = w.engine_now();
    let early = trails(&w.engine, then, &Sought::default());
    let early = pack_trails(early.iter().map(|(trail, _)| trail), w.directory());
    // The one that lives ends, and two more begin.
    w.run_until_done(Duration::from_secs(60));
    (0..2).for_each(|_| _ = w.connect(0, Plan::get(10)));
    w.run_until_done(Duration::from_secs(60));
    let now = w.engine_now();
    let rest = w.pack_since(then);
    assert_eq!(entries(std::slice::from_ref(&rest), TRAILS_SECTION).len(), 3);
    let secret = w.secret();
    let share = Share::divide_with(&w.config, &secret, 1, &left(w.directory())).unwrap().remove(0);
    let before = [pack_sessions(&share.rows(), w.directory(), then), early].concat();
    let mut next = Engine::for_worker(w.config.clone(), secret, share, now).unwrap();
    next.take_sessions(&before, &|_| 0, now).unwrap();
    next.take_over(&[rest], &|_| 0, now).unwrap();
    let tells = |engine: &Engine| format!("{:?}", trails(engine, now, &Sought::default()));
    assert_eq!(tells(&next), tells(&w.engine));
    // Without the first piece what has not changed is missing: so it was not in the second.
    assert_eq!(trails(&next, now, &Sought::default()).len(), 5);
    // Another format is refused.
    let mut other = before;
    other[4] ^= 1;
    assert!(matches!(next.take_sessions(&other, &|_| 0, now), Err(Unreadable::Unknown { .. })));
}
