//! What is told while both processes still run, and of what nothing is missed that changes until the end: trails of connections, and what checks have counted.

use crate::checks::Report;
use crate::engine::moving::pack_trails;
use crate::engine::trail::{Sought, TRAILS};
use crate::pack::{Ids, Pack, Packer, Unpacker, Unreadable, count};
use crate::worker::listing::{Listing, LookFor};
use crate::worker::{Conductor, Worker};
use core::time::Duration;
use lb::{BackendId, Directory};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

/// Counts of checks are a section.
const CHECKS: u32 = 15;
const VERSION: u32 = 1;

/// How long workers may take to tell of their trails. What is not told by then does not come along, unless it still changes.
const PATIENCE: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(1);

/// The trails of all workers, beside their work.
pub(super) fn trails(workers: &[Worker], conductor: &Conductor) -> Vec<u8> {
    let ask = |worker: &Worker| {
        let listing = Arc::new(Listing::new(LookFor::Trails(Sought::default()), TRAILS));
        worker.list(listing.clone());
        listing
    };
    let listings: Vec<_> = workers.iter().map(ask).collect();
    conductor.rouse();
    let until = Instant::now() + PATIENCE;
    while !listings.iter().all(|listing| listing.is_over()) && Instant::now() < until {
        std::thread::sleep(LOOK);
    }
    let found = |listing: &Arc<Listing>| {
        listing.give_up();
        listing.take()
    };
    let found: Vec<_> = listings.iter().map(found).collect();
    let trails = found.iter().flat_map(|found| found.trails.iter().map(|(trail, _)| trail));
    pack_trails(trails, conductor.directory())
}

/// What the checks of a backend have counted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CheckCounts {
    name: String,
    addr: SocketAddr,
    passed: u64,
    failed: u64,
}

/// Writes those of all backends.
pub(super) fn pack_checks(reports: &[Report], directory: &Directory) -> Vec<u8> {
    let counted = |report: &Report| {
        let b = directory.backend(report.backend).filter(|b| b.generation == report.generation)?;
        let (passed, failed) = (report.verdict.passed, report.verdict.failed);
        Some(CheckCounts { name: b.name.clone(), addr: b.addr, passed, failed })
    };
    let all: Vec<CheckCounts> = reports.iter().filter_map(counted).collect();
    let mut to = Packer::new();
    to.section(CHECKS, VERSION, |to| {
        super::pack_all(&all, to, |one, to| {
            (one.name.clone(), one.addr).pack(to);
            (one.passed, one.failed).pack(to);
        });
    });
    to.into_bytes()
}

/// Reads them.
pub(super) fn read_checks(bytes: &[u8]) -> Result<Vec<CheckCounts>, Unreadable> {
    let nobody = Ids::default();
    let section = Unpacker::new(bytes, &nobody).section()?.ok_or(Unreadable::CutOff)?;
    if (section.kind, section.version) != (CHECKS, VERSION) {
        return Err(Unreadable::Unknown { kind: section.kind, version: section.version });
    }
    super::unpack_all(&mut Unpacker::new(section.bytes, &nobody), |from| {
        let (name, addr) = Pack::unpack(from)?;
        Ok(CheckCounts { name, addr, passed: count(from)?, failed: count(from)? })
    })
}

impl CheckCounts {
    /// By the backends' numbers here, of those that are wanted here: checks that have passed and failed.
    pub fn here(all: &[CheckCounts], directory: &Directory) -> Vec<((BackendId, u32), [u64; 2])> {
        let one = |b: &lb::Backend| {
            let counted = all.iter().find(|counted| counted.name == b.name && counted.addr == b.addr)?;
            Some(((b.id, b.generation), [counted.passed, counted.failed]))
        };
        directory.backends().filter(|b| !b.leaving).filter_map(one).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::Verdict;
    use crate::time::Time;
    use proptest::prelude::*;

    fn report(b: &lb::Backend, passed: u64, failed: u64) -> Report {
        let mut verdict = Verdict::unknown(Time::ZERO);
        (verdict.passed, verdict.failed) = (passed, failed);
        let (backend, generation) = (b.id, b.generation);
        Report { backend, generation, kind: None, verdict, suspicion: None, agent: None, keys: None }
    }

    fn directory(backends: &[(&str, &str)]) -> Directory {
        let backends = backends.iter().map(|(name, addr)| lb::MemberSpec::new(*name, addr.parse().unwrap()));
        let pool = lb::PoolSpec { backends: backends.collect(), ..lb::PoolSpec::default() };
        let wanted = lb::Wanted::single(vec!["10.0.0.1:443".parse().unwrap()], lb::Policy::default(), pool);
        Directory::next(None, &wanted, |_| true).unwrap()
    }

    #[test]
    fn what_checks_have_counted_goes_to_who_has_the_name_and_the_address_and_to_nobody_else() {
        let there = directory(&[("a", "10.0.1.1:443"), ("b", "10.0.1.2:443"), ("c", "10.0.1.3:443")]);
        let reports: Vec<Report> = there.backends().zip(1..).map(|(b, n)| report(b, 10 * n, n)).collect();
        let counts = read_checks(&pack_checks(&reports, &there)).unwrap();
        // In another order; and b is somewhere else.
        let here = directory(&[("c", "10.0.1.3:443"), ("b", "10.0.1.9:443"), ("a", "10.0.1.1:443")]);
        let named = |name: &str| here.backends().find(|b| b.name == name).map(|b| (b.id, b.generation)).unwrap();
        let mut got = CheckCounts::here(&counts, &here);
        got.sort_unstable();
        assert_eq!(got, [(named("c"), [30, 3]), (named("a"), [10, 1])]);
    }

    #[test]
    fn counts_that_are_cut_off_or_too_great_are_refused() {
        let there = directory(&[("a", "10.0.1.1:443")]);
        let one = there.backends().next().unwrap();
        let packed = pack_checks(&[report(one, 5, 6)], &there);
        assert_eq!(read_checks(&packed).unwrap().len(), 1);
        for cut in 0..packed.len() {
            assert!(read_checks(&packed[..cut]).is_err(), "cut at {cut}");
        }
        let great = pack_checks(&[report(one, u64::MAX, 6)], &there);
        assert_eq!(read_checks(&great), Err(Unreadable::Impossible("a count")));
    }

    proptest! {
        #[test]
        fn any_bytes_are_counts_or_refused(bytes: Vec<u8>) {
            let mut to = Packer::new();
            to.section(CHECKS, VERSION, |to| to.raw(&bytes));
            _ = read_checks(&to.into_bytes());
            _ = read_checks(&bytes);
        }
    }
}
