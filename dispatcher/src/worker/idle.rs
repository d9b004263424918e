//! What a worker does when nothing has arrived.

use super::changes::Subscriber;
use super::exchange::Exchange;
use super::post::Window;
use crate::io::{Receiver, wait_readable};
use core::time::Duration;
use std::os::fd::RawFd;

/// The strategies of `--idle`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Idle {
    /// Look again at once: least latency, one whole core.
    Spin,
    /// Let others run, then look again: for cores shared with something that needs them now and then.
    Yield,
    /// Look again a few times, then sleep until a frame arrives or something is due: for shared machines.
    #[default]
    Sleep,
}

/// Empty turns before a worker that may sleep does.
const PATIENCE: u32 = 8;

/// Longest sleep: how late a stop or a snapshot may be.
pub const LONGEST_SLEEP: Duration = Duration::from_millis(50);

/// Longest sleep while some receiver has nothing to be waited on.
const BLIND_SLEEP: Duration = Duration::from_micros(500);

/// Remembers how long nothing has arrived.
pub(super) struct Idler {
    strategy: Idle,
    empty: u32,
    fds: Vec<RawFd>,
}

impl Idler {
    pub(super) fn new(strategy: Idle, ports: usize) -> Idler {
        Idler { strategy, empty: 0, fds: Vec::with_capacity(2 * ports + 3) }
    }

    /// Frames have arrived.
    pub(super) fn busy(&mut self) {
        self.empty = 0;
    }

    /// None have; the next thing is due in `due`. What others may put where no inbox is, `offered` looks for, when it has been said that we sleep.
    pub(super) fn rest(
        &mut self,
        receivers: &mut [Box<dyn Receiver>],
        exchange: Option<&Exchange>,
        changes: Option<&Subscriber>,
        window: Option<&Window>,
        due: Option<Duration>,
        offered: impl Fn() -> bool,
    ) {
        match self.strategy {
            Idle::Spin => core::hint::spin_loop(),
            Idle::Yield => std::thread::yield_now(),
            Idle::Sleep => {
                self.empty = self.empty.saturating_add(1);
                if self.empty <= PATIENCE {
                    std::thread::yield_now();
                    return;
                }
                let mut limit = due.unwrap_or(LONGEST_SLEEP).min(LONGEST_SLEEP);
                self.fds.clear();
                for receiver in receivers.iter() {
                    let fds = receiver.wait_fds();
                    if fds.is_empty() {
                        limit = limit.min(BLIND_SLEEP);
                    }
                    self.fds.extend(fds);
                }
                if limit.is_zero() {
                    return;
                }
                if let Some(exchange) = exchange {
                    match exchange.doze() {
                        Some(bell) if !offered() => self.fds.push(bell),
                        _ => return exchange.awake(),
                    }
                }
                self.fds.extend(changes.map(Subscriber::bell));
                self.fds.extend(window.map(Window::bell));
                let device_event = wait_readable(&self.fds, limit);
                if let Some(exchange) = exchange {
                    exchange.awake();
                }
                if let Some(changes) = changes {
                    changes.awake();
                }
                if let Some(window) = window {
                    window.awake();
                }
                if device_event {
                    receivers.iter_mut().for_each(|r| r.device_event());
                }
            }
        }
    }
}
