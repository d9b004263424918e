//! Kinds of trouble.

/// What may go wrong in a storm.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// Frames vanish.
    Loss,
    /// Frames come twice.
    Duplication,
    /// Frames are overtaken.
    Reordering,
    /// Bits flip, on one side's wire.
    Corruption,
    /// The network becomes slow and quick again.
    Delay,
    /// Drivers have no room for what the engine sends.
    Full,
    /// Servers lose power and come back without their sessions. Excuse: connections that were open to one of them then.
    Crash,
    /// The engine stands still for up to two seconds.
    Stall,
    /// The engine's clock leaps ahead, by up to a minute. Excuse: connections that have not got an answer yet.
    Leap,
    /// Paths become narrow, and routers say so.
    Mtu,
    /// Few local ports. Excuse: connections reset before they got an answer.
    Ports,
    /// Small tables. Excuse: connections that were reset.
    Tables,
    /// Strangers forge segments of living connections, with numbers at random.
    Forgery,
    /// Frames of long ago come again.
    Past,
    /// Clients take ports anew that they have just used.
    Reuse,
    /// Some clients lie. Excuse: their own connections.
    EvilClients,
    /// A server lies. Excuse: connections to it.
    EvilServer,
    /// Several workers.
    Workers,
    /// Services, pools and backends come, go and change. Excuse: connections to a server that is removed at once, or to a service that has
    /// gone before they were led anywhere.
    Reconfigure,
    /// An adversary that knows how sessions are learned: a world of its own ([`crate::liar`]), with nothing else in it.
    Liar,
    /// Servers have limits, and clients wait. Excuse: those who waited in vain, and were told so.
    Limits,
    /// Another process takes over, with another number of workers where there are several. No excuse.
    Upgrade,
}

impl Kind {
    /// All.
    pub const ALL: [Kind; 22] = [
        Kind::Loss,
        Kind::Duplication,
        Kind::Reordering,
        Kind::Corruption,
        Kind::Delay,
        Kind::Full,
        Kind::Crash,
        Kind::Stall,
        Kind::Leap,
        Kind::Mtu,
        Kind::Ports,
        Kind::Tables,
        Kind::Forgery,
        Kind::Past,
        Kind::Reuse,
        Kind::EvilClients,
        Kind::EvilServer,
        Kind::Workers,
        Kind::Reconfigure,
        Kind::Liar,
        Kind::Limits,
        Kind::Upgrade,
    ];

    /// The word of the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Loss => "loss",
            Kind::Duplication => "duplication",
            Kind::Reordering => "reordering",
            Kind::Corruption => "corruption",
            Kind::Delay => "delay",
            Kind::Full => "full",
            Kind::Crash => "crash",
            Kind::Stall => "stall",
            Kind::Leap => "leap",
            Kind::Mtu => "mtu",
            Kind::Ports => "ports",
            Kind::Tables => "tables",
            Kind::Forgery => "forgery",
            Kind::Past => "past",
            Kind::Reuse => "reuse",
            Kind::EvilClients => "evil-clients",
            Kind::EvilServer => "evil-server",
            Kind::Workers => "workers",
            Kind::Reconfigure => "reconfigure",
            Kind::Liar => "liar",
            Kind::Limits => "limits",
            Kind::Upgrade => "upgrade",
        }
    }

    /// From the word of the command line.
    pub fn parse(word: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|k| k.as_str() == word)
    }
}

/// A set of kinds.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Kinds(u32);

impl Kinds {
    /// All is well.
    pub const NONE: Kinds = Kinds(0);
    /// Everything goes wrong.
    pub const ALL: Kinds = Kinds((1 << Kind::ALL.len()) - 1);

    /// Whether one is in it.
    pub fn has(self, kind: Kind) -> bool {
        self.0 & 1 << kind as u8 != 0
    }

    /// The set and one more.
    pub fn with(self, kind: Kind) -> Kinds {
        Kinds(self.0 | 1 << kind as u8)
    }

    /// The set but for one.
    pub fn without(self, kind: Kind) -> Kinds {
        Kinds(self.0 & !(1 << kind as u8))
    }

    /// What is in both.
    pub fn and(self, other: Kinds) -> Kinds {
        Kinds(self.0 & other.0)
    }

    /// One after the other.
    pub fn iter(self) -> impl Iterator<Item = Kind> {
        Kind::ALL.into_iter().filter(move |k| self.has(*k))
    }
}

impl FromIterator<Kind> for Kinds {
    fn from_iter<I: IntoIterator<Item = Kind>>(kinds: I) -> Kinds {
        kinds.into_iter().fold(Kinds::NONE, Kinds::with)
    }
}

impl core::fmt::Display for Kinds {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let words: Vec<_> = self.iter().map(Kind::as_str).collect();
        f.write_str(if words.is_empty() { "none".into() } else { words.join(",") }.as_str())
    }
}
