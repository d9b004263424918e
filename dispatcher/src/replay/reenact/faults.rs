//! What an end or a host minds in what it is sent: counted, and the first of it told by name.

/// What no correct peer would have sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// So often.
    pub count: u64,
    /// What it was the first time.
    pub first: Option<&'static str>,
}

impl Faults {
    /// Counts `what`, if it is so.
    pub fn add(&mut self, so: bool, what: &'static str) {
        if so {
            self.count += 1;
            self.first.get_or_insert(what);
        }
    }

    /// Counts what somebody else has found.
    pub fn join(&mut self, other: Faults) {
        self.count += other.count;
        self.first = self.first.or(other.first);
    }
}
