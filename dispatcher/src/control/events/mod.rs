//! What has happened to the dispatcher: a bounded list, numbered, with the latest of it kept.
//!
//! [`watch`] finds out what happened, by looking at what everybody tells anyway; [`Events`] keeps it, says it in the log, and wakes those who wait for
//! more. Nothing that a client does makes an event of its own: what clients bring about is told as a sum, once a while.

pub mod watch;

use super::socket::api;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch as change;

/// Events that are kept; before a further one the oldest goes.
pub const KEPT: usize = 4096;

/// Events of one kind that may come at once. As many as there may be backends' states to tell.
const BURST: f64 = 1024.0;

/// Events of one kind in a second, for long. What is more is counted, and told as one.
const RATE: f64 = 2.0;

/// Longest text and longest value of a field, in characters.
const LONGEST: usize = 400;

/// What an event is about.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// A backend is up or down for the workers.
    Backend,
    /// A tunnel whose packets are sealed came up, or was lost.
    Tunnel,
    /// An agent on a backend's host says something else.
    Agent,
    /// A ticket key was seen first, or is no longer among those that are known.
    Key,
    /// A server that does not take the tickets that it issues.
    Tickets,
    /// Something else is in force.
    Configuration,
    /// An operator's word: given, or over.
    Override,
    /// A port's link or device.
    Link,
    /// A worker took too long for a turn of its loop, or has died.
    Worker,
    /// A table or queue fills, is full, or has room again.
    Room,
    /// Lines of a log were lost.
    Log,
    /// This process took over from another, or another one failed to.
    Takeover,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 12] = [
        Kind::Backend,
        Kind::Tunnel,
        Kind::Agent,
        Kind::Key,
        Kind::Tickets,
        Kind::Configuration,
        Kind::Override,
        Kind::Link,
        Kind::Worker,
        Kind::Room,
        Kind::Log,
        Kind::Takeover,
    ];

    /// As it is told.
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::Backend => "backend",
            Kind::Tunnel => "tunnel",
            Kind::Agent => "agent",
            Kind::Key => "key",
            Kind::Tickets => "tickets",
            Kind::Configuration => "configuration",
            Kind::Override => "override",
            Kind::Link => "link",
            Kind::Worker => "worker",
            Kind::Room => "room",
            Kind::Log => "log",
            Kind::Takeover => "takeover",
        }
    }
}

/// Something that has happened.
#[derive(Clone, PartialEq, Debug)]
pub struct News {
    /// What it is about.
    pub kind: Kind,
    /// Somebody should look at it.
    pub bad: bool,
    /// The log has it already, in other words.
    pub logged: bool,
    /// Particulars, for programs: names come from the configuration or from the program.
    pub fields: Vec<(&'static str, String)>,
    /// In a sentence.
    pub text: String,
}

impl News {
    /// Without particulars.
    pub fn new(kind: Kind, bad: bool, text: impl Into<String>) -> News {
        News { kind, bad, logged: false, fields: Vec::new(), text: text.into() }
    }

    /// With one more particular.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl ToString) -> News {
        self.fields.push((name, value.to_string()));
        self
    }
}

/// The events, for whoever has a copy of this.
#[derive(Clone)]
pub struct Events {
    kept: Arc<Mutex<Kept>>,
    latest: Arc<change::Sender<u64>>,
}

#[derive(Default)]
struct Kept {
    events: VecDeque<api::Event>,
    last: u64,
    gates: BTreeMap<Kind, Gate>,
}

/// How many of a kind may still come.
struct Gate {
    left: f64,
    at: f64,
    held: u64,
}

impl Default for Events {
    fn default() -> Events {
        Events { kept: Arc::default(), latest: Arc::new(change::Sender::new(0)) }
    }
}

impl Events {
    /// Keeps it, and says it in the log. `now`: seconds since 1970.
    pub fn tell(&self, news: News, now: f64) {
        let mut kept = self.lock();
        let gate = kept.gates.entry(news.kind).or_insert(Gate { left: BURST, at: now, held: 0 });
        gate.refill(now);
        if gate.left < 1.0 {
            gate.held += 1;
            return;
        }
        gate.left -= 1.0;
        kept.push(news, now);
        let last = kept.last;
        drop(kept);
        self.latest.send_replace(last);
    }

    /// Tells how many of a kind were too many, where there is room for that again. To be called now and then.
    pub fn tick(&self, now: f64) {
        let mut kept = self.lock();
        let held: Vec<_> = kept
            .gates
            .iter_mut()
            .filter_map(|(kind, gate)| {
                gate.refill(now);
                (gate.held > 0 && gate.left >= 1.0).then(|| {
                    gate.left -= 1.0;
                    (*kind, core::mem::take(&mut gate.held))
                })
            })
            .collect();
        for (kind, count) in held {
            let text = format!("{count} further events of the kind '{}' came too fast to be kept", kind.as_str());
            kept.push(News::new(kind, false, text).with("count", count), now);
        }
        let last = kept.last;
        drop(kept);
        self.latest.send_if_modified(|known| core::mem::replace(known, last) != last);
    }

    /// Goes on with those of the process that was taken over, which are JSON as [`Events::to_json`] makes it. Their numbers go on, too. Nothing of it is taken, and false is said, if
    /// it cannot be read, or if something was told here before.
    pub fn go_on(&self, json: &[u8]) -> bool {
        let Ok(mut events) = serde_json::from_slice::<VecDeque<api::Event>>(json) else { return false };
        let consecutive =
            events.iter().zip(events.iter().skip(1)).all(|(a, b)| a.number.checked_add(1) == Some(b.number));
        let mut kept = self.lock();
        if !consecutive || kept.last > 0 {
            return false;
        }
        events.drain(..events.len().saturating_sub(KEPT));
        kept.last = events.back().map_or(0, |event| event.number);
        kept.events = events;
        let last = kept.last;
        drop(kept);
        self.latest.send_replace(last);
        true
    }

    /// All that are kept, for another process.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(&self.lock().events).unwrap_or_default()
    }

    /// Those behind number `after`, oldest first, `most` at once.
    pub fn after(&self, after: u64, most: usize) -> api::Events {
        let kept = self.lock();
        // Their numbers have no gaps. One that is ahead of us knows another dispatcher, of before a restart.
        let after = if after > kept.last { 0 } else { after };
        let first = kept.events.front().map_or(kept.last + 1, |e| e.number);
        let skip = (after + 1).saturating_sub(first);
        let events = kept.events.iter().skip(skip as usize).take(most).cloned().collect();
        api::Events { last: kept.last, lost: first.saturating_sub(after + 1), events }
    }

    /// The latest `most`.
    pub fn latest(&self, most: usize) -> api::Events {
        let last = self.lock().last;
        self.after(last.saturating_sub(most as u64), most)
    }

    /// Comes back when there is one behind number `after`.
    pub async fn wait(&self, after: u64) {
        let mut latest = self.latest.subscribe();
        // The sender lives as long as this.
        let _ = latest.wait_for(|last| *last > after).await;
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        // What is kept is whole, whoever died.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Gate {
    fn refill(&mut self, now: f64) {
        self.left = (self.left + (now - self.at).max(0.0) * RATE).min(BURST);
        self.at = now;
    }
}

impl Kept {
    fn push(&mut self, news: News, now: f64) {
        let News { kind, bad, logged, fields, text } = news;
        if self.events.len() >= KEPT {
            self.events.pop_front();
        }
        self.last += 1;
        let fields = fields.into_iter().map(|(name, value)| (name.to_string(), plain(&value))).collect();
        let event = api::Event {
            number: self.last,
            time: now,
            kind: kind.as_str().to_string(),
            level: (if bad { "warning" } else { "info" }).to_string(),
            fields,
            text: plain(&text),
        };
        if !logged {
            log(&event, bad);
        }
        self.events.push_back(event);
    }
}

/// One line without control characters, and no longer than it may be: servers and files have their part in it.
fn plain(text: &str) -> String {
    text.chars().take(LONGEST).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Says it in the log, with its fields. Names of fields in the log are fixed when the program is built.
fn log(event: &api::Event, bad: bool) {
    let of = |name: &str| event.fields.get(name).map(String::as_str);
    macro_rules! say {
        ($level:ident) => {
            tracing::$level!(
                event = event.number,
                kind = event.kind.as_str(),
                backend = of("backend"),
                port = of("port"),
                worker = of("worker"),
                state = of("state"),
                by = of("by"),
                why = of("why"),
                key = of("key"),
                table = of("table"),
                count = of("count"),
                seconds = of("seconds"),
                version = of("version"),
                "{}",
                event.text
            )
        };
    }
    if bad { say!(warn) } else { say!(info) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(n: usize) -> News {
        News::new(Kind::Backend, false, format!("{n}")).with("backend", n)
    }

    #[test]
    fn the_latest_are_kept_with_numbers_without_gaps_and_who_comes_too_late_hears_how_many_he_missed() {
        let events = Events::default();
        // Slowly enough for all to be let through.
        (0..KEPT + 10).for_each(|n| events.tell(one(n), n as f64));
        let told = events.after(0, usize::MAX);
        assert_eq!((told.events.len(), told.lost, told.last), (KEPT, 10, KEPT as u64 + 10));
        assert!(told.events.windows(2).all(|two| two[0].number + 1 == two[1].number));
        let told = events.after(20, 3);
        assert_eq!(told.events.iter().map(|e| e.number).collect::<Vec<_>>(), [21, 22, 23]);
        assert_eq!((told.lost, events.latest(2).events.len(), events.after(told.last, 9).events.len()), (0, 2, 0));
        assert_eq!(events.after(1 << 40, usize::MAX).events.len(), KEPT, "of another dispatcher, before a restart");
    }

    #[test]
    fn a_process_that_takes_over_goes_on_with_events_and_their_numbers_and_believes_no_others() {
        let (old, new) = (Events::default(), Events::default());
        (0..KEPT + 10).for_each(|n| old.tell(one(n), n as f64));
        let json = old.to_json();
        assert!(!new.go_on(&json[..json.len() - 1]));
        assert!(!new.go_on(String::from_utf8(json.clone()).unwrap().replacen(":20,", ":21,", 1).as_bytes()));
        assert!(new.go_on(&json));
        assert_eq!(new.after(0, usize::MAX), old.after(0, usize::MAX));
        new.tell(one(0), 1e6);
        assert_eq!(new.latest(1).events[0].number, KEPT as u64 + 11);
        assert!(!new.go_on(&json), "it has events of its own");
    }

    #[test]
    fn what_comes_too_fast_is_told_as_a_number_and_keeps_no_other_kind_out() {
        let events = Events::default();
        (0..5000).for_each(|n| events.tell(one(n), 1.0));
        assert_eq!(events.after(0, usize::MAX).last, 1024);
        events.tell(News::new(Kind::Link, true, "down"), 1.0);
        assert_eq!(events.after(0, usize::MAX).last, 1025);
        events.tick(1.0);
        assert_eq!(events.after(0, usize::MAX).last, 1025, "there is no room for it yet");
        events.tick(2.0);
        let last = events.latest(1).events.remove(0);
        assert_eq!((last.fields["count"].as_str(), last.kind.as_str()), ("3976", "backend"));
        // An hour of it: twice a second, and no more.
        (0..360_000).for_each(|n| events.tell(one(n), 2.0 + n as f64 / 100.0));
        assert!(events.after(0, 0).last < 1026 + 7300, "{}", events.after(0, 0).last);
    }

    #[test]
    fn what_servers_say_is_one_line_of_bounded_length() {
        let events = Events::default();
        events.tell(News::new(Kind::Agent, false, "a\nb\x1b[2J").with("why", "x".repeat(9000)), 1.0);
        let told = events.latest(1).events.remove(0);
        assert_eq!((told.text.as_str(), told.fields["why"].len()), ("a b [2J", LONGEST));
    }

    #[test]
    fn who_waits_is_woken_by_the_next_one() {
        let events = Events::default();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let other = events.clone();
            let waiting = tokio::spawn(async move { other.wait(0).await });
            tokio::task::yield_now().await;
            assert!(!waiting.is_finished());
            events.tell(one(1), 1.0);
            waiting.await.unwrap();
            events.wait(0).await;
        });
    }
}
