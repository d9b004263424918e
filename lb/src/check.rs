//! What is asked of a backend, so that it is known whether it serves: plain data, as somebody wants it.
//!
//! Nothing here asks. A check says what to ask and how often; how many answers in a row make it count is [`Check::rise`] and [`Check::fall`].

use core::fmt;
use core::time::Duration;

/// Between two checks.
pub const INTERVAL: Duration = Duration::from_secs(2);
/// A check that is not told how long it may take has no longer than this, nor than its interval.
pub const TIMEOUT: Duration = Duration::from_secs(2);

/// What is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum CheckKind {
    /// Its TCP port takes a connection.
    #[default]
    Tcp,
    /// It completes a TLS handshake.
    Tls,
    /// It answers an HTTP request by a status that is expected.
    Http,
    /// The same within TLS.
    Https,
}

impl CheckKind {
    /// All of them.
    pub const ALL: [CheckKind; 4] = [CheckKind::Tcp, CheckKind::Tls, CheckKind::Http, CheckKind::Https];

    /// Its word.
    pub const fn as_str(self) -> &'static str {
        match self {
            CheckKind::Tcp => "tcp",
            CheckKind::Tls => "tls",
            CheckKind::Http => "http",
            CheckKind::Https => "https",
        }
    }

    /// TLS is spoken.
    pub const fn is_tls(self) -> bool {
        matches!(self, CheckKind::Tls | CheckKind::Https)
    }

    /// HTTP is spoken.
    pub const fn is_http(self) -> bool {
        matches!(self, CheckKind::Http | CheckKind::Https)
    }
}

impl fmt::Display for CheckKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What an HTTP check asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Method {
    /// The whole answer.
    #[default]
    Get,
    /// Its head.
    Head,
}

impl Method {
    /// As it stands in a request.
    pub const fn as_str(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Head => "HEAD",
        }
    }
}

/// A check of a backend.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Check {
    /// What is asked.
    pub kind: CheckKind,
    /// The server name in its hello; none: no name.
    pub sni: Option<String>,
    /// What is asked for by HTTP.
    pub path: String,
    /// `Host` of the request; none: the server name, or the address.
    pub host: Option<String>,
    /// How it is asked for.
    pub method: Method,
    /// First and last status that is well.
    pub expect: (u16, u16),
    /// From the beginning of one to that of the next.
    pub interval: Duration,
    /// How long one may take; none: see [`Check::patience`].
    pub timeout: Option<Duration>,
    /// So many in a row that pass bring a backend up.
    pub rise: u16,
    /// So many in a row that fail take it away.
    pub fall: u16,
    /// Another port than the backend's own.
    pub port: Option<u16>,
}

impl Check {
    /// Of this kind, with what holds if nothing else is said.
    pub fn new(kind: CheckKind) -> Check {
        Check {
            kind,
            sni: None,
            path: String::from("/"),
            host: None,
            method: Method::default(),
            expect: (200, 399),
            interval: INTERVAL,
            timeout: None,
            rise: 2,
            fall: 3,
            port: None,
        }
    }

    /// How long one may take.
    pub fn patience(&self) -> Duration {
        self.timeout.unwrap_or(self.interval.min(TIMEOUT))
    }
}

/// What is said of one backend, beside what is said of all of its pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Asked<T> {
    /// Nothing: what its pool says holds.
    #[default]
    AsPool,
    /// It is not asked, whatever its pool says.
    Off,
    /// This.
    This(T),
}

impl<T> Asked<T> {
    /// The same, of what it refers to.
    pub fn as_ref(&self) -> Asked<&T> {
        match self {
            Asked::AsPool => Asked::AsPool,
            Asked::Off => Asked::Off,
            Asked::This(this) => Asked::This(this),
        }
    }

    /// Something is said.
    pub fn is_said(&self) -> bool {
        !matches!(self, Asked::AsPool)
    }

    /// This, or the other where nothing is said.
    pub fn or(self, other: Asked<T>) -> Asked<T> {
        if self.is_said() { self } else { other }
    }

    /// What is asked where a pool says `pools`.
    pub fn in_pool(self, pools: Option<T>) -> Option<T> {
        match self {
            Asked::AsPool => pools,
            Asked::Off => None,
            Asked::This(this) => Some(this),
        }
    }
}

impl<T> From<Option<T>> for Asked<T> {
    fn from(this: Option<T>) -> Asked<T> {
        this.map_or(Asked::AsPool, Asked::This)
    }
}

/// What is asked of an agent on the backend's host, which tells how much the backend can take: HAProxy's `agent-check`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Agent {
    /// Where it listens, at the backend's address.
    pub port: u16,
    /// From the beginning of one to that of the next.
    pub interval: Duration,
}

impl Agent {
    /// At this port, as often as a check.
    pub fn at(port: u16) -> Agent {
        Agent { port, interval: INTERVAL }
    }
}
