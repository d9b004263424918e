//! Real threads: limits hold at every moment anybody looks, and everybody who waits goes.
#![cfg(not(loom))]

use lb::admission::{Admission, Answer, ClassId, Classes, Config, Cost, Limits, Request, Slots, Used};
use lb::{BackendId, Millis};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

const BACKENDS: u16 = 3;
const LIMITS: Limits = Limits { connections: Some(7), units: Some(25) };

#[test]
fn threads_never_pass_a_limit_and_nobody_is_forgotten() {
    const REQUESTS: u64 = 20_000;
    let slots = Arc::new(Slots::new(usize::from(BACKENDS)));
    (0..BACKENDS).for_each(|id| slots.set_limits(BackendId(id), LIMITS));
    let config = Config {
        classes: Classes::default(),
        members: (0..BACKENDS).map(BackendId).collect(),
        spill_after: Some(std::time::Duration::from_millis(5)),
    };
    let (done, at_work) = (AtomicBool::new(false), AtomicUsize::new(3));
    std::thread::scope(|scope| {
        for (me, mut admission) in Admission::for_workers(config, &slots, 3).into_iter().enumerate() {
            let at_work = &at_work;
            scope.spawn(move || {
                let mut x = me as u64 + 1;
                let mut random = move |n: u64| {
                    x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    (x >> 33) % n
                };
                let (mut open, mut asked, mut now, mut idle) = (vec![], 0, 0, 0u64);
                // Others may need to be offered what is freed here, and offers passed on, until all are served.
                let mut left = false;
                while at_work.load(Ordering::Acquire) > 0 {
                    now += 1;
                    // Here a turn is a millisecond, and a time-out that would hide somebody forgotten is far away.
                    let now = Millis(now / 1000);
                    if asked < REQUESTS && admission.waiting() < 100 {
                        asked += 1;
                        let own = BackendId(random(u64::from(BACKENDS)) as u16);
                        let (class, cost, own) = match random(3) {
                            0 => (2, Cost::Full, None),
                            1 => (1, Cost::NotTls, None),
                            _ => (0, Cost::Resumed, Some(own)),
                        };
                        let request = Request { token: asked, class: ClassId(class), cost, own };
                        let answer =
                            admission.admit(now, request, |may| (0..BACKENDS).map(BackendId).find(|&id| may(id)));
                        if let Answer::Admitted(slot) = answer {
                            open.push(slot);
                        }
                    }
                    while let Some(grant) = admission.next(now) {
                        open.push(grant.slot);
                        idle = 0;
                    }
                    while admission.wake().is_some() {}
                    if !open.is_empty() && random(3) == 0 {
                        let mut slot = open.swap_remove(random(open.len() as u64) as usize);
                        if slot.units() > 0 {
                            admission.handshake_done(&mut slot);
                            open.push(slot);
                        } else {
                            admission.freed(slot);
                        }
                    }
                    if asked == REQUESTS && admission.waiting() == 0 && open.is_empty() && !left {
                        left = true;
                        at_work.fetch_sub(1, Ordering::AcqRel);
                    }
                    idle += 1;
                    if idle.is_multiple_of(64) {
                        std::thread::yield_now();
                    }
                }
                let sum = admission.metrics().sum();
                assert_eq!((sum.asked, sum.admitted), (REQUESTS, REQUESTS), "{sum:?}");
                assert!(sum.waited > 0);
            });
        }
        let (slots, done, at_work) = (&slots, &done, &at_work);
        scope.spawn(move || {
            while at_work.load(Ordering::Acquire) > 0 {
                for id in (0..BACKENDS).map(BackendId) {
                    let used = slots.used(id);
                    assert!(LIMITS.hold(used), "{used:?}");
                }
                std::thread::yield_now();
            }
            done.store(true, Ordering::Release);
        });
    });
    assert!(done.load(Ordering::Acquire));
    (0..BACKENDS).for_each(|id| assert_eq!(slots.used(BackendId(id)), Used::default()));
}
