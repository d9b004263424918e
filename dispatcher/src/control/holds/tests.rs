use super::*;
use crate::backends::{Checked, Health};
use crate::checks::Verdict;
use crate::control::agents;
use crate::control::overrides::lay::lay;
use crate::control::overrides::{Order, Overrides, What};
use crate::time::Time;
use crate::wire::Addr;
use crate::wire::options::SynOptions;
use core::time::Duration;
use lb::{BackendId, MemberSpec, Policy, PoolSpec, Wanted};

const START: u64 = 1_800_000_000;
const ME: BackendId = BackendId(0);
/// `rise` and `fall`.
const STREAKS: (u16, u16) = (2, 3);

/// All who speak of one backend, as they are.
struct All {
    file: Wanted,
    overrides: Overrides,
    says: Says,
    verdict: Verdict,
    health: Health,
    seconds: u64,
}

impl All {
    fn new(state: State) -> All {
        let address = "10.0.0.1:443".parse().unwrap();
        let backends = vec![MemberSpec { state, ..MemberSpec::new("web", address) }];
        let file = Wanted::single(vec![address], Policy::default(), PoolSpec { backends, ..PoolSpec::default() });
        let health = Health::new([(ME, Addr::from(address.ip()))].into_iter(), [1460, 1440], true, 7, Time::ZERO);
        let overrides = Overrides::default();
        All { file, overrides, says: Says::default(), verdict: Verdict::unknown(Time::ZERO), health, seconds: START }
    }

    fn time(&self) -> Time {
        Time::ZERO + Duration::from_secs(self.seconds - START + 1)
    }

    fn agents(&self) -> impl Fn(&Wanted, &Overrides) -> Wanted + use<> {
        let says = [("web".to_string(), self.says.clone())].into();
        move |wanted, overrides| agents::lay(wanted, &says, overrides)
    }

    /// What workers are told, as the main thread finds it out again and again.
    fn in_force(&self) -> State {
        let laid = self.agents()(&lay(&self.file, &self.overrides, self.seconds).wanted, &self.overrides);
        assert_eq!(self.agents()(&laid, &self.overrides).pools[0].backends[0].state, laid.pools[0].backends[0].state);
        laid.pools[0].backends[0].state
    }

    fn holds(&self) -> Holds {
        let up = self.health.is_up(ME);
        let why = self.verdict.why.clone().unwrap_or_default();
        let against = match self.verdict.state {
            _ if up => None,
            Checked::Down => Some((By::Check, why.as_str())),
            _ => Some((By::Passive, "it refuses connections")),
        };
        let said = Said {
            file: Some(self.file.pools[0].backends[0].state),
            in_force: Some(self.in_force()),
            operator: operators(self.overrides.about("web")),
            agent: Some(&self.says),
            health: if up { "up" } else { "down" },
            against,
            until: None,
        };
        said.holds(self.seconds)
    }
}

/// What the same come to in the words of the design, from what was said alone.
#[derive(Default)]
struct Told {
    file: State,
    operator: Option<(State, Option<u64>)>,
    agent: (bool, State),
    checks: Vec<bool>,
    refused: u32,
}

impl Told {
    fn checks_down(&self) -> bool {
        let mut down = false;
        for n in 0..=self.checks.len() {
            let ends = |what: bool, row: usize| self.checks[..n].ends_with(&vec![what; row]);
            down = ends(false, 3) || down && !ends(true, 2);
        }
        down
    }

    fn expected(&self) -> (State, Option<&'static str>) {
        let rank = |state: &State| [State::Up, State::Draining, State::Down].iter().position(|s| s == state);
        let agent = if self.agent.0 { State::Down } else { self.agent.1 };
        let (wanted, by) = match self.operator {
            Some((state, _)) => (state, "operator"),
            None if rank(&agent) > rank(&self.file) => (agent, "agent"),
            None => (self.file, "file"),
        };
        match wanted {
            State::Down => (State::Down, Some(by)),
            _ if self.checks_down() => (State::Down, Some("check")),
            _ if self.refused >= 3 => (State::Down, Some("passive")),
            State::Up => (State::Up, Some(by).filter(|by| *by == "operator")),
            State::Draining => (State::Draining, Some(by)),
        }
    }
}

struct Rng(u64);

impl Rng {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % n
    }
}

#[test]
fn operators_agents_checks_and_probes_never_fight_and_whose_word_holds_is_shown_with_its_reason() {
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..300 {
        let mut rng = Rng(seed);
        let file = [State::Up, State::Up, State::Draining, State::Down][rng.below(4)];
        let mut all = All::new(file);
        let mut told = Told { file, ..Told::default() };
        let mut before = all.holds();
        let mut words = 0;
        let mut changes = 0;
        for _ in 0..200 {
            let (now, time) = (all.seconds, all.time());
            let said_before = (told.operator, told.agent, told.checks_down(), told.refused >= 3);
            match rng.below(6) {
                0 => {
                    let passes = rng.below(2) == 0;
                    let result = if passes { Ok(()) } else { Err("status 503".to_string()) };
                    all.verdict.note(&result, STREAKS, time);
                    all.health.checked(ME, all.verdict.state);
                    told.checks.push(passes);
                }
                1 => {
                    let (line, agent) = [
                        ("drain 50%", (told.agent.0, State::Draining)),
                        ("maint", (told.agent.0, State::Down)),
                        ("ready", (told.agent.0, State::Up)),
                        ("down#disk", (true, told.agent.1)),
                        ("up", (false, told.agent.1)),
                        ("nonsense", told.agent),
                    ][rng.below(6)];
                    all.says.hear(line);
                    told.agent = agent;
                }
                2 => {
                    let state = [State::Up, State::Draining, State::Down][rng.below(3)];
                    let seconds = [None, Some(1 + rng.below(20) as u64)][rng.below(2)];
                    let order = Order {
                        who: "uid 0".into(),
                        what: What::State("web".into(), state),
                        time: seconds.map(Duration::from_secs),
                        why: Some("new disk".into()),
                    };
                    all.overrides = all.overrides.order(&all.file, &order, now, all.agents()).unwrap().overrides;
                    let agent = if told.agent.0 { State::Down } else { told.agent.1 };
                    let needless = state == file && (agent == State::Up || agent == file || file == State::Down);
                    let needless = needless || state == file && file == State::Draining && agent == State::Draining;
                    told.operator = (!needless).then_some((state, seconds.map(|s| now + s)));
                }
                3 => {
                    all.health.refused(ME, time);
                    told.refused += 1;
                }
                4 => {
                    all.health.heard(ME, time);
                    all.health.answered(ME, &SynOptions::default(), &SynOptions::default(), None, 1000);
                    told.refused = 0;
                }
                _ => {
                    all.seconds += 1 + rng.below(5) as u64;
                    all.overrides = lay(&all.file, &all.overrides, all.seconds).kept;
                    let over = told.operator.is_some_and(|(_, until)| until.is_some_and(|u| u <= all.seconds));
                    told.operator = told.operator.filter(|_| !over);
                }
            }
            words += usize::from(said_before != (told.operator, told.agent, told.checks_down(), told.refused >= 3));
            let holds = all.holds();
            let (state, by) = told.expected();
            assert_eq!((holds.state.clone(), holds.by.as_deref()), (state.to_string(), by), "seed {seed}: {holds:?}");
            // Nothing but time has passed: nothing is otherwise.
            assert_eq!(all.holds(), holds);
            let reason = match holds.by.as_deref() {
                None | Some("file") => None,
                Some("operator") => Some("new disk".to_string()),
                Some("agent") => Some(all.says.to_string()),
                Some("check") => Some("status 503".to_string()),
                Some(_) => Some("it refuses connections".to_string()),
            };
            assert_eq!(holds.why, reason, "seed {seed}");
            changes += usize::from((&holds.state, &holds.by) != (&before.state, &before.by));
            seen.insert((holds.state.clone(), holds.by.clone()));
            before = holds;
        }
        assert!(changes <= words, "seed {seed}: {changes} changes of what holds, {words} of what was said");
    }
    assert_eq!(seen.len(), 10, "all of them happen: {seen:?}");
}
