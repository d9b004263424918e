//! What a seed decides before anything happens.

use super::{Kind, Kinds};
use crate::links::Faults;
use crate::rng::Rng;
use crate::tunnels::KINDS;
use dispatcher::engine::AddressMode;
use lb::{Algorithm, TunnelKind};

/// What is wished for, whatever the seed.
#[derive(Clone, Debug)]
pub struct Wish {
    /// Connections in one world.
    pub connections: usize,
    /// Exactly these kinds of trouble; else some, drawn by the seed.
    pub kinds: Option<Kinds>,
    /// Of those drawn, never others.
    pub among: Kinds,
    /// How bad links are, where loss and the like are among the kinds; in thousandths.
    pub faults: Faults,
}

impl Default for Wish {
    /// 30 connections; 5 % loss, 5 % reordering, 2 % duplication, 2 % corruption; every kind may be drawn.
    fn default() -> Wish {
        Wish { connections: 30, kinds: None, among: Kinds::ALL, faults: Faults { corruption: 20, ..Faults::ROUGH } }
    }
}

/// A storm before it begins.
#[derive(Clone, PartialEq, Debug)]
pub struct Scenario {
    /// All chance comes from it.
    pub seed: u64,
    /// Connections of clients that mean well (and of those that do not, if there are any).
    pub connections: usize,
    /// What goes wrong.
    pub kinds: Kinds,
    /// How bad links are.
    pub faults: Faults,
    /// Whether IPv6.
    pub v6: bool,
    /// One port for both sides.
    pub one_armed: bool,
    /// Whose address servers see.
    pub mode: AddressMode,
    /// Servers are told the client's by a header.
    pub proxy: bool,
    /// How new clients are balanced.
    pub balance: Algorithm,
    /// Servers.
    pub servers: usize,
    /// They are behind tunnels of this kind.
    pub tunnel: Option<TunnelKind>,
    /// Clients are behind another balancer, which names them by PROXY headers; `proxy` says whether servers are told.
    pub fronted: bool,
    /// By the very header, then.
    pub pass: bool,
    /// Some clients speak plain HTTP, whose sessions are followed by a cookie.
    pub cookies: bool,
}

impl Scenario {
    /// What a seed and a wish come to.
    pub fn new(seed: u64, wish: &Wish) -> Scenario {
        let mut rng = Rng::new(seed ^ 0x5707_1111);
        let (v6, one_armed) = (rng.per_mille(300), rng.per_mille(250));
        let mode = if rng.per_mille(250) { AddressMode::Dnat } else { AddressMode::Snat };
        let proxy = rng.per_mille(200);
        let balance =
            [Algorithm::Maglev, Algorithm::LeastConn, Algorithm::RoundRobin, Algorithm::RandomTwo][rng.below(4)];
        let servers = rng.between(2, 4);
        // Quiet links now and then, so that the other troubles are seen alone too.
        let kinds: Kinds = Kind::ALL
            .into_iter()
            .filter(|k| {
                let often = match k {
                    Kind::Loss | Kind::Duplication | Kind::Reordering => 600,
                    Kind::Workers => 60,
                    Kind::Reconfigure => 120,
                    Kind::Liar => 15,
                    _ => 180,
                };
                rng.per_mille(often)
            })
            .collect();
        let kinds = wish.kinds.unwrap_or(kinds.and(wish.among));
        // From numbers of its own: what a seed led to before, it still does.
        let mut wrapped = Rng::new(seed ^ 0x0074_756e);
        let tunnel = wrapped.per_mille(200).then(|| KINDS[wrapped.below(KINDS.len())]);
        let mut fronted = Rng::new(seed ^ 0x6672_6f6e);
        let (fronted, pass) = (fronted.per_mille(150), fronted.per_mille(500));
        let cookies = Rng::new(seed ^ 0x636f_6f6b).per_mille(250);
        let s = Scenario {
            seed,
            connections: wish.connections,
            kinds,
            faults: wish.faults,
            v6,
            one_armed,
            mode,
            proxy,
            balance,
            servers,
            tunnel,
            fronted,
            pass: fronted && proxy && pass,
            cookies,
        };
        s.possible()
    }

    /// Without what cannot be together.
    fn possible(mut self) -> Scenario {
        if self.kinds.has(Kind::Liar) {
            self.kinds = Kinds::NONE.with(Kind::Liar);
        }
        if self.kinds.has(Kind::Reconfigure) {
            // They excuse so much that nothing would be left to look at, or know servers by their first names.
            self.kinds = [Kind::EvilServer, Kind::Ports, Kind::Tables].into_iter().fold(self.kinds, Kinds::without);
        }
        if self.kinds.has(Kind::Workers) {
            let links = [Kind::Loss, Kind::Duplication, Kind::Reordering, Kind::Corruption, Kind::Delay];
            let with_workers = links.into_iter().chain([Kind::Reconfigure, Kind::Limits, Kind::Upgrade]);
            self.kinds = self.kinds.and(with_workers.collect()).with(Kind::Workers);
        }
        // The far ends of tunnels stand before one engine, at its servers' port, and know the servers of the beginning.
        if self.one_armed
            || self.kinds.has(Kind::Workers)
            || self.kinds.has(Kind::Reconfigure)
            || self.kinds.has(Kind::Liar)
        {
            self.tunnel = None;
        }
        self
    }

    /// The command that runs it again.
    pub fn command(&self) -> String {
        let f = self.faults;
        format!(
            "cargo run --release -p tools -- storm --seed {} --connections {} --only {} --loss {} --duplication {} --reordering {} --corruption {}",
            self.seed,
            self.connections,
            self.kinds,
            percent(f.loss),
            percent(f.duplication),
            percent(f.reordering),
            percent(f.corruption),
        )
    }
}

fn percent(per_mille: u32) -> String {
    format!("{}.{}%", per_mille / 10, per_mille % 10)
}
