//! What backends' agents say, laid over what is wanted. What an operator has said of the same thing goes before it.

use super::holds;
use super::overrides::{Overrides, Setting};
use crate::checks::Says;
use lb::{MAX_WEIGHT, State, Wanted};
use std::collections::HashMap;

/// What is wanted, as far as agents agree. By backend's name.
pub fn lay(wanted: &Wanted, agents: &HashMap<String, Says>, overrides: &Overrides) -> Wanted {
    let mut all = wanted.clone();
    for backend in all.pools.iter_mut().flat_map(|pool| &mut pool.backends) {
        let Some(says) = agents.get(&backend.name) else { continue };
        let said = |is: fn(&Setting) -> bool| overrides.about(&backend.name).any(|one| is(&one.what));
        let (state, weight) = (said(|s| matches!(s, Setting::State(..))), said(|s| matches!(s, Setting::Weight(..))));
        if let Some(percent) = says.percent.filter(|_| !weight) {
            // What takes some connections goes on to take some.
            let share = (u32::from(backend.weight) * u32::from(percent)).div_ceil(100);
            backend.weight = share.min(u32::from(MAX_WEIGHT)) as u16;
        }
        if let Some(most) = says.max_connections {
            backend.limits.max_connections = Some(most.max(1));
        }
        if !state && let Some(said) = holds::state(says) {
            backend.state = lower(backend.state, said);
        }
    }
    all
}

/// The one that gives less.
fn lower(one: State, other: State) -> State {
    [State::Down, State::Draining].into_iter().find(|state| [one, other].contains(state)).unwrap_or(State::Up)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lb::{MemberSpec, Policy, PoolSpec};

    #[test]
    fn an_agent_changes_shares_limits_and_states_and_raises_nobody_whom_the_file_holds_back() {
        let address = "10.0.0.1:1".parse().unwrap();
        let member = |name: &str, weight, state| MemberSpec { weight, state, ..MemberSpec::new(name, address) };
        let backends = vec![
            member("a", 3, State::Up),
            member("b", 1000, State::Up),
            member("c", 1, State::Draining),
            member("d", 5, State::Up),
            member("e", 1, State::Draining),
        ];
        let wanted = Wanted::single(vec![address], Policy::default(), PoolSpec { backends, ..PoolSpec::default() });
        let says = |line: &str| {
            let mut says = Says::default();
            assert!(says.hear(line));
            says
        };
        let agents =
            [("a", "50% maxconn:30"), ("b", "200% drain"), ("c", "0% ready"), ("d", "down#disk"), ("e", "maint")];
        let agents = agents.map(|(name, line)| (name.to_string(), says(line))).into();
        let laid = lay(&wanted, &agents, &Overrides::default());
        let shown: Vec<_> =
            laid.pools[0].backends.iter().map(|b| (b.weight, b.state, b.limits.max_connections)).collect();
        assert_eq!(
            shown,
            [
                (2, State::Up, Some(30)),
                (1000, State::Draining, None),
                (0, State::Draining, None),
                (5, State::Down, None),
                (1, State::Down, None)
            ]
        );
    }
}
