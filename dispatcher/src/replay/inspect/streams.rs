//! TCP: everything that both directions of a connection say.

use super::report::{Findings, StreamReport, time_string};
use crate::replay::dialogue::{Began, Dialogue};
use crate::replay::reassembly::{At, Connection, Handler, Turn, Way};

pub(super) struct Inspector;

/// What is kept of a connection.
pub(super) struct State {
    dialogue: Dialogue,
    findings: Findings,
}

impl Handler for Inspector {
    type State = State;

    fn opened(&mut self, _: &Connection) -> State {
        State { dialogue: Dialogue::new(), findings: Findings::default() }
    }

    fn wants(&self, state: &State, way: Way) -> bool {
        state.dialogue.wants(way)
    }

    fn data(&mut self, connection: &mut Connection, state: &mut State, way: Way, bytes: &[u8], at: At) -> Turn {
        let findings = &mut state.findings;
        state.dialogue.data(connection, way, bytes, &mut |_, event| findings.note(event, at))
    }

    fn gap(&mut self, _: &mut Connection, state: &mut State, way: Way, _: u64, _: At) {
        state.dialogue.gap(way);
    }

    fn ended(&mut self, connection: &Connection, state: &mut State) {
        state.dialogue.ended(connection);
    }
}

impl State {
    /// The stream as it is reported, once the connection has ended.
    pub fn report(&self, connection: &Connection) -> StreamReport {
        let class = match self.dialogue.began() {
            Began::Tls => "secure",
            Began::NotTls => "non-secure",
            Began::Missed => "unknown",
            Began::Unknown if connection.began_late => "unknown",
            // A client whose data were never recorded; or one that only listened, as where the server speaks first.
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
            resumed: self.dialogue.resumed(),
        }
    }
}
