//! Classes: what kind of request one is, and how its kind is treated.
//!
//! The order in which requests go depends on the state of the server and the nature of the request; this is the nature. Classes are
//! made once and never change; a request is matched against at most [`MAX_CLASSES`] of them, and the first that fits is its class. What none fits is of the last one.

use super::slots::{FULL, RESUMED, Used};
use crate::service::{MAX_ALPN, SniPattern};
use core::fmt;
use core::str::FromStr;
use core::time::Duration;
use std::net::{IpAddr, SocketAddr};

/// Most classes of one service: their order is searched, and they share a byte as a set.
pub const MAX_CLASSES: usize = 8;

/// Longest line of one class: so that a wrong configuration does not ask for all memory.
pub const MAX_QUEUE: usize = 1 << 16;

/// A class: its place in the list.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct ClassId(pub u8);

impl ClassId {
    /// As an index into arrays of one entry per class.
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    pub(crate) const fn bit(self) -> u8 {
        1 << self.0
    }
}

/// What a request will cost its server, which is known before it is dialled.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Cost {
    /// Not TLS: a connection, and no handshake.
    NotTls,
    /// The tables name a server that can resume its session.
    Resumed,
    /// A full handshake.
    Full,
}

impl Cost {
    /// In units of handshakes.
    pub const fn units(self) -> u8 {
        match self {
            Cost::NotTls => 0,
            Cost::Resumed => RESUMED,
            Cost::Full => FULL,
        }
    }

    pub(crate) const fn used(self) -> Used {
        Used { connections: 1, units: self.units() as u32 }
    }
}

/// When a class goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Share {
    /// Before all that are listed behind it, and before all weighted ones.
    Strict,
    /// So much of what the strict ones leave, relative to the other weighted ones; in units of handshakes, not in requests. 1 to 1000.
    Weight(u16),
}

/// Addresses that begin with the same bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Prefix {
    addr: IpAddr,
    len: u8,
}

impl Prefix {
    /// The first `len` bits of an address; `None` if it has not so many. An IPv4 address in IPv6's clothes is an IPv4 address.
    pub fn new(addr: IpAddr, len: u8) -> Option<Prefix> {
        let mapped = matches!((addr, addr.to_canonical()), (IpAddr::V6(_), IpAddr::V4(_)));
        let len = if mapped { len.checked_sub(96)? } else { len };
        let addr = addr.to_canonical();
        (len <= if addr.is_ipv4() { 32 } else { 128 }).then_some(Prefix { addr, len })
    }

    /// Does the address begin with them?
    pub fn contains(&self, addr: IpAddr) -> bool {
        match (self.addr, addr.to_canonical()) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                let differ = u32::from(a) ^ u32::from(b);
                differ.leading_zeros() >= u32::from(self.len)
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => {
                let differ = u128::from(a) ^ u128::from(b);
                differ.leading_zeros() >= u32::from(self.len)
            }
            _ => false,
        }
    }
}

impl FromStr for Prefix {
    type Err = String;

    /// `192.0.2.0/24`, `2001:db8::/32`; an address alone is itself.
    fn from_str(text: &str) -> Result<Prefix, String> {
        let (addr, len) = text.split_once('/').map_or((text, None), |(addr, len)| (addr, Some(len)));
        let addr: IpAddr = addr.parse().map_err(|_| format!("{text:?} does not begin with an address"))?;
        let all = if addr.is_ipv4() { 32 } else { 128 };
        let len =
            len.map_or(Ok(all), str::parse).map_err(|_| format!("{text:?} does not end with a number of bits"))?;
        Prefix::new(addr, len).ok_or_else(|| format!("{text:?}: the address has not so many bits"))
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.len)
    }
}

/// A class as it is wanted. Of each list any entry may match; where several lists are given (and `cost`), all must.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClassSpec {
    /// Unique among the classes of a service.
    pub name: String,
    /// Where the client connects to.
    pub listeners: Vec<SocketAddr>,
    /// Where it comes from.
    pub clients: Vec<Prefix>,
    /// Server names.
    pub sni: Vec<SniPattern>,
    /// Protocols of application-layer protocol negotiation (RFC 7301), as bytes.
    pub alpn: Vec<Vec<u8>>,
    /// `resumes`, `full` or `non-tls`.
    pub cost: Option<Cost>,
    /// When it goes.
    pub share: Share,
    /// So many wait in it, all workers together; those beyond are demoted to the last class. Each worker has an equal part, rounded up.
    pub queue: usize,
    /// Whoever has waited so long waits no more.
    pub timeout: Duration,
    /// So many hundredths of each server are kept for it.
    pub reserve: u8,
}

impl ClassSpec {
    /// One for everything: weight 1, 1024 places, 3 s (well below the 10 s after which Go's and undici's clients give up by themselves), no reserve.
    pub fn new(name: impl Into<String>) -> ClassSpec {
        ClassSpec {
            name: name.into(),
            listeners: vec![],
            clients: vec![],
            sni: vec![],
            alpn: vec![],
            cost: None,
            share: Share::Weight(1),
            queue: 1024,
            timeout: Duration::from_secs(3),
            reserve: 0,
        }
    }
}

/// What is wrong with a list of classes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ClassFault {
    /// There must be one at least.
    None,
    /// More than [`MAX_CLASSES`].
    TooMany(usize),
    /// Two of this name.
    Twice(String),
    /// Of this class: a weight is 1 to 1000.
    Weight(String),
    /// Of this class: a line has 1 to [`MAX_QUEUE`] places.
    Queue(String),
    /// Together the reserves are more than there is.
    Reserves(u32),
    /// More different protocols than [`MAX_ALPN`].
    TooManyProtocols(usize),
}

impl fmt::Display for ClassFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClassFault::None => write!(f, "no class"),
            ClassFault::TooMany(n) => write!(f, "{n} classes, at most {MAX_CLASSES} are possible"),
            ClassFault::Twice(name) => write!(f, "two classes {name:?}"),
            ClassFault::Weight(name) => write!(f, "class {name:?}: a weight is 1 to 1000"),
            ClassFault::Queue(name) => write!(f, "class {name:?}: a queue has 1 to {MAX_QUEUE} places"),
            ClassFault::Reserves(sum) => write!(f, "the reserves are {sum} % together"),
            ClassFault::TooManyProtocols(n) => write!(f, "{n} ALPN protocols, at most {MAX_ALPN} are possible"),
        }
    }
}

impl std::error::Error for ClassFault {}

/// A request as far as classes go by it.
#[derive(Clone, Copy, Debug)]
pub struct Nature<'a> {
    /// Where the client connects to.
    pub listener: SocketAddr,
    /// Its address.
    pub client: IpAddr,
    /// The server name of its hello.
    pub sni: Option<&'a [u8]>,
    /// What it will cost.
    pub cost: Cost,
}

/// The classes of a service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Classes {
    specs: Box<[ClassSpec]>,
    /// Sorted; its place is its bit.
    protocols: Box<[Box<[u8]>]>,
    /// By class: the bits of its protocols.
    alpn: [u64; MAX_CLASSES],
}

impl Classes {
    /// Of a list, the first match wins.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with it.
    pub fn new(specs: Vec<ClassSpec>) -> Result<Classes, Vec<ClassFault>> {
        let mut protocols: Vec<Box<[u8]>> =
            specs.iter().flat_map(|spec| &spec.alpn).map(|p| p.as_slice().into()).collect();
        protocols.sort_unstable();
        protocols.dedup();
        let mut faults = vec![];
        match specs.len() {
            0 => faults.push(ClassFault::None),
            n if n > MAX_CLASSES => faults.push(ClassFault::TooMany(n)),
            _ => {}
        }
        for (n, spec) in specs.iter().enumerate() {
            let name = || spec.name.clone();
            if specs[..n].iter().any(|before| before.name == spec.name) {
                faults.push(ClassFault::Twice(name()));
            }
            if matches!(spec.share, Share::Weight(w) if !(1..=1000).contains(&w)) {
                faults.push(ClassFault::Weight(name()));
            }
            if !(1..=MAX_QUEUE).contains(&spec.queue) {
                faults.push(ClassFault::Queue(name()));
            }
        }
        let reserves = specs.iter().map(|spec| u32::from(spec.reserve)).sum();
        if reserves > 100 {
            faults.push(ClassFault::Reserves(reserves));
        }
        if protocols.len() > MAX_ALPN {
            faults.push(ClassFault::TooManyProtocols(protocols.len()));
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        let bits = |spec: &ClassSpec| {
            let bit = |p: &Vec<u8>| protocols.binary_search_by(|known| (**known).cmp(p)).map_or(0, |at| 1 << at);
            spec.alpn.iter().map(bit).fold(0, |all, bit: u64| all | bit)
        };
        let alpn = core::array::from_fn(|c| specs.get(c).map_or(0, bits));
        Ok(Classes { specs: specs.into(), protocols: protocols.into(), alpn })
    }

    /// As they were wanted, in their order.
    pub fn specs(&self) -> &[ClassSpec] {
        &self.specs
    }

    /// Where those go that are beyond another class's bound.
    pub fn last(&self) -> ClassId {
        ClassId(self.specs.len() as u8 - 1)
    }

    /// The class of a request, whose hello offers these protocols. Allocates nothing; of protocols there may be thousands, each is looked up once.
    pub fn class_of<'a>(&self, nature: &Nature<'_>, alpn: impl Iterator<Item = &'a [u8]>) -> ClassId {
        let offered = if self.protocols.is_empty() { 0 } else { self.offered(alpn) };
        let fits = |(c, spec): &(usize, &ClassSpec)| {
            by_address(spec, nature.listener, nature.client)
                && spec.cost.is_none_or(|cost| cost == nature.cost)
                && (self.alpn[*c] == 0 || self.alpn[*c] & offered != 0)
                && (spec.sni.is_empty()
                    || nature.sni.is_some_and(|sni| spec.sni.iter().any(|pattern| names(pattern, sni))))
        };
        self.specs.iter().enumerate().find(fits).map_or(self.last(), |(c, _)| ClassId(c as u8))
    }

    /// By class of `others`: the one that has its name here, else the last.
    pub(crate) fn alike(&self, others: &Classes) -> [ClassId; MAX_CLASSES] {
        let here = |name: &str| self.specs.iter().position(|spec| spec.name == name);
        core::array::from_fn(|c| {
            let same = others.specs.get(c).and_then(|spec| here(&spec.name));
            same.map_or(self.last(), |at| ClassId(at as u8))
        })
    }

    /// The class of a client that has sent nothing but its SYN, if that is certain whatever it will send.
    pub fn class_by_address(&self, listener: SocketAddr, client: IpAddr) -> Option<ClassId> {
        let first = self.specs.iter().position(|spec| by_address(spec, listener, client));
        let Some(c) = first else { return Some(self.last()) };
        let spec = &self.specs[c];
        let certain = spec.sni.is_empty() && spec.alpn.is_empty() && spec.cost.is_none();
        (certain || c == self.last().index()).then_some(ClassId(c as u8))
    }

    /// A bit for each of our protocols that the client offers.
    fn offered<'a>(&self, alpn: impl Iterator<Item = &'a [u8]>) -> u64 {
        alpn.filter_map(|p| self.protocols.binary_search_by(|known| (**known).cmp(p)).ok())
            .fold(0, |all, at| all | 1 << at)
    }
}

impl Default for Classes {
    /// Resumed handshakes have eight of ten units while they wait, which is more than they ever need unless nearly everybody comes back: so they go as if nobody else were
    /// there, and yet the others, with one each, are not kept out for good.
    fn default() -> Classes {
        let class = |name: &str, cost, weight| ClassSpec { cost, share: Share::Weight(weight), ..ClassSpec::new(name) };
        let specs = vec![
            class("resumes", Some(Cost::Resumed), 8),
            class("non-tls", Some(Cost::NotTls), 1),
            class("full", None, 1),
        ];
        Classes { specs: specs.into(), protocols: Box::default(), alpn: [0; MAX_CLASSES] }
    }
}

fn by_address(spec: &ClassSpec, listener: SocketAddr, client: IpAddr) -> bool {
    let same =
        |own: &SocketAddr| own.port() == listener.port() && own.ip().to_canonical() == listener.ip().to_canonical();
    (spec.listeners.is_empty() || spec.listeners.iter().any(same))
        && (spec.clients.is_empty() || spec.clients.iter().any(|prefix| prefix.contains(client)))
}

/// Without regard to case, and to the dot that some clients put behind a name.
fn names(pattern: &SniPattern, sni: &[u8]) -> bool {
    let sni = sni.strip_suffix(b".").unwrap_or(sni);
    match pattern {
        SniPattern::Exact(name) => sni.eq_ignore_ascii_case(name.as_bytes()),
        SniPattern::Wildcard(rest) => {
            let dot = sni.iter().position(|&b| b == b'.').filter(|&dot| dot > 0);
            dot.is_some_and(|dot| sni[dot + 1..].eq_ignore_ascii_case(rest.as_bytes()))
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn nature<'a>(client: &str, sni: Option<&'a str>, cost: Cost) -> Nature<'a> {
        Nature {
            listener: "192.0.2.1:443".parse().unwrap(),
            client: client.parse().unwrap(),
            sni: sni.map(str::as_bytes),
            cost,
        }
    }

    #[test]
    fn the_first_class_wins_whose_conditions_all_hold() {
        let prefix = |text: &str| vec![text.parse::<Prefix>().unwrap()];
        let of = |name: &str| ClassSpec::new(name);
        let classes = Classes::new(vec![
            ClassSpec { clients: prefix("10.1.0.0/16"), cost: Some(Cost::Full), ..of("staff") },
            ClassSpec { sni: vec!["*.api.example".parse().unwrap()], alpn: vec![b"h2".to_vec()], ..of("api") },
            ClassSpec { listeners: vec!["192.0.2.9:443".parse().unwrap()], ..of("other") },
            ClassSpec { clients: prefix("2001:db8::/32"), ..of("six") },
            of("rest"),
        ])
        .unwrap();
        let class = |client, sni, cost, alpn: &[&'static [u8]]| {
            let found = classes.class_of(&nature(client, sni, cost), alpn.iter().copied());
            classes.specs()[found.index()].name.as_str()
        };
        assert_eq!(class("10.1.2.3", None, Cost::Full, &[]), "staff");
        assert_eq!(class("::ffff:10.1.2.3", None, Cost::Full, &[]), "staff");
        assert_eq!(class("10.1.2.3", None, Cost::Resumed, &[]), "rest");
        assert_eq!(class("10.2.2.3", None, Cost::Full, &[]), "rest");
        assert_eq!(class("10.2.2.3", Some("A.API.example."), Cost::Full, &[b"http/1.1", b"h2"]), "api");
        assert_eq!(class("10.2.2.3", Some("a.api.example"), Cost::Full, &[b"http/1.1"]), "rest");
        assert_eq!(class("10.2.2.3", Some("a.b.api.example"), Cost::Full, &[b"h2"]), "rest");
        assert_eq!(class("10.2.2.3", Some(".api.example"), Cost::Full, &[b"h2"]), "rest");
        assert_eq!(class("2001:db8::9", None, Cost::Full, &[]), "six");
        let by_address = |listener: &str, client: &str| {
            classes.class_by_address(listener.parse().unwrap(), client.parse().unwrap()).map(|c| c.0)
        };
        assert_eq!(by_address("192.0.2.1:443", "10.1.2.3"), None, "it may be staff");
        assert_eq!(by_address("192.0.2.9:443", "10.2.2.3"), None, "it may be the api");
    }

    #[test]
    fn a_class_is_known_from_the_syn_if_nothing_else_counts() {
        let bulk = ClassSpec { clients: vec!["10.0.0.0/8".parse().unwrap()], ..ClassSpec::new("bulk") };
        let named = ClassSpec { sni: vec!["a.example".parse().unwrap()], ..ClassSpec::new("named") };
        let classes = Classes::new(vec![bulk, named, ClassSpec::new("rest")]).unwrap();
        let of = |client: &str| classes.class_by_address("192.0.2.1:443".parse().unwrap(), client.parse().unwrap());
        assert_eq!(of("10.1.1.1"), Some(ClassId(0)));
        assert_eq!(of("11.1.1.1"), None);
    }

    #[test]
    fn prefixes_are_read_and_compared_as_bits() {
        let prefix = |text: &str| text.parse::<Prefix>();
        let has = |text: &str, addr: &str| prefix(text).unwrap().contains(addr.parse().unwrap());
        assert!(has("0.0.0.0/0", "255.1.1.1") && !has("0.0.0.0/0", "::1") && has("::/0", "fe80::1"));
        assert!(has("192.0.2.128/25", "192.0.2.200") && !has("192.0.2.128/25", "192.0.2.100"));
        assert!(has("192.0.2.7", "192.0.2.7") && !has("192.0.2.7", "192.0.2.6"));
        assert!(has("::ffff:192.0.2.0/120", "192.0.2.6"));
        for wrong in ["192.0.2.0/33", "::/129", "x/8", "10.0.0.0/", "10.0.0.0/-1", "::ffff:1.2.3.4/90"] {
            assert!(prefix(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn every_fault_is_told() {
        let spec = |name: &str| ClassSpec::new(name);
        let faults = Classes::new(vec![
            ClassSpec { share: Share::Weight(0), reserve: 60, ..spec("a") },
            ClassSpec { queue: 0, reserve: 41, ..spec("a") },
        ]);
        let want = vec![
            ClassFault::Weight("a".into()),
            ClassFault::Twice("a".into()),
            ClassFault::Queue("a".into()),
            ClassFault::Reserves(101),
        ];
        assert_eq!(faults, Err(want));
        assert_eq!(Classes::new(vec![]), Err(vec![ClassFault::None]));
        let nine = (0..9).map(|n| spec(&n.to_string())).collect();
        assert_eq!(Classes::new(nine), Err(vec![ClassFault::TooMany(9)]));
        assert!(Classes::new(Classes::default().specs().to_vec()) == Ok(Classes::default()));
    }
}
