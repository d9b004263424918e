//! Overrides laid over a configuration: what is to be in force, and which overrides are over.

use super::{Override, Overrides, Setting};
use lb::{BackendLimits, MemberSpec, State, Wanted};

/// What comes of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Laid {
    /// What is to be in force.
    pub wanted: Wanted,
    /// The overrides that stay.
    pub kept: Overrides,
    /// Those that are over, and why.
    pub over: Vec<(Override, String)>,
}

/// Lays overrides over what a configuration says, at `now`. Those are left out whose time is over, of whose matter the configuration says something
/// else than when they were given, and that are about something that is no more.
pub fn lay(file: &Wanted, overrides: &Overrides, now: u64) -> Laid {
    let (mut kept, mut over) = (Vec::new(), Vec::new());
    for one in overrides.iter() {
        match ended(file, one, now) {
            None => kept.push(one.clone()),
            Some(why) => over.push((one.clone(), why)),
        }
    }
    let mut wanted = file.clone();
    membership(&mut wanted, &kept);
    kept.retain(|one| {
        let there = match &one.what {
            Setting::State(backend, _) | Setting::Weight(backend, _) => members_of(&wanted, backend).next().is_some(),
            _ => true,
        };
        if !there {
            over.push((one.clone(), format!("there is no backend '{}' any more", one.what.backend())));
        }
        there
    });
    settings(&mut wanted, &kept);
    Laid { wanted, kept: Overrides(kept), over }
}

/// As [`lay`], where `fault` says what is wrong with the outcome. An override that does not fit is over; of several that do not fit together the earlier
/// one stays.
pub fn lay_fitting(file: &Wanted, overrides: &Overrides, now: u64, fault: impl Fn(&Wanted) -> Option<String>) -> Laid {
    let all = lay(file, overrides, now);
    if fault(&all.wanted).is_none() {
        return all;
    }
    let mut good = Laid { wanted: file.clone(), kept: Overrides::default(), over: all.over };
    for one in all.kept.0 {
        let mut more = good.kept.clone();
        more.0.push(one.clone());
        let mut tried = lay(file, &more, now);
        match (fault(&tried.wanted), tried.over.pop()) {
            (None, None) => (good.wanted, good.kept) = (tried.wanted, tried.kept),
            (Some(why), _) | (None, Some((_, why))) => good.over.push((one, why)),
        }
    }
    good
}

/// Makes of `wanted` what the settings say, whatever it was before. Doing it again changes nothing.
pub fn put_over(wanted: &mut Wanted, overrides: &Overrides) {
    membership(wanted, &overrides.0);
    settings(wanted, &overrides.0);
}

/// Which backends are in which pools.
fn membership(wanted: &mut Wanted, all: &[Override]) {
    // What was added under the same name has taken its place.
    let added = |pool: &str, backend: &MemberSpec| {
        all.iter().any(|o| match &o.what {
            Setting::Added { pool: p, backend: b } => p == pool && b.name == backend.name && b.addr == backend.addr,
            _ => false,
        })
    };
    for one in all {
        let Setting::Removed(name) = &one.what else { continue };
        for pool in &mut wanted.pools {
            let of = pool.name.clone();
            pool.backends.retain(|b| b.name != *name || added(&of, b));
        }
    }
    for one in all {
        let Setting::Added { pool, backend } = &one.what else { continue };
        // A backend has one state, wherever it is, and the same limits; these may be said anew, which does not fit then.
        let elsewhere = members_of(wanted, &backend.name).next().map(|(p, b)| &wanted.pools[p].backends[b]);
        let (state, limits) = elsewhere.map_or((State::Up, backend.limits), |there| (there.state, there.limits));
        let limits = if backend.limits == BackendLimits::default() { limits } else { backend.limits };
        let Some(pool) = wanted.pools.iter_mut().find(|p| p.name == *pool) else { continue };
        let new = MemberSpec { state, limits, ..(**backend).clone() };
        match pool.backends.iter_mut().find(|b| b.name == backend.name) {
            Some(there) => *there = MemberSpec { state: there.state, ..new },
            None => pool.backends.push(new),
        }
    }
}

/// States and weights.
fn settings(wanted: &mut Wanted, all: &[Override]) {
    for one in all {
        let places: Vec<_> = members_of(wanted, one.what.backend()).collect();
        for (p, b) in places {
            let backend = &mut wanted.pools[p].backends[b];
            match &one.what {
                Setting::State(_, state) => backend.state = *state,
                Setting::Weight(_, weight) => backend.weight = *weight,
                Setting::Added { .. } | Setting::Removed(_) => {}
            }
        }
    }
}

/// Where a backend is: numbers of pools, and in them.
pub fn members_of<'a>(wanted: &'a Wanted, backend: &'a str) -> impl Iterator<Item = (usize, usize)> + 'a {
    let pools = wanted.pools.iter().enumerate();
    pools.flat_map(move |(p, pool)| {
        pool.backends.iter().enumerate().filter(move |(_, b)| b.name == backend).map(move |(b, _)| (p, b))
    })
}

/// What a configuration says of that which is set: the same as long as nobody has changed these lines. Empty: nothing.
pub fn said(file: &Wanted, what: &Setting) -> String {
    let members = || members_of(file, what.backend()).map(|(p, b)| (&file.pools[p], &file.pools[p].backends[b]));
    let parts: Vec<String> = match what {
        Setting::State(..) => members().take(1).map(|(_, b)| b.state.to_string()).collect(),
        Setting::Weight(..) => members().map(|(pool, b)| format!("{} in {}", b.weight, pool.name)).collect(),
        Setting::Added { pool, .. } => members()
            .filter(|(p, _)| p.name == *pool)
            .map(|(_, b)| format!("{}, weight {}", b.addr, b.weight))
            .collect(),
        Setting::Removed(_) => {
            let one = |b: &MemberSpec| format!("{}, weight {}, {}", b.addr, b.weight, b.state);
            members().map(|(pool, b)| format!("{} in {}", one(b), pool.name)).collect()
        }
    };
    parts.join("; ")
}

/// Why it is over, if it is.
fn ended(file: &Wanted, one: &Override, now: u64) -> Option<String> {
    if one.until.is_some_and(|until| until <= now) {
        return Some("its time is over".to_string());
    }
    if let Setting::Added { pool, .. } = &one.what
        && !file.pools.iter().any(|p| p.name == *pool)
    {
        return Some(format!("there is no pool '{pool}' any more"));
    }
    let says = said(file, &one.what);
    let name = one.what.backend();
    match (one.file.as_str(), says.as_str()) {
        (before, now) if before == now => None,
        ("", now) => Some(format!("the file has backend '{name}' itself now ({now}), and wins")),
        (_, "") => Some(format!("the file has backend '{name}' no more, and wins")),
        (before, now) => Some(format!("the file says {now} now, not {before} any more, and wins")),
    }
}
