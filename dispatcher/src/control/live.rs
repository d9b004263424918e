//! What is wanted of a dispatcher that runs: its configuration, the overrides laid over it, and how a change of either comes into force.
//!
//! Everything is decided here before anything is touched: a file with a fault, an order that does not fit, a change that takes a restart, or one that
//! the workers' side refuses leave all as it was. There is no clock: `now` is seconds since 1970, given by the caller.

use super::configuration::Configuration;
use super::diff::{self, Difference, Sign};
use super::fault::{Faults, meant};
use super::file;
use super::overrides::lay::{Laid, lay, lay_fitting};
use super::overrides::saved::Saved;
use super::overrides::{Order, Override, Overrides, What, Wrong};
use super::rules;
use super::socket::api::{self, Applied, Change, Failure, Problem};
use super::text;
use lb::Wanted;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Seconds until a change is tried again that the workers' side refused when the time of an override was over.
const AGAIN: u64 = 10;

/// What carries out a change: the workers and drivers.
pub trait DataPlane {
    /// All of it is in force when this returns, in all workers; or nothing has changed. Connections to those of `reset` that are wanted no more end at
    /// once.
    fn apply(&mut self, wanted: &Wanted, reset: &[String]) -> Result<Done, String>;
    /// Whether it could be in force.
    fn try_out(&self, wanted: &Wanted) -> Result<(), String>;
    /// What is wanted, with what backends' agents say laid over it.
    fn with_agents(&self, wanted: &Wanted, overrides: &Overrides) -> Wanted;
    /// A backend of this name is wanted no more and still has connections or sessions.
    fn is_leaving(&self, backend: &str) -> bool;
    /// All workers forget which sessions a backend can resume.
    fn forget(&mut self, backend: &str) -> Result<Done, String>;
}

/// A change is in force.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Done {
    /// Until the last worker had it.
    pub took: Duration,
    /// Who did not take it over in time, if somebody did not.
    pub late: Option<String>,
}

/// A configuration, and where it came from.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Source {
    /// What the file was called; none: it was flags.
    pub name: Option<String>,
    /// The file as it was read.
    pub text: Option<String>,
    /// What it says.
    pub configuration: Configuration,
}

impl Source {
    /// What flags say.
    pub fn flags(configuration: Configuration) -> Source {
        Source { name: None, text: None, configuration }
    }

    /// What a file says.
    pub fn file(name: &str, bytes: &[u8]) -> Result<Source, Faults> {
        let configuration = file::read(name, bytes)?;
        // What is no text has faults.
        let text = String::from_utf8_lossy(bytes).into_owned();
        Ok(Source { name: Some(name.to_string()), text: Some(text), configuration })
    }
}

/// Reads a file, of which no more is taken than the longest that may be. Only of what can be read at once: nobody waits for a pipe.
pub fn contents(path: &Path) -> io::Result<Vec<u8>> {
    if !path.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no file"));
    }
    file::at_most(file::MAX_FILE, path)
}

/// What is wanted now.
pub struct Live {
    /// What a restart would read.
    home: Option<PathBuf>,
    source: Source,
    overrides: Overrides,
    /// The one with the others laid over it.
    in_force: Wanted,
    saved: Option<Saved>,
    /// When it began: versions of another process are others.
    started: u64,
    changes: u64,
    /// Not before then is looked again for what has expired.
    again: u64,
}

impl Live {
    /// What is wanted at the start. `home`: the file that is read by [`reload`](Live::reload). Also told: what is to be known of overrides.
    pub fn new(home: Option<PathBuf>, source: Source, saved: Option<Saved>, now: u64) -> (Live, Vec<String>) {
        let (kept, note) = saved.as_ref().map(Saved::load).unwrap_or_default();
        let mut notes: Vec<String> = note.into_iter().collect();
        let laid = fitting(&source.configuration, &kept, now);
        notes.extend(laid.over.iter().map(over));
        notes.extend(laid.kept.iter().map(|one| format!("override {one} is in force")));
        let changed = !laid.over.is_empty();
        let Laid { wanted: in_force, kept: overrides, .. } = laid;
        let live = Live { home, source, overrides, in_force, saved, started: now, changes: 1, again: 0 };
        if changed {
            notes.extend(live.keep());
        }
        (live, notes)
    }

    /// What operators said is something else by now than at the start, when it was read.
    pub fn overrides_were_changed(&self, now: u64) -> bool {
        let kept = self.saved.as_ref().map(Saved::load).unwrap_or_default().0;
        fitting(&self.source.configuration, &kept, now).wanted != self.in_force
    }

    /// What is in force: the configuration with the overrides laid over it.
    pub fn in_force(&self) -> &Wanted {
        &self.in_force
    }

    /// What the file says, or the flags.
    pub fn configuration(&self) -> &Configuration {
        &self.source.configuration
    }

    /// What operators said.
    pub fn overrides(&self) -> &Overrides {
        &self.overrides
    }

    /// Changes with everything that is changed here.
    pub fn version(&self) -> String {
        format!("{:x}.{}", self.started, self.changes)
    }

    /// The file in force.
    pub fn described(&self) -> api::Configuration {
        let Source { name, text, .. } = &self.source;
        let in_force = written(&self.source.configuration, &self.in_force);
        api::Configuration { version: self.version(), file: name.clone(), text: text.clone(), in_force }
    }

    /// Takes a configuration over that somebody sends, or says what would change.
    pub fn apply(
        &mut self,
        name: &str,
        text: &[u8],
        dry_run: bool,
        plane: &mut dyn DataPlane,
        now: u64,
    ) -> Result<Applied, Problem> {
        let source = Source::file(name, text).map_err(faults)?;
        let lasts = match &self.home {
            Some(home) if contents(home).is_ok_and(|bytes| bytes == text) => None,
            Some(home) => Some(format!("a restart takes {}, which is another file", home.display())),
            None => Some("a restart takes the flags again".to_string()),
        };
        let mut done = self.take(source, dry_run, plane, now)?;
        done.notes.extend(lasts.filter(|_| !dry_run));
        Ok(done)
    }

    /// Takes over the file of the start, as it is now.
    pub fn reload(&mut self, dry_run: bool, plane: &mut dyn DataPlane, now: u64) -> Result<Applied, Problem> {
        let source = self.at_home()?;
        self.take(source, dry_run, plane, now)
    }

    /// What a reload would change, and what operators want.
    pub fn diff(&self, now: u64) -> Result<api::Diff, Problem> {
        let (mut changes, mut notes) = (Vec::new(), Vec::new());
        if self.home.is_some() {
            let (differences, laid) = self.against(&self.at_home()?, now);
            changes.extend(differences.into_iter().map(change));
            notes.extend(laid.over.iter().map(over));
        }
        Ok(api::Diff { changes, overrides: self.told(self.overrides.iter(), now), notes })
    }

    /// Overrides, as they are told.
    pub fn told<'a>(&self, all: impl Iterator<Item = &'a Override>, now: u64) -> Vec<api::Override> {
        let one = |o: &Override| api::Override {
            what: o.what.to_string(),
            who: o.who.clone(),
            since: now.saturating_sub(o.since),
            left: o.until.map(|until| until.saturating_sub(now)),
            why: o.why.clone(),
        };
        all.map(one).collect()
    }

    /// Follows an order.
    pub fn order(&mut self, order: &Order, plane: &mut dyn DataPlane, now: u64) -> Result<Applied, Problem> {
        let file = &self.source.configuration;
        let reset: Vec<String> = match &order.what {
            What::Remove { backend, now: true } => vec![backend.clone()],
            _ => Vec::new(),
        };
        let ordered =
            match self.overrides.order(&file.wanted, order, now, |wanted, said| plane.with_agents(wanted, said)) {
                Ok(ordered) => ordered,
                // It was removed, and its connections are waited for: no longer.
                Err(Wrong::NotThere(_)) if reset.iter().any(|name| plane.is_leaving(name)) => {
                    let done = plane.apply(&self.in_force, &reset).map_err(refused)?;
                    let what = format!("connections of backend {}", reset.concat());
                    let changes = vec![change(Difference { sign: Sign::Goes, what })];
                    return Ok(self.answer(false, changes, Vec::new(), done));
                }
                Err(Wrong::NotThere(why)) => {
                    let near = self.near(&order.what).map_or(String::new(), |near| format!("; did you mean '{near}'?"));
                    return Err(Problem::new(404, format!("{why}{near}")));
                }
                Err(Wrong::Conflict(why)) => return Err(Problem::new(409, why)),
            };
        let Laid { wanted, kept, over: ended } = lay(&file.wanted, &ordered.overrides, now);
        if let Some(why) = fault(file, &wanted) {
            return Err(Problem::new(409, format!("{why}; nothing was changed")));
        }
        let changes = diff::services(&self.in_force, &wanted).into_iter().map(change).collect();
        let notes = ended.iter().map(over).chain(ordered.notes).collect();
        self.bring(wanted, kept, &reset, None, plane, (changes, notes))
    }

    /// Has all workers forget the sessions of a backend.
    pub fn forget(&mut self, backend: &str, plane: &mut dyn DataPlane) -> Result<Done, Problem> {
        let there = |name: &str| self.in_force.backends().iter().any(|b| b.name == name);
        if !there(backend) {
            return Err(Problem::new(404, format!("there is no backend '{backend}'")));
        }
        plane.forget(backend).map_err(refused)
    }

    /// Ends overrides whose time is over. What an operator should know is returned. To be called now and then.
    pub fn expire(&mut self, plane: &mut dyn DataPlane, now: u64) -> Vec<String> {
        if self.overrides.next_expiry().is_none_or(|at| at > now) || now < self.again {
            return Vec::new();
        }
        let Laid { wanted, kept, over: ended } = fitting(&self.source.configuration, &self.overrides, now);
        let told = ended.iter().map(over).collect();
        match self.bring(wanted, kept, &[], None, plane, (Vec::new(), told)) {
            Ok(done) => {
                self.again = 0;
                done.notes
            }
            Err(problem) => {
                let first = core::mem::replace(&mut self.again, now.saturating_add(AGAIN)) == 0;
                let why = problem.failure.error;
                Vec::from_iter(first.then(|| format!("an override has expired and stays: {why}; it is tried again")))
            }
        }
    }

    /// The file of the start as it is now.
    fn at_home(&self) -> Result<Source, Problem> {
        let Some(home) = &self.home else {
            return Err(Problem::new(409, "it was started by flags: there is no file to reload (ctl apply FILE)"));
        };
        let shown = home.display().to_string();
        let bytes = contents(home).map_err(|e| Problem::new(422, format!("{shown}: {e}; nothing was changed")))?;
        Source::file(&shown, &bytes).map_err(faults)
    }

    /// What would come of a configuration: the differences to what is in force, and what is laid over it.
    fn against(&self, next: &Source, now: u64) -> (Vec<Difference>, Laid) {
        let laid = fitting(&next.configuration, &self.overrides, now);
        let mut differences = diff::fixed(&self.source.configuration, &next.configuration);
        differences.extend(diff::services(&self.in_force, &laid.wanted));
        (differences, laid)
    }

    fn take(&mut self, next: Source, dry_run: bool, plane: &mut dyn DataPlane, now: u64) -> Result<Applied, Problem> {
        let (differences, laid) = self.against(&next, now);
        let fixed: Vec<&str> =
            differences.iter().filter(|d| d.sign == Sign::Restart).map(|d| d.what.as_str()).collect();
        let why = format!("needs a restart: {}", fixed.join("; "));
        let may = if fixed.is_empty() { Ok(()) } else { Err(why) };
        let mut notes: Vec<String> = laid.over.iter().map(over).collect();
        notes.extend(laid.kept.iter().map(|one| format!("override {one} stays")));
        let Laid { wanted, kept, .. } = laid;
        if dry_run {
            if let Err(why) = may.and_then(|()| plane.try_out(&wanted)) {
                notes.push(format!("it would be refused: {why}"));
            }
            let changes = differences.into_iter().map(change).collect();
            let in_force = Some(written(&next.configuration, &wanted));
            return Ok(Applied { in_force, ..self.answer(true, changes, notes, Done::default()) });
        }
        may.map_err(refused)?;
        let changes = differences.into_iter().map(change).collect();
        self.bring(wanted, kept, &[], Some(next), plane, (changes, notes))
    }

    /// Brings it into force, or changes nothing.
    fn bring(
        &mut self,
        wanted: Wanted,
        overrides: Overrides,
        reset: &[String],
        source: Option<Source>,
        plane: &mut dyn DataPlane,
        (changes, mut notes): (Vec<Change>, Vec<String>),
    ) -> Result<Applied, Problem> {
        let same = wanted == self.in_force;
        let done = if same { Done::default() } else { plane.apply(&wanted, reset).map_err(refused)? };
        self.in_force = wanted;
        let said = overrides != self.overrides;
        self.overrides = overrides;
        let told = source.is_some_and(|source| {
            let other = source.text != self.source.text;
            self.source = source;
            other
        });
        self.changes += u64::from(!same || said || told);
        if said {
            notes.extend(self.keep());
        }
        Ok(self.answer(false, changes, notes, done))
    }

    /// Writes the overrides down; or says why not.
    fn keep(&self) -> Option<String> {
        let saved = self.saved.as_ref()?;
        let why = saved.keep(&self.overrides).err()?;
        Some(format!("overrides {}: {why}: a restart will not know of this", saved.path().display()))
    }

    fn answer(&self, dry_run: bool, changes: Vec<Change>, mut notes: Vec<String>, done: Done) -> Applied {
        notes.extend(done.late);
        let took = done.took.as_secs_f64();
        Applied { version: self.version(), dry_run, changes, notes, took, in_force: None }
    }

    /// What was probably meant.
    fn near(&self, what: &What) -> Option<&str> {
        let wanted = &self.in_force;
        match what {
            What::Add { pool, .. } => meant(pool, wanted.pools.iter().map(|p| p.name.as_str())),
            What::State(name, _) | What::Weight(name, _) | What::Remove { backend: name, .. } => {
                meant(name, wanted.pools.iter().flat_map(|p| &p.backends).map(|b| b.name.as_str()))
            }
        }
    }
}

/// Overrides over a configuration, as far as they fit.
fn fitting(configuration: &Configuration, overrides: &Overrides, now: u64) -> Laid {
    lay_fitting(&configuration.wanted, overrides, now, |wanted| fault(configuration, wanted))
}

/// What is wrong with this in place of what the configuration wants.
fn fault(configuration: &Configuration, wanted: &Wanted) -> Option<String> {
    if *wanted == configuration.wanted {
        // Its own faults were told when it was read.
        return None;
    }
    let whole = Configuration { wanted: wanted.clone(), ..configuration.clone() };
    rules::faults(&whole).into_iter().next().map(|broken| broken.what)
}

/// A configuration with these services and pools, as a file.
fn written(configuration: &Configuration, wanted: &Wanted) -> String {
    text::text(&Configuration { wanted: wanted.clone(), ..configuration.clone() })
}

fn over((one, why): &(Override, String)) -> String {
    format!("override {one} is over: {why}")
}

fn change(difference: Difference) -> Change {
    Change { sign: difference.sign.as_str().to_string(), what: difference.what }
}

fn refused(why: String) -> Problem {
    Problem::new(409, format!("{why}; nothing was changed"))
}

/// All faults of a file, as an answer.
fn faults(all: Faults) -> Problem {
    let number = all.faults.len() + all.more;
    let plural = if number == 1 { "" } else { "s" };
    let more = if all.more > 0 { format!(" (the first {} are told)", all.faults.len()) } else { String::new() };
    let error = format!("{}: {number} fault{plural}{more}, nothing was changed", all.file);
    let faults =
        all.faults.into_iter().map(|f| api::Fault { line: f.line, column: f.column, what: f.what, hint: f.hint });
    Problem { status: 422, failure: Failure { error, faults: faults.collect() } }
}

#[cfg(test)]
mod tests;
