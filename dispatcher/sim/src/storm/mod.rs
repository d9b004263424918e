//! Storms: worlds in which everything goes wrong at once, by a seed, and what must hold nevertheless.
//!
//! A [`Scenario`] follows from a seed and a [`Wish`]; [`run`] lives through it, and panics when something does not hold; [`attempt`] catches
//! that, [`shrink`] looks for less that fails too. What must hold:
//!
//! * The bytes delivered are the bytes sent: checked as they come, for all connections both of whose ends mean well.
//! * A flow's two sides always belong together ([`crate::pairs`]).
//! * A promised identity reaches its backend: who offers a session is told apart by the server's own answer.
//! * A change of the configuration breaks no connection that it is not about, and a session whose server stays is taken up there.
//! * No server gets more than its limits, nobody waits although there is room, and what became of all who asked adds up.
//! * A liar among honest clients misleads none of their sessions ([`crate::liar`]).
//! * Memory stays within its bounds, and every frame has one fate ([`crate::check`]).
//! * Nobody is stuck: every connection ends, in order unless there is an excuse ([`Kind`] says which), and in the end nothing is left.

mod fronted;
mod kind;
pub mod limited;
mod live;
mod reconfigure;
mod scenario;

pub use kind::{Kind, Kinds};
pub use live::{Sum, run};
pub use scenario::{Scenario, Wish};

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Once;

thread_local! {
    static LAST_WORDS: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// From now on panics within [`attempt`] are kept instead of printed, with where they happened.
fn listen() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let heard = LAST_WORDS.with(|words| {
                let mut words = words.borrow_mut();
                words.as_mut().map(|words| *words = info.to_string().replace('\n', " "))
            });
            if heard.is_none() {
                before(info);
            }
        }));
    });
}

/// Lives through a scenario. `capture`: a folder for the capture that is left when it fails.
///
/// # Errors
/// What did not hold.
pub fn attempt(scenario: &Scenario, capture: Option<&Path>) -> Result<Sum, String> {
    listen();
    LAST_WORDS.with(|words| *words.borrow_mut() = Some(String::new()));
    let result = catch_unwind(AssertUnwindSafe(|| run(scenario, capture)));
    let words = LAST_WORDS.with(|words| words.borrow_mut().take()).unwrap_or_default();
    result.map_err(|_| words)
}

/// A scenario that failed, and the least that was found to fail too.
#[derive(Debug)]
pub struct Failure {
    /// As it was.
    pub first: Scenario,
    /// What did not hold then.
    pub why: String,
    /// With fewer connections and kinds of trouble.
    pub least: Scenario,
    /// What does not hold there.
    pub least_why: String,
    /// The capture of that.
    pub capture: PathBuf,
}

/// Looks for fewer connections and kinds of trouble with which it fails too (in any way), and leaves a capture of that in a folder.
pub fn shrink(first: &Scenario, why: String, folder: &Path) -> Failure {
    let (mut least, mut least_why) = (first.clone(), why.clone());
    let mut tries = 0;
    let mut better = |least: &mut Scenario, least_why: &mut String, candidate: Scenario| {
        tries += 1;
        if tries > 80 || candidate == *least {
            return false;
        }
        match attempt(&candidate, None) {
            Ok(_) => false,
            Err(why) => {
                (*least, *least_why) = (candidate, why);
                true
            }
        }
    };
    loop {
        let mut smaller = false;
        for kind in Kind::ALL {
            // A liar's world without him is no smaller one.
            if least.kinds.has(kind) && kind != Kind::Liar {
                let candidate = Scenario { kinds: least.kinds.without(kind), ..least.clone() };
                smaller |= better(&mut least, &mut least_why, candidate);
            }
        }
        for n in [least.connections / 4, least.connections / 2, least.connections * 3 / 4, least.connections - 1] {
            if n > 0 && n < least.connections {
                let candidate = Scenario { connections: n, ..least.clone() };
                if better(&mut least, &mut least_why, candidate) {
                    smaller = true;
                    break;
                }
            }
        }
        if !smaller {
            break;
        }
    }
    let capture = folder.join(format!("storm-{}.pcapng", least.seed));
    if let Err(why) = attempt(&least, Some(folder)) {
        least_why = why;
    }
    Failure { first: first.clone(), why, least, least_why, capture }
}
