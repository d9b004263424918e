//! A connection that is spliced, and of which nothing more is known than what was agreed at its beginning and will be told at its end: nearly all, nearly
//! always. It takes a third of the memory.

use super::connection::{Agreed, Asked, Connection, Proxy, State};
use super::record::Record;
use crate::flow::Oddities;
use crate::tls::Late;
use crate::wire::Seq;

/// See the module's description. The fields are those of [`Connection`].
#[derive(Debug)]
pub struct Settled {
    pub(super) agreed: Agreed,
    pub(super) isn: Seq,
    pub(super) cookie: Seq,
    pub(super) client_window: u32,
    pub(super) accepted: u16,
    pub(super) proxy: Proxy,
    /// What will be told.
    pub record: Record,
}

// Every flow has room for one.
const _: () = assert!(size_of::<Settled>() <= 136);

impl Connection {
    /// It says no more than a [`Settled`] one can.
    pub fn is_settled(&self) -> bool {
        matches!(self.state, State::Spliced(None))
            && self.odd == [Oddities::default(); 2]
            && self.former == [None; 2]
            && self.renewed.is_none()
            && self.flight.is_none()
            && self.http.is_none()
            && self.handshake.is_none()
            && self.late == Late::No
            && self.asked == Asked::default()
    }
}

impl From<Connection> for Settled {
    fn from(c: Connection) -> Settled {
        debug_assert!(c.is_settled(), "something would be lost: {c:?}");
        let Connection {
            agreed,
            isn,
            cookie,
            client_window,
            accepted,
            proxy,
            record,
            // Of each of these it has what a settled one has.
            state: _,
            renewed: _,
            former: _,
            odd: _,
            asked: _,
            flight: _,
            http: _,
            handshake: _,
            late: _,
        } = c;
        Settled { agreed, isn, cookie, client_window, accepted, proxy, record }
    }
}

impl From<Settled> for Connection {
    fn from(c: Settled) -> Connection {
        let Settled { agreed, isn, cookie, client_window, accepted, proxy, record } = c;
        Connection {
            state: State::Spliced(None),
            agreed,
            isn,
            cookie,
            client_window,
            accepted,
            renewed: None,
            former: [None; 2],
            odd: [Oddities::default(); 2],
            asked: Asked::default(),
            flight: None,
            http: None,
            handshake: None,
            late: Late::No,
            proxy,
            record,
        }
    }
}
