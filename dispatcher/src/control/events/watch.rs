//! What has happened between two looks at the dispatcher. Pure: what is seen goes in, news comes out.

use super::{Kind, News};
use crate::control::socket::api::{Backend, Override, Tunnel};
use crate::worker::OVERRUN;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;

/// A table that is this full is told of, ...
const FULL: f64 = 0.9;
/// ... and again when it has this much room.
const ROOM: f64 = 0.75;

/// Seconds between two news of one thing that clients can bring about.
const PAUSE: f64 = 60.0;

/// After a look this many times of what it took pass before the next one.
const SHARE: f64 = 30.0;

/// What is seen.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// All backends.
    pub backends: Vec<Backend>,
    /// Tunnels whose packets are sealed, by where they end and worker.
    pub tunnels: Vec<Tunnel>,
    /// What operators said.
    pub overrides: Vec<Override>,
    /// Ports: name, whether the link is up where that is known, how often a device came back.
    pub ports: Vec<Port>,
    /// Workers: whether it runs, turns that were too long, the longest turn in seconds.
    pub workers: Vec<Worker>,
    /// Tables: name, used, room in all.
    pub tables: Vec<(&'static str, u64, u64)>,
    /// Counts of what found no room, by name, since the start.
    pub no_room: Vec<(String, u64)>,
    /// Lines of the connections log that were lost.
    pub log_lost: u64,
}

/// A port.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// Its link, where it is known.
    pub up: Option<bool>,
    /// How often its link was seen going down.
    pub downs: u64,
    /// How often its device was taken up again after it had been removed.
    pub reopened: u64,
}

/// A worker.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Worker {
    /// It runs.
    pub running: bool,
    /// Turns of its loop that were longer than [`OVERRUN`].
    pub overruns: u64,
    /// The longest, seconds.
    pub longest: f64,
}

/// Remembers what was seen.
#[derive(Debug, Default)]
pub struct Watch {
    before: Option<View>,
    full: BTreeSet<&'static str>,
    /// When something was told that comes from clients, and up to which count.
    told: BTreeMap<String, (f64, u64)>,
    /// Not before then is it time for the next look.
    again: f64,
}

impl Watch {
    /// What is new since the last look; nothing at the first one. `now`: seconds, of any clock that goes on.
    pub fn look(&mut self, view: View, now: f64) -> Vec<News> {
        let mut news = Vec::new();
        if let Some(before) = self.before.take() {
            // One that is leaving may have the name of one that has come.
            let known: HashMap<_, &Backend> =
                before.backends.iter().map(|b| ((b.name.as_str(), b.address), b)).collect();
            for backend in &view.backends {
                if let Some(known) = known.get(&(backend.name.as_str(), backend.address)) {
                    backend_news(known, backend, &mut news);
                }
            }
            tunnels(&before.tunnels, &view.tunnels, &mut news);
            overrides(&before.overrides, &view.overrides, &mut news);
            before.ports.iter().zip(&view.ports).for_each(|(old, new)| port(old, new, &mut news));
            for (number, (old, new)) in before.workers.iter().zip(&view.workers).enumerate() {
                worker(number, old, new, &mut news);
            }
        } else {
            // All of them begin: that one is up is news.
            tunnels(&[], &view.tunnels, &mut news);
        }
        self.tables(&view, &mut news);
        self.counts(&view, now, &mut news);
        self.before = Some(view);
        news
    }

    /// Whether it is time for a look, at `now` of the clock of [`Watch::look`].
    pub fn is_due(&self, now: f64) -> bool {
        now >= self.again
    }

    /// A look took until `now` since it was begun at `began`: thousands of backends are looked at more seldom, so that it never takes more than a small share
    /// of a core.
    pub fn rest(&mut self, began: f64, now: f64) {
        self.again = now + SHARE * (now - began).max(0.0);
    }

    fn tables(&mut self, view: &View, news: &mut Vec<News>) {
        for &(table, used, room) in &view.tables {
            let share = used as f64 / room.max(1) as f64;
            let says = |state: &str, bad| {
                let text = format!("the {table} table is {state}: {used} of {room}");
                News::new(Kind::Room, bad, text).with("table", table).with("state", state).with("count", used)
            };
            if share >= FULL && self.full.insert(table) {
                news.push(says("nearly full", true));
            } else if share < ROOM && self.full.remove(table) {
                news.push(says("no longer nearly full", false));
            }
        }
    }

    /// What grows because of clients is told at once, and then once a minute, as a number.
    fn counts(&mut self, view: &View, now: f64, news: &mut Vec<News>) {
        let log = [("lines of the connections log".to_string(), view.log_lost)];
        for (name, count) in view.no_room.iter().chain(&log) {
            let (at, up_to) = self.told.get(name).copied().unwrap_or((f64::NEG_INFINITY, 0));
            let more = count.saturating_sub(up_to);
            if more == 0 || now - at < PAUSE {
                continue;
            }
            let (kind, text) = if *name == log[0].0 {
                (Kind::Log, format!("{more} {name} were lost: the disk is too slow, or full"))
            } else {
                (Kind::Room, format!("no room: {name} ({more} since it was told of last; dispatcher ctl show drops)"))
            };
            self.told.insert(name.clone(), (now, *count));
            news.push(News::new(kind, true, text).with("table", name).with("count", more));
        }
    }
}

fn backend_news(old: &Backend, new: &Backend, news: &mut Vec<News>) {
    let name = &new.name;
    let about = |kind, bad, text: String| News::new(kind, bad, text).with("backend", name);
    let state = |b: &Backend| b.in_force.as_ref().map_or_else(|| "leaving".to_string(), |w| w.state.clone());
    let (was, is) = (state(old), state(new));
    if was != is {
        let who = new.in_force_by.as_deref().unwrap_or("operator");
        let text = format!("backend {name} is wanted {is}, says the {who} (was {was})");
        news.push(about(Kind::Backend, is == "down", text).with("state", &is).with("by", who));
    }
    let (was, is) = (&old.observed.health, &new.observed.health);
    if was != is {
        // Who said that it was down lets it be up.
        let who = new.observed.by.as_ref().or(old.observed.by.as_ref()).map_or("passive", String::as_str);
        let suspected = [old, new].iter().any(|b| b.observed.suspicion.as_ref().is_some_and(|s| s.state == "down"));
        let why = new.observed.why.as_deref();
        let (bad, said) = match is.as_str() {
            "up" => (false, "is up".to_string()),
            "differs" => (true, "is up for some workers, and down for others".to_string()),
            _ => (true, "is down".to_string()),
        };
        let why_text = why.map_or(String::new(), |why| format!(": {why}"));
        let mut one = about(Kind::Backend, bad, format!("backend {name} {said}{why_text} ({who})"));
        one = one.with("state", is).with("by", who);
        let one = why.into_iter().fold(one, |one, why| one.with("why", why));
        // Checks have said it in the log in their own words.
        news.push(News { logged: (who == "check" || suspected) && is != "differs", ..one });
    }
    if let Some(agent) = &new.observed.agent
        && old.observed.agent.as_ref().is_some_and(|before| before.says != agent.says)
    {
        // The log has the agent's own words already.
        let one = about(Kind::Agent, false, format!("backend {name}: its agent says: {}", agent.says));
        news.push(News { logged: true, ..one.with("by", "agent").with("why", &agent.says) });
    }
    let names = |b: &Backend| b.observed.keys.as_ref().map(|k| k.names.clone()).unwrap_or_default();
    let (before, now) = (names(old), names(new));
    for key in now.iter().filter(|key| !before.contains(key)) {
        let text = format!("backend {name}: ticket key {key} is learned");
        news.push(about(Kind::Key, false, text).with("key", key).with("state", "learned"));
    }
    for key in before.iter().filter(|key| !now.contains(key)) {
        let text = format!("backend {name}: ticket key {key} is retired: later ones are known");
        news.push(about(Kind::Key, false, text).with("key", key).with("state", "retired"));
    }
    let own = |b: &Backend| b.observed.keys.as_ref().and_then(|k| k.takes_own);
    match (own(old), own(new)) {
        (Some(true) | None, Some(false)) => {
            let text =
                format!("backend {name} does not take the tickets that it issues: its clients make full handshakes");
            news.push(about(Kind::Tickets, true, text).with("state", "refused"));
        }
        (Some(false), Some(true)) => {
            let text = format!("backend {name} takes its own tickets again");
            news.push(about(Kind::Tickets, false, text).with("state", "taken"));
        }
        _ => {}
    }
}

fn tunnel_of(t: &Tunnel) -> (SocketAddr, usize, &str) {
    (t.endpoint, t.worker, &t.public_key)
}

fn tunnels(old: &[Tunnel], new: &[Tunnel], news: &mut Vec<News>) {
    let known: HashMap<_, &Tunnel> = old.iter().map(|t| (tunnel_of(t), t)).collect();
    new.iter().for_each(|new| tunnel(known.get(&tunnel_of(new)).copied(), new, news));
}

/// A new one begins as all do.
fn tunnel(old: Option<&Tunnel>, new: &Tunnel, news: &mut Vec<News>) {
    let (end, worker) = (new.endpoint, new.worker);
    let about = |bad, text: String| News::new(Kind::Tunnel, bad, text).with("endpoint", end).with("worker", worker);
    let was = old.map_or("begins", |old| old.state.as_str());
    if was != new.state {
        let (bad, said) = if new.state == "down" { (true, "is down") } else { (false, "is up") };
        let why = new.why.as_ref().filter(|_| bad).map_or(String::new(), |why| format!(": {why}"));
        let behind = new.backends.join(", ");
        let text = format!("the tunnel to {end} ({behind}) of worker {worker} {said}{why}");
        news.push(about(bad, text).with("state", &new.state));
    }
    if old.is_some_and(|old| old.old_handshakes == 0) && new.old_handshakes > 0 {
        let why = new.why.as_deref().unwrap_or_default();
        let text = format!("the tunnel to {end} of worker {worker}: {why}");
        news.push(about(true, text).with("state", "old handshakes"));
    }
}

fn overrides(old: &[Override], new: &[Override], news: &mut Vec<News>) {
    // Their ages go on.
    let same = |a: &Override, b: &Override| a.what == b.what && a.who == b.who && a.why == b.why;
    // The log has who asked for it, or that its time is over.
    let logged = |one: News| News { logged: true, ..one };
    for one in new.iter().filter(|n| !old.iter().any(|o| same(o, n))) {
        let left = one.left.map_or(String::new(), |left| format!(" for {left} s"));
        let why = one.why.as_ref().map_or(String::new(), |why| format!(": {why}"));
        let text = format!("override: {}{left}, says {}{why}", one.what, one.who);
        news.push(logged(News::new(Kind::Override, false, text).with("state", "made").with("by", &one.who)));
    }
    for one in old.iter().filter(|o| !new.iter().any(|n| same(o, n))) {
        let text = format!("override is over: {} (of {})", one.what, one.who);
        news.push(logged(News::new(Kind::Override, false, text).with("state", "over").with("by", &one.who)));
    }
}

fn port(old: &Port, new: &Port, news: &mut Vec<News>) {
    let name = &new.name;
    let about = |bad, text: String| News::new(Kind::Link, bad, text).with("port", name);
    let downs = new.downs.saturating_sub(old.downs);
    match (old.up, new.up) {
        (Some(true) | None, Some(false)) => {
            news.push(about(true, format!("port {name}: its link is down")).with("state", "down"));
        }
        (Some(false), Some(true)) => {
            news.push(about(false, format!("port {name}: its link is up")).with("state", "up"));
        }
        // It went and came between two looks.
        (was, is) if was == is && is != Some(false) && downs > 0 => {
            let text = format!("port {name}: its link went down {downs} times, and came back");
            news.push(about(true, text).with("state", "flapped").with("count", downs));
        }
        _ => {}
    }
    if new.reopened > old.reopened {
        let text = format!("port {name}: its device was made anew, and is used again");
        news.push(about(false, text).with("state", "reopened"));
    }
}

fn worker(number: usize, old: &Worker, new: &Worker, news: &mut Vec<News>) {
    let about = |text: String| News::new(Kind::Worker, true, text).with("worker", number);
    if old.running && !new.running {
        news.push(about(format!("worker {number} has ended")).with("state", "ended"));
    }
    let more = new.overruns.saturating_sub(old.overruns);
    if more > 0 {
        let text = format!(
            "worker {number}: {more} turns of its loop took longer than {} ms (the longest since the start: {:.0} ms)",
            OVERRUN.as_millis(),
            new.longest * 1e3
        );
        news.push(about(text).with("state", "overrun").with("count", more).with("seconds", new.longest));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::socket::api::{Holds, Observed, TicketKeys, Wanted};

    fn backend(name: &str, health: &str) -> Backend {
        let wanted = Wanted {
            state: "up".into(),
            weights: vec![],
            max_connections: None,
            max_handshakes: None,
            slow_start: None,
            check: None,
            agent_check: None,
        };
        Backend {
            name: name.into(),
            address: "10.0.0.1:443".parse().unwrap(),
            context: "direct".into(),
            wanted: Some(wanted.clone()),
            overrides: vec![],
            in_force: Some(wanted),
            in_force_by: Some("file".into()),
            holds: Holds { state: health.into(), ..Holds::default() },
            observed: Observed {
                health: health.into(),
                by: (health != "up").then(|| "passive".into()),
                why: (health != "up").then(|| "it refuses connections".into()),
                since: None,
                check: None,
                suspicion: None,
                agent: None,
                keys: None,
                slots: None,
                up: vec![],
                flows: 0,
                connections: 0,
                resumed: 0,
                new_sessions: 0,
                bytes_to_server: 0,
                bytes_to_client: 0,
            },
        }
    }

    fn of(backends: Vec<Backend>) -> View {
        View { backends, ..View::default() }
    }

    fn texts(news: &[News]) -> Vec<&str> {
        news.iter().map(|n| n.text.as_str()).collect()
    }

    #[test]
    fn a_backend_that_dies_and_returns_is_told_each_time_once_with_who_says_so_and_why() {
        let mut watch = Watch::default();
        assert_eq!(watch.look(of(vec![backend("a", "up"), backend("b", "down")]), 0.0), [], "that is how it began");
        let news = watch.look(of(vec![backend("a", "down"), backend("b", "down")]), 1.0);
        assert_eq!(texts(&news), ["backend a is down: it refuses connections (passive)"]);
        assert_eq!(
            news[0].fields,
            [("backend", "a"), ("state", "down"), ("by", "passive"), ("why", "it refuses connections")]
                .map(|(name, value)| (name, value.to_string()))
        );
        assert_eq!(watch.look(of(vec![backend("a", "down"), backend("b", "down")]), 2.0), []);
        let mut checked = backend("b", "down");
        (checked.observed.by, checked.observed.why) = (Some("check".into()), Some("check tls: closed".into()));
        watch.look(of(vec![backend("a", "down"), checked]), 2.5);
        let news = watch.look(of(vec![backend("a", "up"), backend("b", "up")]), 3.0);
        assert_eq!(texts(&news), ["backend a is up (passive)", "backend b is up (check)"]);
    }

    #[test]
    fn a_tunnel_is_told_of_when_it_comes_up_is_lost_and_returns_for_each_worker_that_has_it() {
        let tunnel = |worker, state: &str, old_handshakes| Tunnel {
            kind: "wireguard".into(),
            endpoint: "10.0.0.1:51820".parse().unwrap(),
            backends: vec!["a".into(), "b".into()],
            worker,
            public_key: "K".into(),
            own_public_key: "O".into(),
            state: state.into(),
            since: 0.0,
            why: (state == "down" || old_handshakes > 0).then(|| "nobody answers".into()),
            handshake: None,
            heard: None,
            keepalive: 25.0,
            waiting: 0,
            bytes_in: 0,
            bytes_out: 0,
            messages_in: 0,
            messages_out: 0,
            handshakes: 0,
            initiations: 0,
            unopened: 0,
            replayed: 0,
            old_handshakes,
            flooded: 0,
        };
        let view = |tunnels: Vec<Tunnel>| View { tunnels, ..View::default() };
        let mut watch = Watch::default();
        assert_eq!(Watch::default().look(view(vec![tunnel(0, "up", 0)]), 0.0).len(), 1, "also when it is first looked");
        watch.look(view(vec![tunnel(0, "begins", 0), tunnel(1, "begins", 0)]), 0.0);
        let news = watch.look(view(vec![tunnel(0, "up", 0), tunnel(1, "begins", 0)]), 1.0);
        assert_eq!(texts(&news), ["the tunnel to 10.0.0.1:51820 (a, b) of worker 0 is up"]);
        let news = watch.look(view(vec![tunnel(0, "down", 0), tunnel(1, "down", 0)]), 2.0);
        assert_eq!(texts(&news)[1], "the tunnel to 10.0.0.1:51820 (a, b) of worker 1 is down: nobody answers");
        assert!(news.iter().all(|n| n.bad && n.kind == Kind::Tunnel) && news.len() == 2);
        let news = watch.look(view(vec![tunnel(0, "up", 7), tunnel(1, "down", 0)]), 3.0);
        assert_eq!(texts(&news)[0], "the tunnel to 10.0.0.1:51820 (a, b) of worker 0 is up");
        assert_eq!(texts(&news)[1], "the tunnel to 10.0.0.1:51820 of worker 0: nobody answers");
        assert_eq!(texts(&watch.look(view(vec![tunnel(0, "up", 9), tunnel(1, "down", 0)]), 4.0)).len(), 0);
    }

    #[test]
    fn a_look_that_takes_long_is_not_taken_again_soon() {
        let mut watch = Watch::default();
        assert!(watch.is_due(0.0));
        watch.rest(1.0, 1.001);
        assert!(watch.is_due(1.9), "once a second is often enough for what takes a millisecond");
        watch.rest(2.0, 2.2);
        assert!(!watch.is_due(8.0) && watch.is_due(8.3));
    }

    #[test]
    fn what_is_wanted_of_a_backend_is_told_with_whose_word_it_is() {
        let mut watch = Watch::default();
        let said = |state: &str, by: &str| {
            let mut one = backend("a", "up");
            one.in_force.as_mut().unwrap().state = state.into();
            one.in_force_by = Some(by.into());
            of(vec![one])
        };
        watch.look(said("up", "file"), 0.0);
        for (state, by) in [("draining", "operator"), ("down", "agent"), ("draining", "file"), ("up", "file")] {
            let news = watch.look(said(state, by), 1.0);
            assert_eq!(news.len(), 1, "{news:?}");
            assert!(news[0].fields.contains(&("by", by.to_string())), "{news:?}");
            assert!(news[0].fields.contains(&("state", state.to_string())), "{news:?}");
        }
    }

    #[test]
    fn keys_are_told_when_they_come_and_go_and_servers_that_do_not_take_their_own_tickets() {
        let with = |names: &[&str], takes_own| {
            let mut one = backend("a", "up");
            let names: Vec<_> = names.iter().map(|n| n.to_string()).collect();
            let ages = vec![1.0; names.len()];
            one.observed.keys = Some(TicketKeys { state: "named".into(), names, ages, takes_own, failed: None });
            of(vec![one])
        };
        let mut watch = Watch::default();
        watch.look(with(&["aa"], Some(true)), 0.0);
        let news = watch.look(with(&["bb", "cc"], Some(false)), 1.0);
        assert_eq!(news.len(), 4, "{news:?}");
        assert!(
            texts(&news)[..3]
                .iter()
                .zip(["bb is learned", "cc is learned", "aa is retired"])
                .all(|(t, e)| t.contains(e))
        );
        assert!(news[3].kind == Kind::Tickets && news[3].bad);
        assert_eq!(texts(&watch.look(with(&["bb", "cc"], Some(true)), 2.0)), ["backend a takes its own tickets again"]);
    }

    #[test]
    fn overrides_are_told_when_they_are_made_and_when_they_are_over_and_not_because_they_age() {
        let said = |since, left| Override { what: "drain a".into(), who: "uid 0".into(), since, left, why: None };
        let view = |all: Vec<Override>| View { overrides: all, ..View::default() };
        let mut watch = Watch::default();
        watch.look(view(vec![]), 0.0);
        assert_eq!(texts(&watch.look(view(vec![said(0, Some(60))]), 1.0)), ["override: drain a for 60 s, says uid 0"]);
        assert_eq!(watch.look(view(vec![said(5, Some(55))]), 6.0), []);
        assert_eq!(texts(&watch.look(view(vec![]), 61.0)), ["override is over: drain a (of uid 0)"]);
    }

    #[test]
    fn links_and_workers_are_told_of_and_what_happens_between_two_looks_as_well() {
        let view = |up, downs, reopened, worker| View {
            ports: vec![Port { name: "wan".into(), up, downs, reopened }],
            workers: vec![worker],
            ..View::default()
        };
        let well = Worker { running: true, overruns: 0, longest: 0.001 };
        let mut watch = Watch::default();
        watch.look(view(Some(true), 0, 0, well), 0.0);
        let slow = Worker { overruns: 2, longest: 0.12, ..well };
        let news = watch.look(view(Some(false), 1, 0, slow), 1.0);
        assert_eq!(texts(&news)[0], "port wan: its link is down");
        assert_eq!(news[1].fields[2], ("count", "2".to_string()));
        assert_eq!(texts(&watch.look(view(Some(true), 1, 1, slow), 2.0)).len(), 2);
        assert!(watch.look(view(Some(true), 4, 1, slow), 3.0)[0].text.contains("3 times"));
        let dead = watch.look(view(Some(true), 4, 1, Worker { running: false, ..slow }), 4.0);
        assert_eq!(texts(&dead), ["worker 0 has ended"]);
    }

    #[test]
    fn a_table_is_told_of_when_it_fills_and_when_it_has_room_and_not_for_each_client_between() {
        let mut watch = Watch::default();
        let mut look = |used, lost, now| {
            let no_room = vec![("flow-table-full".to_string(), lost)];
            watch.look(View { tables: vec![("flow", used, 100)], no_room, ..View::default() }, now)
        };
        assert_eq!(look(89, 0, 0.0), []);
        assert_eq!(texts(&look(90, 0, 1.0)), ["the flow table is nearly full: 90 of 100"]);
        assert_eq!((look(80, 0, 2.0), look(95, 0, 3.0)), (vec![], vec![]));
        assert!(look(95, 7, 4.0)[0].text.contains("flow-table-full (7 since"));
        // A flood: one line a minute.
        let told: usize = (0..120).map(|s| look(95, 1000 + s, 5.0 + s as f64).len()).sum();
        assert_eq!(told, 2);
        assert_eq!(texts(&look(74, 1119, 130.0))[0], "the flow table is no longer nearly full: 74 of 100");
    }
}
