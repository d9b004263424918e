//! TCP: one follower for each direction, and the question how the stream began.

use super::report::{Findings, StreamReport, time_string};
use crate::replay::reassembly::{At, Connection, Handler, Turn, Way};
use ssl_parse::{Event, Follower, Outcome, Side};

/// Longest hello read whole. Longer ones are passed over; tickets of any length are read.
const FOLLOWED: usize = 32 * 1024;

/// Bytes that tell a hello from anything else: a record header, and the type of the message in it.
const TELLING: usize = 6;

pub(super) struct Inspector;

/// What is kept of a connection. The followers go when there is nothing more to learn.
pub(super) struct State {
    directions: [Direction; 2],
    began: Began,
    findings: Findings,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Began {
    /// The client has said nothing yet, or too little to tell.
    Unknown,
    Tls,
    NotTls,
    /// What it said first was not recorded.
    Missed,
}

enum Direction {
    /// Nothing has come yet.
    Fresh,
    /// Of a connection that began late: too few bytes to tell who speaks.
    Peeking(Vec<u8>),
    Following(Box<Follower<FOLLOWED>>),
    Over,
}

impl Handler for Inspector {
    type State = State;

    fn opened(&mut self, _: &Connection) -> State {
        State {
            directions: [Direction::Fresh, Direction::Fresh],
            began: Began::Unknown,
            findings: Findings::default(),
        }
    }

    fn wants(&self, state: &State, way: Way) -> bool {
        !matches!(state.directions[way.index()], Direction::Over)
    }

    fn data(&mut self, connection: &mut Connection, state: &mut State, way: Way, bytes: &[u8], at: At) -> Turn {
        // The other direction is known to be the client's or the server's once its follower runs.
        let other_known = matches!(state.directions[way.reverse().index()], Direction::Following(_))
            || state.began == Began::Tls;
        match &mut state.directions[way.index()] {
            Direction::Over => Turn::Keep,
            Direction::Following(_) => state.follow(way, bytes, at),
            Direction::Fresh if !connection.began_late || other_known => {
                state.start(way);
                state.follow(way, bytes, at)
            }
            direction => {
                let mut head = match std::mem::replace(direction, Direction::Over) {
                    Direction::Peeking(head) => head,
                    _ => Vec::new(),
                };
                head.extend_from_slice(bytes);
                if head.len() < TELLING {
                    state.directions[way.index()] = Direction::Peeking(head);
                    return Turn::Keep;
                }
                let speaker = if !matches!(ssl_parse::client_hello(&head, &mut []), Outcome::NotTls) {
                    Way::ToServer
                } else if !matches!(ssl_parse::server_hello(&head, &mut []), Outcome::NotTls) {
                    Way::ToClient
                } else {
                    return Turn::Keep;
                };
                let turn = if speaker == way {
                    Turn::Keep
                } else {
                    state.directions.swap(0, 1);
                    Turn::Around
                };
                state.start(speaker);
                state.follow(speaker, &head, at);
                turn
            }
        }
    }

    fn gap(&mut self, _: &mut Connection, state: &mut State, way: Way, _: u64, _: At) {
        if way == Way::ToServer && state.began == Began::Unknown {
            state.began = Began::Missed;
        }
        state.directions[way.index()] = Direction::Over;
    }

    fn ended(&mut self, connection: &Connection, state: &mut State) {
        let telling = |way: Way| connection.bytes[way.index()] >= TELLING as u64;
        state.began = match (state.began, &state.directions[0]) {
            // Right as far as it goes, and enough to be sure that it is meant to be a hello.
            (Began::Unknown, Direction::Following(_)) if telling(Way::ToServer) => Began::Tls,
            (Began::Unknown, Direction::Following(_)) => Began::NotTls,
            (began, _) => began,
        };
        state.directions = [Direction::Over, Direction::Over];
    }
}

impl State {
    fn start(&mut self, way: Way) {
        let side = if way == Way::ToServer { Side::Client } else { Side::Server };
        self.directions[way.index()] = Direction::Following(Box::new(Follower::new(side)));
    }

    fn follow(&mut self, way: Way, mut bytes: &[u8], at: At) -> Turn {
        let Direction::Following(follower) = &mut self.directions[way.index()] else { return Turn::Keep };
        while let Some(event) = follower.next_event(&mut bytes) {
            if way == Way::ToServer && self.began == Began::Unknown {
                // Whatever comes first tells: only a hello gets past the follower's first look.
                self.began = if event == Event::NotTls { Began::NotTls } else { Began::Tls };
            }
            self.findings.note(&event, at);
        }
        if way == Way::ToClient {
            self.findings.resumed = follower.resumed();
        }
        if follower.is_done() {
            self.directions[way.index()] = Direction::Over;
        }
        Turn::Keep
    }

    /// The stream as it is reported, once the connection has ended.
    pub fn report(&self, connection: &Connection) -> StreamReport {
        let class = match self.began {
            Began::Tls => "secure",
            Began::NotTls => "non-secure",
            _ if connection.began_late => "unknown",
            Began::Missed => "unknown",
            // A client that only listened, as where the server speaks first; or whose data were never recorded.
            Began::Unknown if connection.lost[Way::ToServer.index()] > 0 => "unknown",
            Began::Unknown if connection.bytes == [0, 0] => "empty",
            Began::Unknown => "non-secure",
        };
        StreamReport {
            proto: "tcp",
            client: connection.client.into(),
            server: connection.server.into(),
            first_frame: connection.first.frame,
            first_time: time_string(connection.first.unix_nanos),
            vlan: connection.vlans.clone(),
            class,
            kind: (class == "secure").then_some("tls"),
            client_hellos: self.findings.client_hellos.clone(),
            server_hellos: self.findings.server_hellos.clone(),
            new_session_tickets: self.findings.tickets.clone(),
            resumed: self.findings.resumed,
        }
    }
}
