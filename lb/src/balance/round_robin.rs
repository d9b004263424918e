//! Smooth weighted round robin, as in nginx, without looking at every backend for each flow.

use super::turns::{ClassTurns, MOST_CREDIT};
use crate::backend::BackendId;
use crate::pool::Pool;
use std::collections::VecDeque;

/// Every backend gains its weight in credit, the one with most credit is chosen and pays the sum of all weights. Weights 5, 1, 1 give
/// a a b a c a a rather than a a a a a b c.
///
/// Backends of the same weight gain alike, and of them always the one is next that has waited longest. So they are kept as one *class*, in the
/// order of their turns: those that still have one in this round, and behind them those that had it, whose credit is less by what
/// all weigh together. A choice costs a step for each different weight, not for each backend.
///
/// A backend that may not be chosen is passed over; it keeps its place in front while the round lasts, and then has lost its turn. How many of a
/// class may be chosen is known from its last round, and what all weigh together is reckoned with these.
#[derive(Debug, Default)]
pub struct RoundRobin {
    classes: Vec<Class>,
    /// Weight of all that could be chosen in the last rounds.
    total: i64,
    /// Of [`RoundRobin::pick_among`]: by slot, as far as it was needed.
    among: Vec<i64>,
}

/// A backend, and its place in the pool's list.
type Turn = (u16, BackendId);

/// The credit of a backend's class, whether it had its turn, and where it stood.
type Stood = (i64, bool, usize);

/// The backends of one weight.
#[derive(Debug)]
struct Class {
    weight: i64,
    /// Of those that still have a turn.
    credit: i64,
    turns: VecDeque<Turn>,
    had: VecDeque<Turn>,
    /// How many were chosen in the last round: all, in the first.
    chosen: i64,
    /// None of them may be chosen this time.
    barred: bool,
}

impl Class {
    /// The place of whoever is next in turn.
    fn next(&self) -> u16 {
        self.turns.front().map_or(u16::MAX, |turn| turn.0)
    }

    /// Whoever is next of those that `may`, and whether the round is over for that.
    fn take(&mut self, total: &mut i64, may: impl Fn(BackendId) -> bool) -> Option<BackendId> {
        let first = |of: &VecDeque<Turn>| of.iter().position(|turn| may(turn.1));
        let at = match first(&self.turns) {
            Some(at) => at,
            None => {
                let at = first(&self.had)?;
                let passed_over = self.turns.len();
                self.end_round(total);
                passed_over + at
            }
        };
        let turn = self.turns.remove(at)?;
        self.had.push_back(turn);
        if self.turns.is_empty() {
            self.end_round(total);
        }
        Some(turn.1)
    }

    /// All have paid who had their turn; those that were passed over come first in the next round.
    fn end_round(&mut self, total: &mut i64) {
        self.reckon(self.had.len(), total);
        self.credit -= *total;
        self.turns.append(&mut self.had);
    }

    /// So many of them may be chosen.
    fn reckon(&mut self, chosen: usize, total: &mut i64) {
        *total += (chosen as i64 - self.chosen) * self.weight;
        self.chosen = chosen as i64;
    }
}

impl RoundRobin {
    /// For this pool from now on: who is in it still keeps its turn, and with its weight its credit.
    pub fn follow(&mut self, pool: &Pool) {
        let wanted = wanted(pool);
        let now = |class: &Class| {
            let mut turns: Vec<_> =
                class.turns.iter().chain(&class.had).map(|t| (class.weight as u16, t.0, t.1)).collect();
            turns.sort_unstable();
            turns
        };
        if wanted == self.classes.iter().flat_map(now).collect::<Vec<_>>() {
            return;
        }
        self.arrange(&wanted, &self.turns());
    }

    /// Those of all classes.
    pub fn turns(&self) -> Vec<ClassTurns> {
        let ids = |turns: &VecDeque<Turn>| turns.iter().map(|turn| turn.1).collect();
        let one = |class: &Class| ClassTurns {
            credit: class.credit,
            chosen: class.chosen as u16,
            turns: ids(&class.turns),
            had: ids(&class.had),
        };
        self.classes.iter().map(one).collect()
    }

    /// What backends have of the account of [`RoundRobin::pick_among`].
    pub fn among(&self) -> Vec<(BackendId, i64)> {
        let all = self.among.iter().enumerate().filter(|(_, credit)| **credit != 0);
        all.map(|(slot, credit)| (BackendId(slot as u16), *credit)).collect()
    }

    /// Goes on from there, for this pool: as if it had been chosen here.
    pub fn go_on(&mut self, pool: &Pool, classes: &[ClassTurns], among: &[(BackendId, i64)]) {
        let can_be = |credit: i64| credit.clamp(-MOST_CREDIT, MOST_CREDIT);
        self.arrange(&wanted(pool), classes);
        let sorted = |ids: &mut Vec<BackendId>| ids.sort_unstable();
        let mut before: Vec<(Vec<BackendId>, u16)> =
            classes.iter().map(|class| ([&class.turns[..], &class.had].concat(), class.chosen)).collect();
        before.iter_mut().for_each(|(ids, _)| sorted(ids));
        for class in &mut self.classes {
            class.credit = can_be(class.credit);
            let mut ids = class.turns.iter().chain(&class.had).map(|turn| turn.1).collect();
            sorted(&mut ids);
            // Only of the same backends is it known how many were chosen.
            if let Some((_, chosen)) = before.iter().find(|(before, _)| *before == ids) {
                class.reckon(ids.len().min(usize::from(*chosen)), &mut self.total);
            }
        }
        for (id, credit) in among {
            if let Some(known) = self.among.get_mut(id.index()) {
                *known = can_be(*credit);
            }
        }
    }

    /// Those that are wanted, as they stood before.
    fn arrange(&mut self, wanted: &[(u16, u16, BackendId)], before: &[ClassTurns]) {
        let mut stood: Vec<(BackendId, Stood)> = vec![];
        for class in before {
            let had = |had| move |(at, id): (usize, &BackendId)| (*id, (class.credit, had, at));
            stood.extend(class.turns.iter().enumerate().map(had(false)));
            stood.extend(class.had.iter().enumerate().map(had(true)));
        }
        stood.sort_unstable();
        let known = |id| stood.binary_search_by_key(&id, |b| b.0).ok().map(|at| stood[at].1);
        self.classes = wanted
            .chunk_by(|a, b| a.0 == b.0)
            .map(|same| {
                let credit = same.iter().filter_map(|w| known(w.2)).map(|b| b.0).max().unwrap_or(0);
                let in_order = |had: bool| {
                    let mut turns: Vec<(usize, Turn)> = same
                        .iter()
                        .map(|&(_, place, id)| (known(id), (place, id)))
                        .filter(|(known, _)| known.is_some_and(|k| k.1) == had)
                        .map(|(known, turn)| (known.map_or(usize::MAX, |k| k.2), turn))
                        .collect();
                    turns.sort_unstable();
                    turns.into_iter().map(|(_, turn)| turn).collect::<VecDeque<Turn>>()
                };
                let (mut turns, mut had) = (in_order(false), in_order(true));
                if turns.is_empty() {
                    core::mem::swap(&mut turns, &mut had);
                }
                // No call allocates later.
                turns.reserve(same.len());
                had.reserve(same.len());
                let weight = i64::from(same[0].0);
                Class { weight, credit, turns, had, chosen: same.len() as i64, barred: false }
            })
            .collect();
        self.total = self.classes.iter().map(|class| class.chosen * class.weight).sum();
        let slots = wanted.iter().map(|w| w.2.index() + 1).max().unwrap_or(0);
        self.among.resize(slots, 0);
    }

    /// The next of those that `may`.
    pub fn pick(&mut self, may: impl Fn(BackendId) -> bool) -> Option<BackendId> {
        let RoundRobin { classes, total, .. } = self;
        for class in &mut *classes {
            class.credit += class.weight;
            class.barred = false;
        }
        loop {
            let most = |class: &&mut Class| (class.credit, core::cmp::Reverse(class.next()));
            let class = classes.iter_mut().filter(|class| !class.barred).max_by_key(most)?;
            if let Some(id) = class.take(total, &may) {
                return Some(id);
            }
            // Neither gains nor pays.
            class.barred = true;
            class.credit -= class.weight;
            class.reckon(0, total);
        }
    }

    /// The next of a few that are not chosen for all flows, in an account of their own: by weight, among these alone.
    pub fn pick_among(&mut self, pool: &Pool, few: impl Iterator<Item = BackendId>) -> Option<BackendId> {
        let mut total = 0;
        let mut top: Option<(BackendId, i64)> = None;
        for id in few {
            let weight = i64::from(pool.weight(id));
            let Some(credit) = self.among.get_mut(id.index()).filter(|_| weight > 0) else { continue };
            *credit += weight;
            total += weight;
            if top.is_none_or(|(_, most)| *credit > most) {
                top = Some((id, *credit));
            }
        }
        let (id, _) = top?;
        self.among[id.index()] -= total;
        Some(id)
    }
}

/// The members of a pool that may be chosen: weight, place in its list, and which.
fn wanted(pool: &Pool) -> Vec<(u16, u16, BackendId)> {
    let members = pool.members().iter().enumerate().filter(|(_, m)| pool.may_take_new(m.id));
    let mut wanted: Vec<(u16, u16, BackendId)> = members.map(|(at, m)| (m.weight, at as u16, m.id)).collect();
    wanted.sort_unstable();
    wanted
}
