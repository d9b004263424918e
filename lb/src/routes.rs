//! Which pool a hello goes to: server name and ALPN protocols against the routes of a service.
//!
//! Immutable, made once for a directory. A lookup is three binary searches and one pass over the protocols that the
//! client offers; it allocates nothing, and costs the same whether a hostile client sends one protocol or thousands of
//! them, but for that pass.

use crate::directory::PoolId;
use crate::service::{RouteSpec, SniPattern};

/// The longest name there is (RFC 1035 section 2.3.4), and a dot.
const LONGEST_NAME: usize = 254;

/// Where to, if one of these protocols is offered; no bit: whatever is offered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Target {
    alpn: u64,
    pool: PoolId,
}

/// The routes of one service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Routes {
    /// By name, and by order of the file for each.
    exact: Box<[(Box<[u8]>, Target)]>,
    /// By what follows the `*.`.
    wildcard: Box<[(Box<[u8]>, Target)]>,
    /// Routes by protocol alone.
    any: Box<[Target]>,
    /// Sorted; its place is its bit.
    protocols: Box<[Box<[u8]>]>,
    fallback: PoolId,
}

impl Routes {
    /// Of routes without fault, each with the number of its pool.
    pub fn new<'a>(routes: impl Iterator<Item = (&'a RouteSpec, PoolId)> + Clone, fallback: PoolId) -> Routes {
        let mut protocols: Vec<Box<[u8]>> =
            routes.clone().flat_map(|(route, _)| route.alpn.iter().map(|p| p.as_slice().into())).collect();
        protocols.sort_unstable();
        protocols.dedup();
        let bit = |p: &Vec<u8>| protocols.binary_search_by(|known| (**known).cmp(p)).map_or(0, |at| 1 << at);
        let (mut exact, mut wildcard, mut any) = (Vec::new(), Vec::new(), Vec::new());
        for (route, pool) in routes {
            let target = Target { alpn: route.alpn.iter().map(bit).fold(0, |all, bit: u64| all | bit), pool };
            for pattern in &route.sni {
                match pattern {
                    SniPattern::Exact(name) => exact.push((lower(name), target)),
                    SniPattern::Wildcard(rest) => wildcard.push((lower(rest), target)),
                }
            }
            if route.sni.is_empty() {
                any.push(target);
            }
        }
        // Stable: of one name the order of the file remains.
        exact.sort_by(|a: &(Box<[u8]>, Target), b| a.0.cmp(&b.0));
        wildcard.sort_by(|a: &(Box<[u8]>, Target), b| a.0.cmp(&b.0));
        Routes {
            exact: exact.into(),
            wildcard: wildcard.into(),
            any: any.into(),
            protocols: protocols.into(),
            fallback,
        }
    }

    /// The pool: see [`Directory::pool_for`](crate::Directory::pool_for).
    pub fn pool_for<'a>(&self, sni: Option<&[u8]>, alpn: impl Iterator<Item = &'a [u8]>) -> PoolId {
        if self.exact.is_empty() && self.wildcard.is_empty() && self.any.is_empty() {
            return self.fallback;
        }
        let offered = if self.protocols.is_empty() { 0 } else { self.offered(alpn) };
        let fits = |target: &Target| target.alpn == 0 || target.alpn & offered != 0;
        let mut buffer = [0; LONGEST_NAME];
        let by_name = sni.and_then(|name| normal(name, &mut buffer)).and_then(|name| {
            named(&self.exact, name, fits).or_else(|| {
                let dot = name.iter().position(|&b| b == b'.').filter(|&dot| dot > 0)?;
                named(&self.wildcard, &name[dot + 1..], fits)
            })
        });
        by_name.or_else(|| self.any.iter().find(|t| fits(t)).map(|t| t.pool)).unwrap_or(self.fallback)
    }

    /// Some route goes by a name.
    pub fn go_by_name(&self) -> bool {
        !self.exact.is_empty() || !self.wildcard.is_empty()
    }

    /// The exact server names, in lower case and order, of which some route leads to this pool.
    pub fn names_to(&self, pool: PoolId) -> impl Iterator<Item = &str> {
        let to = self.exact.iter().filter(move |(_, target)| target.pool == pool);
        to.filter_map(|(name, _)| core::str::from_utf8(name).ok())
    }

    /// A bit for each of our protocols that the client offers.
    fn offered<'a>(&self, alpn: impl Iterator<Item = &'a [u8]>) -> u64 {
        alpn.filter_map(|p| self.protocols.binary_search_by(|known| (**known).cmp(p)).ok())
            .fold(0, |all, at| all | 1 << at)
    }
}

fn lower(name: &str) -> Box<[u8]> {
    name.to_ascii_lowercase().into_bytes().into()
}

/// In lower case, without the dot that some clients put behind it. A name that is too long for one is none.
fn normal<'b>(name: &[u8], buffer: &'b mut [u8; LONGEST_NAME]) -> Option<&'b [u8]> {
    let name = name.strip_suffix(b".").unwrap_or(name);
    let lower = buffer.get_mut(..name.len())?;
    lower.copy_from_slice(name);
    lower.make_ascii_lowercase();
    Some(lower)
}

fn named(table: &[(Box<[u8]>, Target)], name: &[u8], fits: impl Fn(&Target) -> bool) -> Option<PoolId> {
    let first = table.partition_point(|(known, _)| **known < *name);
    let same = table[first..].iter().take_while(|(known, _)| **known == *name);
    same.map(|(_, target)| target).find(|t| fits(t)).map(|t| t.pool)
}
