//! What the service manager is told, and when (sd_notify(3)): that we are ready, what we do, and that we are alive.
//!
//! A datagram to the socket that `NOTIFY_SOCKET` names; without it nothing is done. Who listens there is no reason for us to wait or to fail.

use crate::io::kernel;
use std::ffi::{OsStr, OsString};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

/// Half of the time after which the manager takes us for dead, so that one message may be late.
const SHARE: u32 = 2;

/// By whom a process is watched: what one that takes over must know, since the manager tells it to the first process of a service only.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Watched {
    /// Where it listens, as in `NOTIFY_SOCKET`.
    pub socket: Option<String>,
    /// How often it is told that we live.
    pub every: Option<Duration>,
}

/// The way to the service manager.
#[derive(Debug, Default)]
pub struct Manager {
    name: Option<OsString>,
    to: Option<(UnixDatagram, SocketAddr)>,
    /// How often it wants to hear that we live.
    every: Option<Duration>,
    last: Option<Instant>,
    status: String,
}

impl Manager {
    /// As the environment says.
    pub fn from_environment() -> Manager {
        let of_us = std::env::var("WATCHDOG_PID").map_or(true, |pid| pid == std::process::id().to_string());
        let watchdog = std::env::var("WATCHDOG_USEC").ok().filter(|_| of_us);
        Manager::new(std::env::var_os("NOTIFY_SOCKET"), watchdog.as_deref())
    }

    /// `socket`: a path, or @ and an abstract name. `watchdog`: microseconds.
    pub fn new(socket: Option<OsString>, watchdog: Option<&str>) -> Manager {
        let every = watchdog.and_then(|us| us.parse().ok()).filter(|us| *us > 0).map(Duration::from_micros);
        let to = socket.as_deref().and_then(connect);
        Manager { name: socket, to, every: every.map(|every| every / SHARE), last: None, status: String::new() }
    }

    /// By whom this process is watched.
    pub fn watched(&self) -> Watched {
        Watched { socket: self.name.as_ref().and_then(|name| name.clone().into_string().ok()), every: self.every }
    }

    fn say(&self, what: &str) {
        if let Some((from, to)) = &self.to {
            // It is full, or gone: the next message says the same.
            let _ = from.send_to_addr(what.as_bytes(), to);
        }
    }

    /// All workers run.
    pub fn ready(&mut self, status: &str) {
        self.say(&format!("READY=1\nSTATUS={status}\n"));
        self.status = status.to_string();
    }

    /// A reload begins; [`Manager::ready`] ends it. The manager wants to know when, by CLOCK_MONOTONIC.
    pub fn reloading(&self) {
        self.say(&format!("RELOADING=1\nMONOTONIC_USEC={}\n", kernel::monotonic().as_micros()));
    }

    /// All workers run, and this process is the service's from now on, in another's place, which was watched like that. What our own environment says goes first.
    pub fn took_over(&mut self, status: &str, before: Watched) {
        if self.to.is_none() {
            self.name = before.socket.map(OsString::from);
            self.to = self.name.as_deref().and_then(connect);
        }
        self.every = self.every.or(before.every);
        self.say(&format!("MAINPID={}\nREADY=1\nSTATUS={status}\n", std::process::id()));
        self.status = status.to_string();
    }

    /// Another process is the service from now on.
    pub fn hands_over_to(&self, pid: i32) {
        self.say(&format!("MAINPID={pid}\n"));
    }

    /// The end has begun.
    pub fn stopping(&self) {
        self.say("STOPPING=1\nSTATUS=stopping\n");
    }

    /// One line for `systemctl status`, when it is another than before. It is asked for only where somebody listens.
    pub fn status(&mut self, status: impl FnOnce() -> String) {
        if self.to.is_none() {
            return;
        }
        let status = status();
        if status != self.status {
            self.say(&format!("STATUS={status}\n"));
            self.status = status;
        }
    }

    /// We live, if `alive`, which is asked only when it is time to say so.
    pub fn beat(&mut self, now: Instant, alive: impl FnOnce() -> bool) {
        let Some(every) = self.every else { return };
        if self.last.is_none_or(|last| now.duration_since(last) >= every) && alive() {
            self.say("WATCHDOG=1\n");
            self.last = Some(now);
        }
    }
}

fn connect(name: &OsStr) -> Option<(UnixDatagram, SocketAddr)> {
    let at = match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name).ok()?,
        _ => SocketAddr::from_pathname(name).ok()?,
    };
    let from = UnixDatagram::unbound().ok()?;
    from.set_nonblocking(true).ok()?;
    Some((from, at))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(socket: &UnixDatagram) -> Option<String> {
        let mut buffer = [0; 512];
        socket.set_nonblocking(true).unwrap();
        let len = socket.recv(&mut buffer).ok()?;
        Some(String::from_utf8_lossy(&buffer[..len]).into_owned())
    }

    #[test]
    fn the_manager_hears_what_happens_and_that_we_live_only_while_we_do() {
        let path = std::env::temp_dir().join(format!("dispatcher-notify-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let socket = UnixDatagram::bind(&path).unwrap();
        let mut manager = Manager::new(Some(path.clone().into()), Some("2000000"));
        manager.ready("2 workers");
        assert_eq!(heard(&socket).unwrap(), "READY=1\nSTATUS=2 workers\n");
        manager.reloading();
        assert!(heard(&socket).unwrap().starts_with("RELOADING=1\nMONOTONIC_USEC="));
        manager.status(|| "a".into());
        manager.status(|| "a".into());
        assert_eq!((heard(&socket).as_deref(), heard(&socket)), (Some("STATUS=a\n"), None), "once");
        let start = Instant::now();
        let beat = |manager: &mut Manager, ms, alive| manager.beat(start + Duration::from_millis(ms), || alive);
        beat(&mut manager, 0, false);
        assert_eq!(heard(&socket), None, "nobody is told that the dead live");
        beat(&mut manager, 1, true);
        beat(&mut manager, 500, true);
        beat(&mut manager, 1002, true);
        assert_eq!((heard(&socket).is_some(), heard(&socket).is_some(), heard(&socket)), (true, true, None));
        manager.hands_over_to(7);
        manager.took_over("2 workers", Watched::default());
        let pid = std::process::id();
        assert_eq!(heard(&socket).unwrap(), "MAINPID=7\n");
        assert_eq!(heard(&socket).unwrap(), format!("MAINPID={pid}\nREADY=1\nSTATUS=2 workers\n"));
        // Of one that takes over the manager's environment says nothing of a watchdog: until that was passed on it was killed after WatchdogSec.
        let mut heir = Manager::new(None, None);
        heir.took_over("2 workers", manager.watched());
        assert_eq!(heard(&socket).unwrap(), format!("MAINPID={pid}\nREADY=1\nSTATUS=2 workers\n"));
        beat(&mut heir, 2, true);
        assert_eq!((heard(&socket).as_deref(), heir.watched()), (Some("WATCHDOG=1\n"), manager.watched()));
        // Without one who listens, or a socket, nothing is waited for.
        std::fs::remove_file(&path).unwrap();
        manager.stopping();
        let mut nobody = Manager::new(None, None);
        nobody.ready("");
        nobody.status(|| panic!("nobody asks"));
        nobody.beat(start, || panic!("nobody asks"));
    }

    #[test]
    fn abstract_names_are_known_too() {
        let name = format!("dispatcher-notify-{}", std::process::id());
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        Manager::new(Some(format!("@{name}").into()), None).stopping();
        assert_eq!(heard(&socket).unwrap(), "STOPPING=1\nSTATUS=stopping\n");
    }
}
