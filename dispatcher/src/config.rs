//! What the dispatcher is told at start.

use crate::pack::packed;
use crate::wire::Mac;
use core::time::Duration;
use lb::{MemberSpec, Policy, PoolSpec, ServiceKind, Wanted};
use std::net::{IpAddr, SocketAddr};

/// A port: its index in [`Config::ports`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct PortId(pub u8);

/// One port as the engine sees it.
#[derive(Clone, Debug)]
pub struct PortSpec {
    /// Name on the command line and in reports.
    pub name: String,
    /// The port's own Ethernet address.
    pub mac: Mac,
    /// Own addresses and prefix lengths: SNAT sources, and what is on-link.
    pub addresses: Vec<(IpAddr, u8)>,
    /// Next hops for what is on no link; at most one a family.
    pub gateways: Vec<IpAddr>,
    /// VLAN ids, outermost first, put on frames that we send to backends and gateways. Clients are answered with the
    /// tags that their frames carry.
    pub vlans: Vec<u16>,
    /// Largest IP packet, bytes.
    pub mtu: u16,
}

/// Whose address backends see.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum AddressMode {
    /// One of our own; backends need no routing change.
    #[default]
    Snat,
    /// The client's; backends route back through us.
    Dnat,
}

impl AddressMode {
    /// The word of the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            AddressMode::Snat => "snat",
            AddressMode::Dnat => "dnat",
        }
    }
}

/// Sizes of every table and buffer. What happens when one is full is written at each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Open flows. Full: a client's ACK is dropped (`flow-table-full`); its retransmission may find room.
    pub flows: usize,
    /// Connections whose hello is being read, or is ours to deliver, at once. Full: a client that has kept half a hello for more
    /// than a second is reset and gives its buffer to the newcomer; is there none, the newcomer's segment is dropped
    /// (`hello-no-buffer`), and the client retransmits.
    pub hellos: usize,
    /// Small buffers for hellos of connections that wait for room at a backend. Full, or a hello of more than 2 kB: it keeps the one that it has of the others, up to a
    /// quarter of them; beyond that it is refused (`queue-full`).
    pub waiting: usize,
    /// Longest hello with its record headers that is read whole, bytes. Of a longer one so much is read.
    pub hello_bytes: usize,
    /// Connections whose server's answer is being read at once. Full: the client that holds most loses its oldest.
    pub watches: usize,
    /// Session rows in the affinity table. Full: of the bucket's rows the oldest of the client that holds most goes.
    pub sessions: usize,
    /// Slots for backends, those included that were removed and still have connections or rows; no fewer than there are backends at
    /// start. Full: a change that needs more is refused.
    pub backends: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            flows: 65_536,
            hellos: 2_048,
            waiting: 4_096,
            hello_bytes: 20 * 1024,
            watches: 4_096,
            sessions: 262_144,
            backends: 0,
        }
    }
}

/// What is known of a backend's ticket keys in advance.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TicketKey {
    /// The backend opens tickets whose first 16 bytes are these.
    Name {
        /// A backend's name.
        backend: String,
        /// The key name.
        name: [u8; 16],
    },
    /// The backend's tickets carry no key name: none is learned of it.
    Unknown {
        /// A backend's name.
        backend: String,
    },
}

impl TicketKey {
    /// Whose.
    pub fn backend(&self) -> &str {
        let (TicketKey::Name { backend, .. } | TicketKey::Unknown { backend }) = self;
        backend
    }
}

/// Everything the engine is told at start.
#[derive(Clone, Debug)]
pub struct Config {
    /// Ports, at most 16.
    pub ports: Vec<PortSpec>,
    /// Services, pools and backends to begin with. From the start on the [`lb::Directory`] that is made of it is what counts.
    pub wanted: Wanted,
    /// The key of the hash that leads clients, see [`lb::StableHash`]: dispatchers of one service have the same.
    pub hash_seed: u64,
    /// Whose address backends see.
    pub address_mode: AddressMode,
    /// After this long without frames both ends of a flow are asked whether they are there; it is reset when one does not answer.
    pub flow_idle_timeout: Duration,
    /// What is known of the backends' ticket keys in advance.
    pub ticket_keys: Vec<TicketKey>,
    /// Rows die this long after their last use.
    pub session_ttl: Duration,
    /// Ask backends by a SYN, at start and while they are down, whether they answer and what options they speak.
    pub probe: bool,
    /// Take segments that come from loopback addresses. No wire carries them, but recorded traces do.
    pub loopback_sources: bool,
    /// How many workers have a key for tunnels whose packets are sealed: all, or none where there is no key.
    pub sealers: usize,
    /// Keep the server name of each connection for its [`ConnectionRecord`](crate::tcp::ConnectionRecord).
    pub keep_names: bool,
    /// Table sizes.
    pub limits: Limits,
}

/// Who has sent part of a hello gets this long for the rest, and where all is TLS for the whole of it. Then a backend gets what there is.
pub(crate) const COMPLETE_WITHIN: Duration = Duration::from_secs(30);

/// How long a client of a service may say nothing. Where all is TLS, or sessions are followed by a cookie, it is the client who speaks first: browsers connect in
/// advance, and are led by what they say when they have something to ask.
pub fn hello_patience(policy: &Policy) -> Duration {
    match policy.kind {
        ServiceKind::Auto if policy.cookie.is_none() => policy.hello_timeout,
        ServiceKind::Auto | ServiceKind::Tls => policy.hello_timeout.max(COMPLETE_WITHIN),
    }
}

impl Config {
    /// Where clients connect to, of all services.
    pub fn vips(&self) -> Vec<SocketAddr> {
        self.wanted.listeners()
    }

    /// The servers of all pools, each once, in order of their ids.
    pub fn backends(&self) -> Vec<&MemberSpec> {
        self.wanted.backends()
    }

    /// The same with other policies of all services.
    pub fn policy(mut self, change: impl Fn(&mut Policy)) -> Config {
        self.wanted.services.iter_mut().for_each(|service| change(&mut service.policy));
        self
    }

    /// The same with other pools.
    pub fn pool(mut self, change: impl Fn(&mut PoolSpec)) -> Config {
        self.wanted.pools.iter_mut().for_each(change);
        self
    }

    /// How long a client may say nothing where it may do so for longest.
    pub fn hello_patience(&self) -> Duration {
        self.wanted.services.iter().map(|s| hello_patience(&s.policy)).max().unwrap_or_default()
    }
}

impl Default for Config {
    fn default() -> Config {
        Config {
            ports: Vec::new(),
            wanted: Wanted::default(),
            hash_seed: 0,
            address_mode: AddressMode::default(),
            flow_idle_timeout: Duration::from_secs(300),
            ticket_keys: Vec::new(),
            session_ttl: Duration::from_secs(3600),
            probe: true,
            loopback_sources: false,
            sealers: 0,
            keep_names: false,
            limits: Limits::default(),
        }
    }
}

/// Why a configuration cannot work: one clear line.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

packed!(PortId(u8));
