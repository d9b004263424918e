//! Puts what is wanted in force while the workers run. No frame is lost by a change, because what a version of the directory needs is there
//! before it, and what it no longer needs goes after it:
//!
//! 1. The next [`Directory`] and its [`Revision`] are made. What is wrong with them is said, and nothing has been touched.
//! 2. The drivers' filters take what the old version and the new one need.
//! 3. The change is [published](Publisher::publish): each worker exchanges its steering and its engine's directory in one step. What was
//!    handed over because of the new steering meets an engine that has the new directory.
//! 4. When all workers have it, the filters are narrowed to what it needs. Backends and listeners that are leaving still have frames, and are
//!    part of it.
//! 5. Later, when nothing names one that was leaving ([`Released`]), the next version does without it: see [`Conductor::settle`].
//!
//! Everything here is done by the thread that owns the dispatcher's state. It may wait for workers; workers never wait for it.

use super::{Change, Late, Publisher, SharedDevices, Steering, filter};
use crate::engine::{Config, Revision};
use crate::io::{Filter, OpenError};
use core::fmt;
use core::time::Duration;
use lb::service::Fault;
use lb::{BackendId, BackendSet, Directory, Leaving, Released, Wanted};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

/// How long workers are waited for. A turn takes them less than a millisecond; one that takes longer is late, and takes it over later.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the drivers are told of addresses.
pub trait Filters {
    /// Whether there is room for it.
    fn fits(&self, filter: &Filter) -> Result<(), OpenError>;
    /// Exactly this is taken from now on. When it fails, more may be taken than was before, and nothing less.
    fn set(&self, filter: &Filter) -> Result<(), OpenError>;
}

impl Filters for SharedDevices {
    fn fits(&self, filter: &Filter) -> Result<(), OpenError> {
        SharedDevices::fits(self, filter)
    }
    fn set(&self, filter: &Filter) -> Result<(), OpenError> {
        self.set_filter(filter)
    }
}

/// A change is in force.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InForce {
    /// Of the directory.
    pub version: u64,
    /// From the beginning until the last worker had it.
    pub took: Duration,
    /// Workers that have it.
    pub workers: usize,
    /// Workers that did not take it over in time. They will; until then they go by the version they have.
    pub late: Option<Late>,
}

/// Nothing has changed, and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refused {
    /// What is wanted contradicts itself.
    Faults(Vec<Fault>),
    /// It cannot be here: a bound, an address, the kernel.
    Impossible(String),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::Faults(faults) => {
                let all: Vec<_> = faults.iter().map(Fault::to_string).collect();
                f.write_str(&all.join("; "))
            }
            Refused::Impossible(why) => f.write_str(why),
        }
    }
}

impl core::error::Error for Refused {}

/// What the workers and drivers of a process follow. See the [module](self).
pub struct Conductor {
    /// What is fixed at start counts: ports, address mode, table sizes.
    config: Config,
    wanted: Wanted,
    /// In force, or on its way to workers that are late.
    change: Change,
    released: Arc<Released>,
    publisher: Publisher,
    filters: Box<dyn Filters>,
    /// What the drivers take at least.
    taken: Filter,
    /// They take more than the directory needs.
    wide: bool,
    /// That they do has been told.
    told: bool,
    /// Backends, with generations, whose connections are to end at once, as long as some worker may not have heard.
    resets: Vec<(BackendId, u32)>,
    /// The same of those whose rows are to be cleared.
    forgets: Vec<(BackendId, u32)>,
    patience: Duration,
}

/// The next version, made and not in force.
struct Next {
    revision: Revision,
    /// What it needs.
    filter: Filter,
    /// What it and the version before need.
    both: Filter,
}

impl Conductor {
    /// Workers have begun with `first`, made of `config`, and drivers with its filter. `steering` is theirs, where there are several.
    pub fn new(
        config: Config,
        first: Arc<Revision>,
        steering: Option<Arc<Steering>>,
        released: Arc<Released>,
        publisher: Publisher,
        filters: Box<dyn Filters>,
    ) -> Conductor {
        let wanted = config.wanted.clone();
        let taken = sorted(filter(&config, first.directory()));
        let change = Change { revision: first, steering };
        let (wide, told, resets, forgets, patience) = (false, false, Vec::new(), Vec::new(), PATIENCE);
        Conductor { config, wanted, change, released, publisher, filters, taken, wide, told, resets, forgets, patience }
    }

    /// Services, pools and backends in force.
    pub fn directory(&self) -> &Arc<Directory> {
        self.change.revision.directory()
    }

    /// What is fixed at start: ports, address mode, table sizes.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What they were made of.
    pub fn wanted(&self) -> &Wanted {
        &self.wanted
    }

    /// What is wanted is in force when this returns, unless it is refused: then nothing has changed. Connections to the backends named
    /// by `reset` end at once, as far as these are wanted no more; those of all others go on.
    pub fn apply(&mut self, wanted: &Wanted, reset: &[String]) -> Result<InForce, Refused> {
        self.put_in_force(wanted, reset, None)
    }

    /// All workers forget which sessions a backend can resume. Nothing else changes.
    pub fn forget(&mut self, backend: &str) -> Result<InForce, Refused> {
        self.put_in_force(&self.wanted.clone(), &[], Some(backend))
    }

    fn put_in_force(&mut self, wanted: &Wanted, reset: &[String], forget: Option<&str>) -> Result<InForce, Refused> {
        let began = Instant::now();
        let all_have_it = self.all_have_it();
        let Next { revision, filter, both } = self.next(wanted, all_have_it)?;
        if both != self.taken
            && let Err(why) = self.filters.set(&both)
        {
            // Part of it may be there.
            self.wide = true;
            return Err(Refused::Impossible(why.to_string()));
        }
        self.taken = both;
        if all_have_it {
            self.resets.clear();
            self.forgets.clear();
        }
        let directory = revision.directory().clone();
        let named = directory.backends().filter(|b| b.leaving && reset.contains(&b.name));
        self.resets.extend(named.map(|b| (b.id, b.generation)));
        let named = forget.and_then(|name| directory.find(name));
        self.forgets.extend(named.map(|b| (b.id, b.generation)));
        // A worker takes over the latest change only: one that it has skipped may have said whom to reset.
        let due = |all: &[(BackendId, u32)], leaving: bool| -> BackendSet {
            let is = |id, generation| {
                directory.backend(id).is_some_and(|b| b.leaving == leaving && b.generation == generation)
            };
            all.iter().filter(|(id, generation)| is(*id, *generation)).map(|(id, _)| *id).collect()
        };
        let (resets, forgets) = (due(&self.resets, true), due(&self.forgets, false));
        let steering = self.change.steering.as_ref().map(|s| Arc::new(s.following(&directory)));
        self.change = Change { revision: Arc::new(revision.resetting(resets).forgetting(forgets)), steering };
        self.wanted = wanted.clone();
        self.publisher.publish(self.change.clone());
        let late = self.publisher.wait(self.patience).err();
        let took = began.elapsed();
        self.wide |= self.taken != filter;
        if late.is_none() {
            // What fails is tried again by `settle`.
            let _ = self.narrow(filter);
        }
        let version = directory.version();
        Ok(InForce { version, took, workers: self.publisher.have_it(), late })
    }

    /// Whether it could be put in force now, and what it would be.
    pub fn dry_run(&self, wanted: &Wanted) -> Result<Directory, Refused> {
        let directory = self.next(wanted, self.all_have_it())?.revision.directory().clone();
        Ok(Arc::unwrap_or_clone(directory))
    }

    /// Does what became possible since the last change: gives up what was leaving and is free now, by a version of its own, and narrows the
    /// filters where that was not possible before. To be called now and then. What an operator should know is returned, once.
    pub fn settle(&mut self) -> Option<String> {
        if !self.all_have_it() {
            return None;
        }
        self.resets.clear();
        self.forgets.clear();
        if self.directory().leaving().any(|leaving| self.released.frees(leaving)) {
            let wanted = self.wanted.clone();
            if let Err(why) = self.apply(&wanted, &[]) {
                return self.tell_once(why.to_string());
            }
        }
        if self.wide {
            let filter = sorted(filter(&self.config, self.directory()));
            if let Err(why) = self.narrow(filter) {
                return self.tell_once(format!("{why}; it is tried again"));
            }
        }
        self.told = false;
        None
    }

    /// Wakes workers that sleep: they were asked something.
    pub fn rouse(&self) {
        self.publisher.rouse();
    }

    fn tell_once(&mut self, why: String) -> Option<String> {
        (!core::mem::replace(&mut self.told, true)).then_some(why)
    }

    fn all_have_it(&self) -> bool {
        self.publisher.wait(Duration::ZERO).is_ok()
    }

    fn next(&self, wanted: &Wanted, all_have_it: bool) -> Result<Next, Refused> {
        let before = self.directory();
        // A worker that is late may still open a flow to what others have let go of.
        let free = |leaving: Leaving<'_>| all_have_it && self.released.frees(leaving);
        let directory = Directory::next(Some(before), wanted, free).map_err(Refused::Faults)?;
        let filter = sorted(filter(&self.config, &directory));
        let mut stays = filter.clone();
        stays.services.retain(|at| directory.service_at(*at).is_some());
        let revision = Revision::new(&self.config, Arc::new(directory)).map_err(|e| Refused::Impossible(e.0))?;
        self.filters.fits(&stays).map_err(|e| Refused::Impossible(e.0))?;
        let both = union(&self.taken, &filter);
        self.filters.fits(&both).map_err(|e| {
            Refused::Impossible(format!(
                "{} (while a change is made, together with what it replaces, and with what is leaving: make it in two steps)",
                e.0
            ))
        })?;
        Ok(Next { revision, filter, both })
    }

    /// The drivers take no more than this.
    fn narrow(&mut self, filter: Filter) -> Result<(), OpenError> {
        if self.wide {
            self.filters.set(&filter)?;
            (self.taken, self.wide) = (filter, false);
        }
        Ok(())
    }
}

fn each_once<T: Ord + Clone>(a: &[T], b: &[T]) -> Vec<T> {
    a.iter().chain(b).cloned().collect::<BTreeSet<_>>().into_iter().collect()
}

/// Filters that are the same are equal.
fn sorted(filter: Filter) -> Filter {
    union(&filter, &Filter { dnat: filter.dnat, ..Filter::default() })
}

/// What either takes.
fn union(a: &Filter, b: &Filter) -> Filter {
    Filter {
        addresses: each_once(&a.addresses, &b.addresses),
        services: each_once(&a.services, &b.services),
        backends: each_once(&a.backends, &b.backends),
        tunnels: each_once(&a.tunnels, &b.tunnels),
        dnat: a.dnat,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Limits, PortSpec};
    use crate::wire::Mac;
    use crate::worker::{Subscriber, changes};
    use lb::{MemberSpec, Policy, PoolSpec};
    use std::net::SocketAddr;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[derive(Clone, PartialEq, Eq, Debug)]
    enum Event {
        /// The drivers take these services from now on.
        Take(Vec<SocketAddr>),
        /// A worker has this version.
        Has(u64),
    }

    /// Keeps what happened, in order; drivers have room for so many services.
    #[derive(Default)]
    struct Told {
        events: Mutex<Vec<Event>>,
        most: usize,
        fails: Mutex<bool>,
    }

    impl Filters for Arc<Told> {
        fn fits(&self, filter: &Filter) -> Result<(), OpenError> {
            match filter.services.len() > self.most {
                true => Err(OpenError(format!("{} services", filter.services.len()))),
                false => Ok(()),
            }
        }
        fn set(&self, filter: &Filter) -> Result<(), OpenError> {
            if *self.fails.lock().unwrap() {
                return Err(OpenError("no memory".into()));
            }
            self.events.lock().unwrap().push(Event::Take(filter.services.clone()));
            Ok(())
        }
    }

    fn vip(last: u8) -> SocketAddr {
        SocketAddr::new([10, 0, 0, last].into(), 443)
    }

    fn wanted(vips: &[u8], backends: &[u8]) -> Wanted {
        let member = |n: &u8| MemberSpec::new(format!("web{n}"), SocketAddr::new([10, 1, 0, *n].into(), 443));
        let pool = PoolSpec { backends: backends.iter().map(member).collect(), ..PoolSpec::default() };
        Wanted::single(vips.iter().map(|n| vip(*n)).collect(), Policy::default(), pool)
    }

    struct Scene {
        conductor: Conductor,
        workers: Vec<Subscriber>,
        told: Arc<Told>,
    }

    fn scene(workers: usize) -> Scene {
        let port = PortSpec {
            name: "p".into(),
            mac: Mac([2, 0, 0, 0, 0, 1]),
            addresses: vec![([10, 1, 0, 200].into(), 16)],
            gateways: vec![[10, 1, 0, 254].into()],
            vlans: vec![],
            mtu: 1500,
        };
        let limits = Limits { backends: 4, ..Limits::default() };
        let config = Config { ports: vec![port], wanted: wanted(&[1], &[1, 2]), limits, ..Config::default() };
        let directory = Directory::next(None, &config.wanted, |_| true).unwrap();
        let first = Arc::new(Revision::new(&config, Arc::new(directory)).unwrap());
        let told = Arc::new(Told { most: 3, ..Told::default() });
        let (publisher, subscribers) = changes::between(workers).unwrap();
        let released = Arc::new(Released::new(workers));
        let steering = (workers > 1).then(|| Arc::new(Steering::new(&config, &[1; 32], workers)));
        let conductor = Conductor::new(config, first, steering, released, publisher, Box::new(told.clone()));
        Scene { conductor, workers: subscribers, told }
    }

    impl Scene {
        /// The change is applied while the workers of these numbers look for it, until they have it.
        fn apply(&mut self, wanted: &Wanted, reset: &[&str], follow: &[usize]) -> Result<InForce, Refused> {
            let reset: Vec<String> = reset.iter().map(|name| name.to_string()).collect();
            let version = self.conductor.directory().version() + 1;
            let Scene { conductor, workers, told } = self;
            let done = AtomicBool::new(false);
            std::thread::scope(|scope| {
                for (_, worker) in workers.iter_mut().enumerate().filter(|(n, _)| follow.contains(n)) {
                    let (done, told) = (&done, &told);
                    scope.spawn(move || {
                        while !done.load(Ordering::Relaxed) {
                            // A late one skips those before.
                            if let Some(change) = worker.new_change().filter(|c| c.version() == version) {
                                told.events.lock().unwrap().push(Event::Has(version));
                                worker.acknowledge(&change);
                            }
                            std::thread::sleep(Duration::from_millis(1));
                        }
                    });
                }
                let result = conductor.apply(wanted, &reset);
                done.store(true, Ordering::Relaxed);
                result
            })
        }

        fn events(&self) -> Vec<Event> {
            std::mem::take(&mut *self.told.events.lock().unwrap())
        }

        /// Slots of the directory in force: name, and whether it is leaving.
        fn slots(&self) -> Vec<(String, bool)> {
            self.conductor.directory().backends().map(|b| (b.name.clone(), b.leaving)).collect()
        }
    }

    fn names(slots: &[(&str, bool)]) -> Vec<(String, bool)> {
        slots.iter().map(|(name, leaving)| (name.to_string(), *leaving)).collect()
    }

    #[test]
    fn drivers_take_what_is_new_before_the_workers_do_and_give_up_what_is_old_after_them() {
        let mut s = scene(2);
        let done = s.apply(&wanted(&[2, 3], &[1, 2]), &[], &[0, 1]).unwrap();
        assert_eq!((done.version, done.workers, done.late), (2, 2, None));
        let (both, new) = (vec![vip(1), vip(2), vip(3)], vec![vip(2), vip(3)]);
        // What is leaving may have flows.
        assert_eq!(s.events(), [Event::Take(both), Event::Has(2), Event::Has(2)]);
        assert!(s.conductor.directory().service_at(vip(3)).is_some());
        let leaving = s.conductor.directory().listener(vip(1)).unwrap().flows().clone();
        leaving.opened(1);
        // What changes no address asks the kernel for nothing.
        s.apply(&wanted(&[2, 3], &[2]), &[], &[0, 1]).unwrap();
        assert_eq!(s.events(), [Event::Has(3), Event::Has(3)]);
        leaving.closed(1);
        s.apply(&wanted(&[2, 3], &[2]), &[], &[0, 1]).unwrap();
        assert_eq!(s.events(), [Event::Has(4), Event::Has(4), Event::Take(new)]);
    }

    #[test]
    fn a_listener_is_given_up_when_its_last_flow_is_forgotten_without_anybody_asking() {
        let mut s = scene(1);
        let flows = s.conductor.directory().listener(vip(1)).unwrap().flows().clone();
        flows.opened(0);
        s.apply(&wanted(&[2], &[1, 2]), &[], &[0]).unwrap();
        s.conductor.settle();
        assert_eq!(s.conductor.directory().version(), 2);
        flows.closed(0);
        // Nobody takes it over: the version is there all the same.
        s.conductor.patience = Duration::from_millis(20);
        s.conductor.settle();
        assert_eq!(s.conductor.directory().version(), 3);
        assert!(s.conductor.directory().listener(vip(1)).is_none());
    }

    #[test]
    fn what_is_refused_changes_nothing() {
        let mut s = scene(1);
        let before = s.conductor.directory().clone();
        let mut twice = wanted(&[2], &[1]);
        twice.services[0].listen.push(vip(2));
        let too_many =
            "(while a change is made, together with what it replaces, and with what is leaving: make it in two steps)";
        for (wanted, why) in [
            (twice, "service default listens at 10.0.0.2:443 already".to_string()),
            (wanted(&[2, 3, 4, 5], &[1]), "4 services".into()),
            (wanted(&[2, 3, 4], &[1]), format!("4 services {too_many}")),
            (wanted(&[2], &[200]), "backend web200: 10.1.0.200 is our own address".into()),
        ] {
            assert_eq!(s.conductor.dry_run(&wanted).map_err(|e| e.to_string()).err(), Some(why.clone()));
            assert_eq!(s.conductor.apply(&wanted, &[]).map_err(|e| e.to_string()), Err(why));
        }
        assert!(Arc::ptr_eq(s.conductor.directory(), &before));
        assert!(s.workers[0].new_change().is_none());
        assert_eq!(s.events(), []);
        assert_eq!(s.conductor.dry_run(&wanted(&[2], &[1])).unwrap().version(), 2);
    }

    #[test]
    fn when_the_kernel_refuses_the_filter_nothing_is_published_and_what_it_took_is_given_up_later() {
        let mut s = scene(1);
        *s.told.fails.lock().unwrap() = true;
        assert_eq!(s.apply(&wanted(&[2], &[1]), &[], &[0]), Err(Refused::Impossible("no memory".into())));
        assert!(s.workers[0].new_change().is_none());
        assert_eq!(s.conductor.settle(), Some("no memory; it is tried again".into()));
        assert_eq!(s.conductor.settle(), None, "told once");
        *s.told.fails.lock().unwrap() = false;
        assert_eq!(s.conductor.settle(), None);
        assert_eq!(s.events(), [Event::Take(vec![vip(1)])]);
    }

    #[test]
    fn a_slot_is_given_away_when_all_workers_have_let_go_of_it_and_not_while_one_is_late() {
        let mut s = scene(2);
        s.apply(&wanted(&[1], &[1]), &[], &[0, 1]).unwrap();
        assert_eq!(s.slots(), names(&[("web1", false), ("web2", true)]));
        s.conductor.settle();
        assert_eq!(s.conductor.directory().version(), 2, "nobody has let go");
        let released = s.conductor.released.clone();
        released.release(0, BackendId(1), 0);
        released.release(1, BackendId(1), 0);
        // One of them has not acknowledged a version: it may know less than the other.
        s.conductor.publisher.publish({
            let directory = Directory::next(Some(s.conductor.directory()), &wanted(&[1], &[1]), |_| false).unwrap();
            let revision = Arc::new(Revision::new(&s.conductor.config, Arc::new(directory)).unwrap());
            s.conductor.change = Change { revision, steering: None };
            s.conductor.change.clone()
        });
        assert_eq!(s.conductor.dry_run(&wanted(&[1], &[1])).unwrap().backends().count(), 2);
        s.conductor.settle();
        assert_eq!(s.slots().len(), 2);
        for worker in &mut s.workers {
            let change = worker.new_change().unwrap();
            worker.acknowledge(&change);
        }
        assert_eq!(s.conductor.dry_run(&wanted(&[1], &[1])).unwrap().backends().count(), 1);
    }

    /// A worker takes over the latest version only. Whom an earlier one resets must be in it, until all have heard.
    #[test]
    fn a_reset_that_a_late_worker_has_skipped_is_in_the_next_version_too() {
        let mut s = scene(2);
        let of = |s: &Scene| s.conductor.change.revision.resets().iter().collect::<Vec<_>>();
        s.conductor.patience = Duration::from_millis(50);
        let late = s.apply(&wanted(&[1], &[1]), &["web2", "web1"], &[0]).unwrap();
        s.conductor.patience = PATIENCE;
        assert_eq!(late.late.map(|l| l.workers), Some(vec![1]));
        assert_eq!(of(&s), [BackendId(1)], "web1 is wanted");
        s.conductor.settle();
        s.apply(&wanted(&[2], &[1]), &[], &[0, 1]).unwrap();
        assert_eq!(of(&s), [BackendId(1)]);
        s.apply(&wanted(&[1], &[1]), &[], &[0, 1]).unwrap();
        assert_eq!(of(&s), []);
    }
}
