//! Which client's frames go where, learned from the frames alone: a flow's two sides always belong together.

use dispatcher::wire::packet::{Packet, Tcp, protocol};
use lb::Directory;
use std::collections::HashMap;
use std::net::SocketAddr;

/// An address and port of ours, and the backend's behind it.
type Dialled = (SocketAddr, SocketAddr);

/// All pairs so far. It knows nothing of the engine's tables.
#[derive(Default)]
pub struct Pairs {
    vips: Vec<SocketAddr>,
    backends: Vec<SocketAddr>,
    /// The client, once a frame of its was seen to go there since that was dialled.
    clients: HashMap<Dialled, Option<SocketAddr>>,
    places: HashMap<SocketAddr, Dialled>,
}

/// Source and destination of a segment, and whether it is a bare SYN.
fn ends(frame: &[u8]) -> Option<(SocketAddr, SocketAddr, bool)> {
    let p = Packet::parse(frame).ok()?;
    if p.ip.protocol != protocol::TCP {
        return None;
    }
    let t = Tcp::parse(frame, &p.ip).ok()?;
    Some((p.ip.src.socket(t.src_port), p.ip.dst.socket(t.dst_port), t.is_bare_syn()))
}

impl Pairs {
    /// For an engine with these VIPs and backends.
    pub fn new(vips: &[SocketAddr], backends: impl Iterator<Item = SocketAddr>) -> Pairs {
        Pairs { vips: vips.to_vec(), backends: backends.collect(), ..Pairs::default() }
    }

    /// Services and backends that came.
    pub fn extend(&mut self, directory: &Directory) {
        self.vips.extend(directory.listeners().iter().map(|l| l.addr()));
        self.backends.extend(directory.backends().map(|b| b.addr));
        self.vips.sort_unstable();
        self.vips.dedup();
        self.backends.sort_unstable();
        self.backends.dedup();
    }

    /// Where a client's frames go now: from this address and port of ours to this backend.
    pub fn place(&self, client: SocketAddr) -> Option<(SocketAddr, SocketAddr)> {
        self.places.get(&client).copied()
    }

    /// The engine sent a frame of its own: a SYN to a backend begins a pair.
    pub fn made(&mut self, frame: &[u8]) {
        if let Some((from, to, true)) = ends(frame)
            && self.backends.contains(&to)
        {
            self.clients.insert((from, to), None);
        }
    }

    /// The engine forwarded a frame: as it came, and as it went. Whose connection it is of, if it is a segment.
    ///
    /// # Panics
    /// When it went to another than those before it.
    pub fn forwarded(&mut self, came: &[u8], went: &[u8]) -> Option<SocketAddr> {
        let ((from, to, _), (out_from, out_to, _)) = (ends(came)?, ends(went)?);
        let (client, place) = if self.vips.contains(&to) {
            (from, (out_from, out_to))
        } else {
            assert!(self.vips.contains(&out_from), "{from} -> {to} went on as {out_from} -> {out_to}");
            (out_to, (to, from))
        };
        let bound = self.clients.get_mut(&place);
        let bound = bound.unwrap_or_else(|| panic!("{client} is led to {place:?}, where nobody was dialled"));
        let fresh = bound.is_none();
        let other = *bound.get_or_insert(client);
        assert_eq!(other, client, "{place:?} belongs to another client");
        let before = self.places.insert(client, place);
        assert!(fresh || before == Some(place), "{client} was led to {before:?} and is led to {place:?}");
        Some(client)
    }
}
