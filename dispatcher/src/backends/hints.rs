//! What connections show that whoever asks backends should know: collected here, and taken now and then.

use lb::{BackendId, BackendSet};

/// What was seen since it was taken last.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Hints {
    /// They speak TLS. Each is told once.
    pub tls: BackendSet,
    /// Clients bring tickets that no known key explains, and one of these may have issued them.
    pub strange_tickets: BackendSet,
}

/// Collects them.
#[derive(Debug, Default)]
pub struct Noticed {
    hints: Hints,
    /// There is something to take.
    news: bool,
    /// Those told already of whom it is known that they speak TLS.
    told: BackendSet,
}

impl Noticed {
    /// A backend has answered a hello by one.
    #[inline]
    pub fn spoke_tls(&mut self, backend: BackendId) {
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

    /// The slot has another holder.
    pub fn forget(&mut self, backend: BackendId) {
        for set in [&mut self.hints.tls, &mut self.hints.strange_tickets, &mut self.told] {
            set.remove(backend);
        }
    }

    /// What was seen, once.
    #[inline]
    pub fn take(&mut self) -> Option<Hints> {
        core::mem::take(&mut self.news).then(|| core::mem::take(&mut self.hints))
    }
}
