//! An adversary that knows how sessions are learned, among honest clients that come back: what he can do to them.
//!
//! Two worlds go step by step beside each other: the same engine, servers, clients, addresses and clock, one of them with the liar. Each
//! time an honest client comes back, in both, with the same session, and is *misled* when it is resumed in the world without him and not in
//! his. So what honest clients owe to chance alone (an unknown key, an expired one) is no fault of anybody's. Whenever the worlds differ,
//! for better or worse, the client begins anew in both, so that each return is a fair comparison.
//!
//! The engine runs with the flags' defaults, on Maglev by the client's address: what load does to decisions is the same in both worlds.
//! Tables are small, so that they can be filled. The liar has one IPv6 /64 and two IPv4 addresses. He sees others' tickets and IDs, but
//! not their secrets, and has sessions of his own at every server.
//!
//! * [`hello`]: hellos as they are sent, and as servers read them. [`server`]: servers' TLS, as true as needed.
//! * [`stage`]: the engine among TCP peers made by hand. [`lies`]: what the liar does.

pub mod hello;
pub mod lies;
pub mod server;
pub mod stage;

use crate::config::{pool, two_armed};
use crate::rng::Rng;
use crate::tls::{message, record};
use core::time::Duration;
use dispatcher::engine::{Config, Limits};
use hello::Draft;
use lb::MemberSpec;
use lb::affinity::{Census, Reason};
use lb::{BackendId, Identity, IdentityKind, Millis, Offered};
use lies::{Liar, Trick};
use server::{Outcome, Prefix, Repeated, Session, Site, binder};
use sha2::{Digest, Sha256};
use stage::Stage;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Servers; each has a backend of either family.
const SITES: usize = 6;
/// Honest clients.
const CLIENTS: usize = 48;
/// Seconds that an honest client waits before it repeats itself, and how often it does.
const PATIENCE: usize = 12;

/// What came of a play.
#[derive(Clone, Default, Debug, PartialEq, Eq)]
pub struct Report {
    /// Connections of honest clients, in each world.
    pub honest: u64,
    /// Those that offered a session.
    pub returns: u64,
    /// Of these, resumed in the world without the liar.
    pub resumed: u64,
    /// Resumed there and not here, or not even served.
    pub misled: u64,
    /// Resumed here and not there: he taught the tables something true.
    pub helped: u64,
    /// Connections of the liar.
    pub lies: u64,
    /// Identities that only he made and that a row names in the end.
    pub invented: u64,
    /// Sessions in honest hands in the end that the tables of the world without him lead to the right server, and his do not.
    pub lost: u64,
    /// Frames into the engine, in both worlds.
    pub frames: u64,
    /// Rows in the end, with him.
    pub rows: Rows,
    /// Without him.
    pub rows_without: Rows,
    /// The first that was misled, or else lost.
    pub first: Option<String>,
}

/// How many rows there are of each kind.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Rows {
    /// Session IDs.
    pub ids: u64,
    /// Exact tickets.
    pub tickets: u64,
    /// Key names.
    pub names: u64,
    /// Prefixes seen once.
    pub candidates: u64,
    /// Unknown names that were refused.
    pub refusals: u64,
}

impl core::ops::AddAssign for Rows {
    fn add_assign(&mut self, other: Rows) {
        self.ids += other.ids;
        self.tickets += other.tickets;
        self.names += other.names;
        self.candidates += other.candidates;
        self.refusals += other.refusals;
    }
}

impl core::fmt::Display for Rows {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Rows { ids, tickets, names, candidates, refusals } = self;
        write!(
            f,
            "{ids} IDs, {tickets} tickets, {names} key names, {candidates} prefixes seen once, {refusals} refused names"
        )
    }
}

impl From<Census> for Rows {
    fn from(c: Census) -> Rows {
        let [ids, tickets, names, candidates, refusals] =
            [c.session_ids, c.tickets, c.key_names, c.candidates, c.refusals].map(|n| n as u64);
        Rows { ids, tickets, names, candidates, refusals }
    }
}

struct Guest {
    homes: [IpAddr; 2],
    port: u16,
    tls13: bool,
    tickets: bool,
    /// Sends the digest of its ticket as session ID, as OpenSSL does, instead of a random one.
    digests: bool,
    held: Vec<Session>,
}

struct Play {
    rng: Rng,
    with: Stage,
    without: Stage,
    guests: Vec<Guest>,
    liar: Liar,
    report: Report,
}

fn addresses(n: usize) -> [IpAddr; 2] {
    let n = n as u16;
    if n.is_multiple_of(2) {
        [IpAddr::V4(Ipv4Addr::new(203, n as u8, 113, 5)), IpAddr::V4(Ipv4Addr::new(100, 64, n as u8, 77))]
    } else {
        [0, 0x100].map(|away| IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, n + away, 1, 0, 0, 0, 5)))
    }
}

fn sites(rng: &mut Rng) -> Vec<Site> {
    let mut sites: Vec<Site> = (0..SITES).map(|n| Site::new(n, rng.u64())).collect();
    for site in &mut sites {
        site.repeated = [Repeated::Refused, Repeated::First, Repeated::Last][rng.below(3)];
        site.later_bytes_win = rng.per_mille(500);
    }
    // TLS 1.2 alone, by session IDs only: what they make of tickets is nothing.
    (sites[1].tls13, sites[1].tickets, sites[1].cache) = (false, false, true);
    let other = sites[2].clone();
    sites[3].shares_keys_of(&other);
    // Tickets without names, and a cache that is asked behind a ticket, too.
    (sites[4].prefix, sites[4].cache, sites[4].cache_behind_ticket) = (Prefix::Nothing, true, true);
    (sites[5].cache, sites[5].tls13) = (true, rng.per_mille(500));
    sites[5].cache_behind_ticket = rng.per_mille(500);
    // At one server only: where several have the same, chance decides about their TLS 1.3 sessions in either world.
    if rng.per_mille(250) {
        sites[5].prefix = Prefix::Constant;
    }
    sites
}

fn config(rng: &mut Rng) -> Config {
    let both: Vec<MemberSpec> = [false, true].into_iter().flat_map(|v6| pool(SITES, v6).backends).collect();
    let sessions = [512, 1024, 4096][rng.below(3)];
    let limits = Limits { flows: 32_768, hellos: 64, watches: 64, sessions, ..Limits::default() };
    Config { limits, ..two_armed(1, false) }.pool(|pool| pool.backends.clone_from(&both))
}

/// What ends a client's part of the handshake.
fn finish(outcome: &Outcome) -> Vec<u8> {
    let changed = record(20, &[1]);
    match (outcome.tls13, outcome.resumed) {
        (true, _) => [changed, record(23, &[0xf1; 60])].concat(),
        (false, Some(true)) => [changed, record(22, &[0xf1; 40])].concat(),
        (false, _) => [record(22, &message(16, &[0x0c; 33])), changed, record(22, &[0xf1; 40])].concat(),
    }
}

/// A hello that offers sessions, of one who has their secrets.
fn offering(sessions: &[&Session], tls13: bool, share: bool, random: [u8; 32], session_id: Vec<u8>) -> Draft {
    let of = |kind| sessions.iter().filter(move |s| s.kind == kind);
    let psks: Vec<_> = of(IdentityKind::Psk).map(|s| (s.bytes.clone(), binder(&s.bytes, &random))).collect();
    Draft {
        random,
        session_id: of(IdentityKind::SessionId).next().map_or(session_id, |s| s.bytes.clone()),
        tls13,
        share,
        psks: if psks.is_empty() { vec![] } else { vec![psks] },
        tickets: of(IdentityKind::Ticket).map(|s| s.bytes.clone()).collect(),
        ..Draft::default()
    }
}

/// An honest visit in one world. None: it was not served.
fn visit(stage: &mut Stage, from: SocketAddr, draft: &Draft) -> Option<Outcome> {
    stage.open(from, 1000);
    let mut said = 0;
    for _ in 0..PATIENCE {
        loop {
            let outcome = stage.outcomes.get(&draft.random).cloned().unwrap_or_default();
            let next = match said {
                0 if stage.stands(from) => draft.bytes(),
                1 if outcome.retried => Draft { share: true, ..draft.clone() }.bytes(),
                1 | 2 if outcome.resumed.is_some() => finish(&outcome),
                _ => break,
            };
            said = if said == 1 && outcome.resumed.is_none() {
                2
            } else if said == 0 {
                1
            } else {
                3
            };
            stage.send(from, &next);
        }
        if stage.outcomes.get(&draft.random).is_some_and(|o| o.finished) {
            break;
        }
        stage.wait(Duration::from_secs(1));
        stage.nudge(from);
    }
    stage.close(from, false);
    stage.outcomes.remove(&draft.random).filter(|o| o.finished)
}

impl Play {
    /// `change`: to the configuration of the world with the liar.
    fn new(seed: u64, only: Option<Trick>, change: impl FnOnce(&mut Config)) -> Play {
        let mut rng = Rng::new(seed ^ 0x11a2_0000);
        let (sites, config) = (sites(&mut rng), config(&mut rng));
        let secret: [u8; 32] = rng.bytes(32).try_into().expect("32 bytes");
        let guests = (0..CLIENTS)
            .map(|n| {
                let tls13 = rng.per_mille(650);
                Guest {
                    homes: addresses(n),
                    port: 20_000,
                    tls13,
                    tickets: tls13 || rng.per_mille(600),
                    digests: rng.per_mille(500),
                    held: vec![],
                }
            })
            .collect();
        let liar = Liar::new(rng.u64(), only);
        let mut changed = config.clone();
        change(&mut changed);
        let [with, without] = [changed, config].map(|config| Stage::new(config, sites.clone(), secret));
        Play { rng, with, without, guests, liar, report: Report::default() }
    }

    fn honest(&mut self) {
        let Play { rng, with, without, guests, liar, report } = self;
        let which = rng.below(guests.len());
        let guest = &mut guests[which];
        guest.port = if guest.port == 60_000 { 20_000 } else { guest.port + 1 };
        let from = SocketAddr::new(guest.homes[usize::from(rng.per_mille(300))], guest.port);
        let random = rng.bytes(32).try_into().expect("32 bytes");
        let many = if rng.per_mille(150) { 2 } else { 1 };
        let offered: Vec<&Session> = guest.held.iter().rev().take(many).collect();
        let mut id = if guest.tls13 { rng.bytes(32) } else { vec![] };
        if let Some(ticket) = offered.iter().find(|s| s.kind == IdentityKind::Ticket) {
            id = if guest.digests { Sha256::digest(&ticket.bytes).to_vec() } else { rng.bytes(32) };
        }
        let share = !guest.tls13 || rng.per_mille(900);
        let mut draft = offering(&offered, guest.tls13, share, random, id);
        if guest.tickets && draft.tickets.is_empty() {
            draft.tickets.push(vec![]);
        }
        let returns = !offered.is_empty();
        let (here, there) = (visit(with, from, &draft), visit(without, from, &draft));
        let now = with.now.max(without.now);
        with.wait_until(now);
        without.wait_until(now);
        let resumed = |o: &Option<Outcome>| o.as_ref().is_some_and(|o| o.resumed == Some(true));
        report.honest += 1;
        report.returns += u64::from(returns);
        report.resumed += u64::from(resumed(&there));
        report.helped += u64::from(resumed(&here) && !resumed(&there));
        if resumed(&there) && !resumed(&here) || there.is_some() && here.is_none() {
            report.misled += 1;
            report.first.get_or_insert_with(|| {
                let kinds: Vec<_> = offered.iter().map(|s| s.kind.as_str()).collect();
                let what = |o: &Option<Outcome>| o.as_ref().map(|o| (o.site, o.resumed));
                let at = report.honest + liar.connections;
                format!(
                    "connection {at}, client {from}, {kinds:?}, server and whether resumed: without him {:?}, with him {:?}",
                    what(&there),
                    what(&here)
                )
            });
        }
        for session in &offered {
            liar.saw(session);
        }
        match (here, there) {
            (Some(a), Some(b)) if (a.site, a.resumed) == (b.site, b.resumed) => {
                assert_eq!(a.granted, b.granted, "the servers of both worlds are the same");
                // Some keep what they had, and come back with it again.
                if a.resumed == Some(false) || !a.granted.is_empty() && rng.per_mille(800) {
                    guest.held = a.granted;
                }
            }
            _ => guest.held.clear(),
        }
    }

    fn rotate(&mut self) {
        let secret = self.rng.u64();
        let which = [0, 2, 4, 5][self.rng.below(4)];
        for stage in [&mut self.with, &mut self.without] {
            stage.sites[which].rotate(secret);
            if which == 2 {
                let other = stage.sites[2].clone();
                stage.sites[3].shares_keys_of(&other);
            }
        }
    }

    fn pass(&mut self) {
        let time = Duration::from_millis(self.rng.between(5, 35) as u64);
        self.with.wait(time);
        self.without.wait(time);
    }

    fn end(mut self) -> Report {
        // Where tables lead a session: to servers that all take it? Rows of single PSK identities are hints, of which only the last few
        // are kept, and whoever made most of them gives way to any newcomer: they do not count.
        let led = |stage: &Stage, session: &Session, v6: bool| {
            let offered = Offered { kind: session.kind, bytes: &session.bytes };
            let identity = Identity::new(&offered).expect("a session");
            let mine = |b: BackendId| (b.index() >= SITES) == v6;
            let found = stage.engine.affinity().lookup(&[identity], Millis(stage.now.as_millis()), mine);
            let rows = found.decision.filter(|d| d.reason != Reason::Psk);
            rows.map(|d| d.backends.iter().all(|b| stage.sites[b.index() % SITES].takes(session)))
        };
        for guest in &self.guests {
            let v6 = guest.homes[0].is_ipv6();
            for session in &guest.held {
                let (here, there) = (led(&self.with, session, v6), led(&self.without, session, v6));
                if there == Some(true) && here != Some(true) {
                    self.report.lost += 1;
                    let why = || {
                        format!("the {} of {}: {there:?} without him, {here:?} with him", session.kind, guest.homes[0])
                    };
                    self.report.first.get_or_insert_with(why);
                }
            }
        }
        let named = |s: &&Session| [false, true].iter().any(|v6| led(&self.with, s, *v6).is_some());
        self.report.invented = self.liar.inventions().iter().filter(named).count() as u64;
        for (stage, rows) in [(&self.with, &mut self.report.rows), (&self.without, &mut self.report.rows_without)] {
            *rows = stage.engine.sessions(stage.now).census.into();
            self.report.frames += stage.frames;
        }
        self.report.lies = self.liar.connections;
        // Whatever is still held by whoever is silent is taken back.
        let Play { mut with, report, .. } = self;
        with.wait(Duration::from_secs(700));
        with.check();
        let left = (with.engine.flows(), with.engine.held_hellos(), with.engine.watched());
        assert_eq!(left, (0, 0, 0), "flows, hellos and watches that are never given back");
        report
    }
}

/// A play of so many connections in all.
pub fn play(seed: u64, connections: u64) -> Report {
    play_changed(seed, connections, None, |_| ())
}

/// A play in which the liar has one trick only, and in which the engine of his world is told something else: to see that the comparison
/// finds what is worse.
pub fn play_changed(seed: u64, connections: u64, only: Option<Trick>, change: impl FnOnce(&mut Config)) -> Report {
    let mut play = Play::new(seed, only, change);
    let every = (connections / 12).max(200);
    let (mut rotation, mut alone) = (every, 0u32);
    loop {
        let done = play.report.honest + play.liar.connections;
        if done >= connections {
            return play.end();
        }
        if done >= rotation {
            rotation += every;
            play.rotate();
            // He is the first to know a new key.
            alone = [0, 10, 40][play.rng.below(3)];
        }
        if alone > 0 || done > connections / 12 && play.rng.per_mille(700) {
            alone = alone.saturating_sub(1);
            play.liar.lie(&mut play.with);
        } else {
            play.honest();
        }
        play.pass();
        if play.rng.per_mille(20) {
            play.with.check();
            play.without.check();
        }
    }
}
