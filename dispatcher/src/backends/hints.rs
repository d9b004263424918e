//! What connections show that whoever asks backends should know: collected here, and taken now and then.

use lb::{BackendId, BackendSet};

/// What was seen since it was taken last.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Hints {
    /// They speak TLS. Each is told once.
    pub tls: BackendSet,
    /// Clients bring tickets that no known key explains, and one of these may have issued them.
    pub strange_tickets: BackendSet,
    /// They took connections of several clients, one after the other, and answered none of their hellos.
    pub suspects: BackendSet,
}

/// So many hosts must have been left without an answer, with none answered between;
const HOSTS: u32 = 3;
/// or so many connections, if all clients come from a few addresses.
const CONNECTIONS: u16 = 8;

/// Collects them.
#[derive(Debug)]
pub struct Noticed {
    hints: Hints,
    /// There is something to take.
    news: bool,
    /// Those told already of whom it is known that they speak TLS.
    told: BackendSet,
    /// By slot: the hosts that were left without an answer since the last answer, a bit each, of which several may have the same one; and how many
    /// connections were.
    unanswered: Box<[(u64, u16)]>,
}

impl Default for Noticed {
    fn default() -> Noticed {
        let unanswered = vec![(0, 0); lb::MAX_BACKENDS].into();
        Noticed { hints: Hints::default(), news: false, told: BackendSet::EMPTY, unanswered }
    }
}

impl Noticed {
    /// A backend has answered a hello by one.
    #[inline]
    pub fn spoke_tls(&mut self, backend: BackendId) {
        if let Some(all) = self.unanswered.get_mut(backend.index()) {
            *all = (0, 0);
        }
        if self.told.insert(backend) {
            self.hints.tls.insert(backend);
            self.news = true;
        }
    }

    /// A ticket that nobody knows came for one of these.
    #[inline]
    pub fn strange_ticket(&mut self, among: &BackendSet) {
        self.hints.strange_tickets = self.hints.strange_tickets.union(among);
        self.news = true;
    }

    /// A backend has taken a connection of a client (see [`lb::Sighting::client`]), and not a byte of an answer to its hello has come. A client may have
    /// left too soon, and any may lie: it is a reason to ask, and no more.
    pub fn left_unanswered(&mut self, backend: BackendId, client: u64) {
        let Some(all) = self.unanswered.get_mut(backend.index()) else { return };
        *all = (all.0 | 1 << (client as u32 % 64), all.1 + 1);
        if all.0.count_ones() >= HOSTS || all.1 >= CONNECTIONS {
            *all = (0, 0);
            self.hints.suspects.insert(backend);
            self.news = true;
        }
    }

    /// The slot has another holder.
    pub fn forget(&mut self, backend: BackendId) {
        let Hints { tls, strange_tickets, suspects } = &mut self.hints;
        for set in [tls, strange_tickets, suspects, &mut self.told] {
            set.remove(backend);
        }
        if let Some(all) = self.unanswered.get_mut(backend.index()) {
            *all = (0, 0);
        }
    }

    /// What was seen, once.
    #[inline]
    pub fn take(&mut self) -> Option<Hints> {
        core::mem::take(&mut self.news).then(|| core::mem::take(&mut self.hints))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_hosts_or_eight_connections_without_an_answer_between_make_a_suspect() {
        let client = |host: u32| lb::affinity::client(7, host);
        let mut noticed = Noticed::default();
        let one = BackendId(4000);
        (0..7).for_each(|_| noticed.left_unanswered(one, client(1)));
        assert!(noticed.take().is_none());
        noticed.spoke_tls(one);
        assert!(noticed.take().unwrap().suspects.is_empty());
        (1..3).for_each(|host| noticed.left_unanswered(one, client(host)));
        assert!(noticed.take().is_none());
        noticed.left_unanswered(one, client(3));
        assert_eq!(noticed.take().unwrap().suspects, BackendSet::one(one));
        (0..7).for_each(|_| noticed.left_unanswered(one, client(1)));
        assert!(noticed.take().is_none());
        noticed.left_unanswered(one, client(1));
        assert_eq!(noticed.take().unwrap().suspects, BackendSet::one(one));
    }
}
