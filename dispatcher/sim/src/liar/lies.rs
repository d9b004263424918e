//! What the liar does. His aim is that rows say what is not so: that others' sessions are where they are not, or nowhere.

use super::hello::Draft;
use super::server::{Outcome, Session, binder};
use super::stage::{Lie, Stage};
use super::{finish, offering};
use crate::rng::Rng;
use crate::script::{ACK, RST};
use core::time::Duration;
use dispatcher::wire::packet::Flags;
use lb::IdentityKind;
use sha2::{Digest, Sha256};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Sessions kept of each server, of others, and inventions remembered.
const OWN: usize = 40;
const SEEN: usize = 64;
const INVENTED: usize = 4000;
/// Hellos that are to have the same length have this.
const SIZE: usize = 900;

/// What he may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trick {
    /// Genuine sessions, by the thousand.
    Begin,
    /// Another identity in the second hello than in the first, by TCP's means too.
    Swap,
    /// A ticket beside an ID, of which one is good.
    Beside,
    /// Garbage under the names of living keys.
    Refusals,
    /// An extension that comes twice.
    Repeat,
    /// Silence at every point.
    Stall,
    /// Others' tickets and PSK identities.
    Borrow,
    /// Others' session IDs.
    BorrowId,
    /// Anything.
    Anything,
}

impl Trick {
    /// All.
    pub const ALL: [Trick; 9] = [
        Trick::Begin,
        Trick::Swap,
        Trick::Beside,
        Trick::Refusals,
        Trick::Repeat,
        Trick::Stall,
        Trick::Borrow,
        Trick::BorrowId,
        Trick::Anything,
    ];
}

/// How often each is drawn, of a hundred: all up to it together.
const OFTEN: [usize; Trick::ALL.len()] = [22, 43, 58, 70, 76, 82, 87, 91, 100];

/// One IPv6 /64, two IPv4 addresses.
pub struct Liar {
    rng: Rng,
    only: Option<Trick>,
    port: u16,
    /// Own sessions, by server.
    own: Vec<Vec<Session>>,
    /// Of others, and whether they came by IPv6.
    seen: Vec<Session>,
    inventions: Vec<Session>,
    /// A name that he made up, and how often he will still use it.
    name: ([u8; 16], u32),
    /// Made so far.
    pub connections: u64,
}

impl Liar {
    /// With nothing yet. `only`: one trick, besides sessions of his own.
    pub fn new(seed: u64, only: Option<Trick>) -> Liar {
        Liar {
            rng: Rng::new(seed),
            only,
            port: 1024,
            own: vec![],
            seen: vec![],
            inventions: vec![],
            name: ([0; 16], 0),
            connections: 0,
        }
    }

    /// An honest client from there offered this: he looks on.
    pub fn saw(&mut self, session: &Session) {
        let at = self.rng.below(SEEN);
        if self.seen.len() < SEEN { self.seen.push(session.clone()) } else { self.seen[at] = session.clone() }
    }

    /// A session of others, to be offered.
    fn theirs(&mut self, fits: fn(IdentityKind) -> bool) -> Option<Session> {
        let fit: Vec<_> = self.seen.iter().filter(|s| fits(s.kind)).collect();
        (!fit.is_empty()).then(|| fit[self.rng.below(fit.len())].clone())
    }

    /// Identities that no server ever made, whole and by their names: no row may name them.
    pub fn inventions(&self) -> &[Session] {
        &self.inventions
    }

    /// One attack, of one connection or a few.
    pub fn lie(&mut self, stage: &mut Stage) {
        self.own.resize(stage.sites.len(), vec![]);
        let drawn = self.rng.below(100);
        let trick = match self.only {
            // Each needs sessions of his own.
            Some(_) if drawn < 30 => Trick::Begin,
            Some(trick) => trick,
            None => Trick::ALL[OFTEN.iter().position(|upto| drawn < *upto).expect("below 100")],
        };
        match trick {
            Trick::Begin => self.begin_session(stage),
            Trick::Swap => self.swap_over_retry(stage),
            Trick::Beside => self.ticket_beside_id(stage),
            Trick::Refusals => self.forge_refusals(stage),
            Trick::Repeat => self.repeat_extensions(stage),
            Trick::Stall => self.stall(stage),
            Trick::Borrow => self.borrow(stage, |kind| kind != IdentityKind::SessionId),
            Trick::BorrowId => self.borrow(stage, |kind| kind == IdentityKind::SessionId),
            Trick::Anything => self.anything(stage),
        }
    }

    fn from(&mut self) -> SocketAddr {
        self.connections += 1;
        if !self.rng.per_mille(30) {
            self.port = if self.port == 65_000 { 1024 } else { self.port + 1 };
        }
        let low = self.rng.u64();
        let word = |n: u32| (low >> (16 * n)) as u16;
        let ip = match self.rng.below(4) {
            0 => IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7)),
            1 => IpAddr::V4(Ipv4Addr::new(192, 0, 2, 9)),
            _ => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xbad, 1, word(0), word(1), word(2), word(3))),
        };
        SocketAddr::new(ip, self.port)
    }

    fn random(&mut self) -> [u8; 32] {
        self.rng.bytes(32).try_into().expect("32 bytes")
    }

    fn own(&mut self, site: usize, kind: IdentityKind) -> Option<Session> {
        let fit: Vec<&Session> = self.own[site].iter().filter(|s| s.kind == kind).collect();
        (!fit.is_empty()).then(|| fit[self.rng.below(fit.len())].clone())
    }

    fn own_anywhere(&mut self, kind: IdentityKind) -> Option<Session> {
        let first = self.rng.below(self.own.len());
        (0..self.own.len()).find_map(|n| self.own((first + n) % self.own.len(), kind))
    }

    /// What he would like to see credited or refused: inventions, garbage under names of living keys and of those nobody used yet, and
    /// what others hold.
    fn poison(&mut self, stage: &Stage, kind: IdentityKind) -> Vec<u8> {
        let garbage = self.rng.bytes(76);
        match self.rng.below(8) {
            0..3 => {
                if self.name.1 == 0 {
                    self.name = (self.rng.bytes(16).try_into().expect("16 bytes"), 3);
                }
                self.name.1 -= 1;
                let bytes = [&self.name.0[..], &garbage].concat();
                let at = self.rng.below(INVENTED);
                let invention = Session { kind, bytes: bytes.clone() };
                if self.inventions.len() < INVENTED {
                    self.inventions.push(invention)
                } else {
                    self.inventions[at] = invention
                }
                bytes
            }
            3..6 => {
                let site = &stage.sites[self.rng.below(stage.sites.len())];
                let names: Vec<[u8; 16]> = site.names().collect();
                // The newest mostly.
                let which = if self.rng.per_mille(800) { 0 } else { names.len() - 1 };
                [&names[which][..], &garbage].concat()
            }
            6 => self.theirs(|_| true).map_or(garbage, |s| s.bytes),
            _ => garbage,
        }
    }

    fn outcome(stage: &Stage, draft: &Draft) -> Outcome {
        stage.outcomes.get(&draft.random).cloned().unwrap_or_default()
    }

    /// Opens and says this; what came of it.
    fn say(stage: &mut Stage, from: SocketAddr, draft: &Draft) -> Outcome {
        stage.open(from, 1000);
        stage.send(from, &draft.bytes());
        Liar::outcome(stage, draft)
    }

    /// Ends the handshake, so often in a thousand and if there is one to end, keeps what it brought, and leaves in one way or another.
    fn leave(&mut self, stage: &mut Stage, from: SocketAddr, draft: &Draft, completes: u32) {
        let outcome = Liar::outcome(stage, draft);
        if self.rng.per_mille(completes) && outcome.resumed.is_some() {
            stage.send(from, &finish(&outcome));
            let Some(outcome) = stage.outcomes.get(&draft.random) else { return };
            let held = &mut self.own[outcome.site];
            held.extend(outcome.granted.iter().cloned());
            let more = held.len().saturating_sub(OWN);
            held.drain(..more);
        }
        stage.outcomes.remove(&draft.random);
        match self.rng.below(8) {
            0 => stage.vanish(from),
            1..4 => stage.close(from, true),
            _ => stage.close(from, false),
        }
    }

    fn begin_session(&mut self, stage: &mut Stage) {
        let (from, random) = (self.from(), self.random());
        let tls13 = self.rng.per_mille(500);
        let mut draft = offering(&[], tls13, true, random, if tls13 { vec![3; 32] } else { vec![] });
        if self.rng.per_mille(500) {
            draft.tickets.push(vec![]);
        }
        Liar::say(stage, from, &draft);
        self.leave(stage, from, &draft, 1000);
    }

    /// Another identity in the second hello than in the first; both may be told apart by the network's order only.
    fn swap_over_retry(&mut self, stage: &mut Stage) {
        let (from, random) = (self.from(), self.random());
        let poison = self.poison(stage, IdentityKind::Psk);
        let junk = |bytes: Vec<u8>| (bytes, vec![5; 32]);
        let first = Draft {
            random,
            session_id: vec![1; 32],
            tls13: true,
            psks: vec![vec![junk(poison.clone())]],
            at_least: SIZE,
            ..Draft::default()
        };
        let outcome = Liar::say(stage, from, &first);
        if !outcome.retried {
            return self.leave(stage, from, &first, 500);
        }
        let Some(own) = self.own(outcome.site, IdentityKind::Psk) else {
            stage.send(from, &Draft { share: true, psks: vec![], ..first.clone() }.bytes());
            return self.leave(stage, from, &first, 1000);
        };
        let good = (own.bytes.clone(), binder(&own.bytes, &random));
        let psks = match self.rng.below(4) {
            0 => vec![vec![good, junk(poison)]],
            1 => vec![vec![junk(poison), good]],
            _ => vec![vec![good]],
        };
        let second = Draft { share: true, psks, ..first.clone() };
        let what = second.bytes();
        if self.rng.per_mille(500) {
            let other = Draft { share: true, ..first.clone() }.bytes();
            self.send_twice(stage, from, &other, &what);
        } else {
            stage.send(from, &what);
        }
        self.leave(stage, from, &first, 700);
    }

    /// The same numbers with two contents, of which the server is to take `what`, and whoever reads along `shown`.
    fn send_twice(&mut self, stage: &mut Stage, from: SocketAddr, shown: &[u8], what: &[u8]) {
        let Some(at) = stage.client(from).map(|c| c.at()) else { return };
        let lie = |payload: &[u8], off: usize| Lie {
            seq: at + off as u32,
            payload: payload[off..].to_vec(),
            ..Lie::default()
        };
        let (show, say) = (lie(shown, 0), lie(what, 0));
        let half = what.len().min(shown.len()) / 2;
        let head = Lie { payload: what[..half].to_vec(), ..say.clone() };
        let shown_head = Lie { payload: shown[..half].to_vec(), ..show.clone() };
        let lies = match self.rng.below(13) {
            0 => vec![Lie { spoilt: true, ..show }, say],
            1 => vec![Lie { ip_spoilt: true, ..show }, say],
            2 => vec![Lie { old: 100_000, ..show }, say],
            3 => vec![Lie { ack_off: 50_000, ..show }, say],
            4 => vec![Lie { flags: Some(Flags(8)), ..show }, say],
            5 => vec![Lie { flags: Some(Flags(ACK.0 | 2)), ..show }, say],
            6 => vec![say, show],
            7 => vec![lie(shown, half), lie(what, half), head],
            8 => vec![lie(what, half), lie(shown, half), head],
            9 => vec![lie(what, half), shown_head, head],
            10 => vec![
                Lie { flags: Some(Flags(RST.0 | ACK.0)), seq: at + 7, payload: vec![], ..Lie::default() },
                show,
                say,
            ],
            11 => {
                stage.lose = 1;
                vec![show, say]
            }
            _ => vec![
                Lie { seq: at.wrapping_sub(3), payload: [&[9; 3], shown].concat(), spoilt: true, ..Lie::default() },
                say,
            ],
        };
        stage.lie(from, &lies);
        stage.lose = 0;
        stage.believe(from, what);
    }

    /// A ticket that the server does not look at, or cannot open, beside an ID that it resumes; and the other way round.
    fn ticket_beside_id(&mut self, stage: &mut Stage) {
        let (from, random) = (self.from(), self.random());
        let ticket = self.poison(stage, IdentityKind::Ticket);
        let id = match self.rng.below(6) {
            0 => Sha256::digest(&ticket).to_vec(),
            1 => self.theirs(|_| true).map_or(vec![4; 32], |s| s.bytes),
            _ => self.own_anywhere(IdentityKind::SessionId).map_or(vec![4; 32], |s| s.bytes),
        };
        let own = if self.rng.per_mille(150) { self.own_anywhere(IdentityKind::Ticket) } else { None };
        let draft = Draft {
            random,
            session_id: id[..id.len().min(32)].to_vec(),
            tickets: vec![own.map_or(ticket, |s| s.bytes)],
            ..Draft::default()
        };
        Liar::say(stage, from, &draft);
        self.leave(stage, from, &draft, 600);
    }

    /// Garbage under one name, from all of his addresses.
    fn forge_refusals(&mut self, stage: &mut Stage) {
        let site = self.rng.below(stage.sites.len());
        let newest = stage.sites[site].names().next().expect("a key");
        let psk = self.rng.per_mille(600);
        for _ in 0..self.rng.between(3, 12) {
            let (from, random) = (self.from(), self.random());
            let garbage = [&newest[..], &self.rng.bytes(76)].concat();
            let draft = Draft {
                random,
                other_name: self.rng.per_mille(200),
                session_id: vec![2; 32],
                tls13: psk,
                share: true,
                psks: if psk { vec![vec![(garbage.clone(), vec![5; 32])]] } else { vec![] },
                tickets: if psk { vec![] } else { vec![garbage] },
                ..Draft::default()
            };
            Liar::say(stage, from, &draft);
            self.leave(stage, from, &draft, 0);
            stage.wait(Duration::from_millis(2));
        }
    }

    fn repeat_extensions(&mut self, stage: &mut Stage) {
        let (from, random) = (self.from(), self.random());
        let kind = if self.rng.per_mille(500) { IdentityKind::Psk } else { IdentityKind::Ticket };
        let Some(own) = self.own_anywhere(kind) else {
            return self.leave(stage, from, &Draft { random, ..Draft::default() }, 0);
        };
        let poison = self.poison(stage, kind);
        let turned = self.rng.per_mille(500);
        let mut draft = Draft { random, session_id: vec![6; 32], share: true, ..Draft::default() };
        if kind == IdentityKind::Psk {
            draft.tls13 = true;
            draft.psks = vec![vec![(poison, vec![5; 32])], vec![(own.bytes.clone(), binder(&own.bytes, &random))]];
            if turned {
                draft.psks.reverse();
            }
        } else {
            draft.tickets = vec![poison, own.bytes];
            if turned {
                draft.tickets.reverse();
            }
        }
        Liar::say(stage, from, &draft);
        self.leave(stage, from, &draft, 500);
    }

    /// Stops in the middle, and holds what there is to hold.
    fn stall(&mut self, stage: &mut Stage) {
        for _ in 0..self.rng.between(1, 20) {
            let (from, random) = (self.from(), self.random());
            let tls13 = self.rng.per_mille(500);
            let retry = self.rng.per_mille(300);
            let draft = offering(&[], tls13, !retry, random, vec![8; 32]);
            let bytes = draft.bytes();
            match self.rng.below(8) {
                0 => _ = stage.open(from, 1000),
                1 => {
                    stage.open(from, 1000);
                    stage.send(from, &bytes[..bytes.len() - 1]);
                }
                2 => {
                    stage.open(from, 1000);
                    stage.send(from, &bytes[..1]);
                }
                3 | 4 => {
                    // A window for a part of the answer, and no acknowledgement.
                    stage.open(from, 4);
                    if let Some(c) = stage.client(from) {
                        c.deaf = true;
                    }
                    stage.send(from, &bytes);
                }
                5 => {
                    stage.open(from, 0);
                    stage.send(from, &bytes);
                }
                6 => _ = Liar::say(stage, from, &draft),
                _ => {
                    // A record that never ends, behind the hello or the retry.
                    Liar::say(stage, from, &draft);
                    stage.send(from, &[22, 3, 3, 0x40, 0, 1, 0, 0x3f, 0xf0, 3, 3]);
                }
            }
            stage.outcomes.remove(&random);
            stage.vanish(from);
        }
    }

    /// Others' sessions, as they are, without their secrets; where they were issued, or beside one of his own that leads elsewhere.
    fn borrow(&mut self, stage: &mut Stage, fits: fn(IdentityKind) -> bool) {
        let (from, random) = (self.from(), self.random());
        let Some(theirs) = self.theirs(fits) else { return };
        let mut draft = offering(&[], theirs.kind == IdentityKind::Psk, true, random, vec![9; 32]);
        // So that the very server that issued it refuses it.
        draft.other_name = self.rng.per_mille(300);
        match theirs.kind {
            IdentityKind::Psk => {
                let theirs = (theirs.bytes, vec![5; 32]);
                draft.psks = match self.own_anywhere(IdentityKind::Psk).filter(|_| self.rng.per_mille(600)) {
                    Some(own) => vec![vec![(own.bytes.clone(), binder(&own.bytes, &random)), theirs]],
                    None => vec![vec![theirs]],
                };
            }
            IdentityKind::Ticket => draft.tickets = vec![theirs.bytes],
            IdentityKind::SessionId => {
                draft.session_id = theirs.bytes;
                if let Some(own) = self.own_anywhere(IdentityKind::Ticket).filter(|_| self.rng.per_mille(500)) {
                    draft.tickets = vec![own.bytes];
                }
            }
            // Nobody here speaks plain HTTP.
            IdentityKind::Cookie => return,
        }
        Liar::say(stage, from, &draft);
        self.leave(stage, from, &draft, 300);
    }

    /// A hello put together by chance, its first copy lost or not, another in its place.
    fn anything(&mut self, stage: &mut Stage) {
        let (from, random) = (self.from(), self.random());
        let mut draft = Draft {
            random,
            session_id: if self.rng.per_mille(700) { self.rng.bytes(32) } else { vec![] },
            other_name: self.rng.per_mille(100),
            tls13: self.rng.per_mille(600),
            share: self.rng.per_mille(700),
            at_least: SIZE,
            ..Draft::default()
        };
        let mut psks = vec![];
        for _ in 0..self.rng.below(3) {
            let own = self.own_anywhere(IdentityKind::Psk).filter(|_| self.rng.per_mille(500));
            psks.push(match own {
                Some(own) => (own.bytes.clone(), binder(&own.bytes, &random)),
                None => (self.poison(stage, IdentityKind::Psk), vec![5; 32]),
            });
        }
        if draft.tls13 && !psks.is_empty() {
            draft.psks.push(psks);
        }
        if self.rng.per_mille(500) {
            draft.tickets.push(self.poison(stage, IdentityKind::Ticket));
        }
        if self.rng.per_mille(500) {
            draft.session_id = self.own_anywhere(IdentityKind::SessionId).map_or(vec![], |s| s.bytes);
        }
        if self.rng.per_mille(400) {
            // What we deliver of what we held is lost once, and he repeats it otherwise.
            let own = self.own_anywhere(IdentityKind::Psk);
            let honest = offering(&own.iter().collect::<Vec<_>>(), true, draft.share, random, vec![7; 32]);
            let what = Draft { at_least: SIZE, ..honest }.bytes();
            stage.open(from, 1000);
            let Some(at) = stage.client(from).map(|c| c.at()) else { return };
            stage.lose = 1;
            stage.send(from, &draft.bytes());
            stage.lose = 0;
            stage.lie(from, &[Lie { seq: at, payload: what, ..Lie::default() }]);
        } else {
            Liar::say(stage, from, &draft);
        }
        let outcome = Liar::outcome(stage, &draft);
        if outcome.retried && outcome.resumed.is_none() {
            let own = self.own(outcome.site, IdentityKind::Psk);
            let second = offering(&own.iter().collect::<Vec<_>>(), true, true, random, draft.session_id.clone());
            stage.send(from, &second.bytes());
        }
        self.leave(stage, from, &draft, 500);
    }
}
