//! Whose turn it is by `round-robin` and `least-conn`: of each pool that is still there, as far as its backends are.

use crate::pack::{Pack, Packer, Unpacker, Unreadable, of_backend};
use lb::balance::{ClassTurns, MOST_CREDIT, Turns};
use lb::{BackendId, Balancers, Directory, PoolId};

const ROUND_ROBIN: u8 = 1;
const LEAST_CONN: u8 = 2;

/// Writes those of all pools.
pub(super) fn pack(directory: &Directory, balancers: &mut Balancers, to: &mut Packer) {
    for pool in directory.pools() {
        let Some(turns) = balancers.of(pool.id()).and_then(|balancer| balancer.turns(pool)) else { continue };
        to.sized(|to| {
            pool.id().pack(to);
            pack_one(&turns, to);
        });
    }
}

/// Goes on from there.
pub(super) fn take_over(
    directory: &Directory,
    balancers: &mut Balancers,
    from: &mut Unpacker<'_>,
) -> Result<(), Unreadable> {
    while !from.is_empty() {
        let mut one = from.sized()?;
        let id = PoolId::unpack(&mut one)?;
        let turns = unpack_one(&mut one)?;
        if let (Some(pool), Some(balancer)) = (directory.pool(id), balancers.of(id)) {
            balancer.go_on(pool, &turns);
        }
    }
    Ok(())
}

fn pack_one(turns: &Turns, to: &mut Packer) {
    match turns {
        Turns::RoundRobin { classes, among } => {
            ROUND_ROBIN.pack(to);
            (classes.len() as u32).pack(to);
            for ClassTurns { credit, chosen, turns, had } in classes {
                (*credit, *chosen).pack(to);
                for ids in [turns, had] {
                    (ids.len() as u32).pack(to);
                    ids.iter().for_each(|id| id.pack(to));
                }
            }
            (among.len() as u32).pack(to);
            among.iter().for_each(|one| one.pack(to));
        }
        Turns::LeastConn(last) => {
            LEAST_CONN.pack(to);
            last.pack(to);
        }
    }
}

fn unpack_one(from: &mut Unpacker<'_>) -> Result<Turns, Unreadable> {
    match u8::unpack(from)? {
        ROUND_ROBIN => {
            let mut classes = Vec::new();
            for _ in 0..u32::unpack(from)? {
                let (credit, chosen) = (credit(from)?, u16::unpack(from)?);
                classes.push(ClassTurns { credit, chosen, turns: members(from)?, had: members(from)? });
            }
            let mut among = Vec::new();
            for _ in 0..u32::unpack(from)? {
                let (id, credit) = (of_backend(from)?, credit(from)?);
                among.extend(id.map(|id| (id, credit)));
            }
            Ok(Turns::RoundRobin { classes, among })
        }
        LEAST_CONN => {
            let mut last = || if bool::unpack(from)? { of_backend(from) } else { Ok(None) };
            Ok(Turns::LeastConn([last()?, last()?]))
        }
        _ => Err(Unreadable::Impossible("whose turn it is")),
    }
}

fn credit(from: &mut Unpacker<'_>) -> Result<i64, Unreadable> {
    let credit = i64::unpack(from)?;
    if credit.unsigned_abs() <= MOST_CREDIT as u64 { Ok(credit) } else { Err(Unreadable::Impossible("a credit")) }
}

fn members(from: &mut Unpacker<'_>) -> Result<Vec<BackendId>, Unreadable> {
    let mut all = Vec::new();
    for _ in 0..u32::unpack(from)? {
        all.extend(of_backend::<BackendId>(from)?);
    }
    Ok(all)
}
