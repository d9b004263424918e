//! The log of `dispatcher run`, on standard error: lines for people, or JSON objects for programs.
//!
//! A line that cannot be written is lost, and stops nothing.

use crate::control::configuration::{LogFormat, LogLevel};
use std::fmt;
use std::io;
use std::os::unix::fs::MetadataExt;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{FmtContext, MakeWriter, layer};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{Layer, Registry};

/// Begins to write; once in a process, a second time does nothing.
pub fn start(format: LogFormat, level: LogLevel) {
    let told = subscriber(format, level, journal_listens(), io::stderr);
    // It was begun before: by another test of this process.
    let _ = tracing::dispatcher::set_global_default(told);
}

fn subscriber<W>(format: LogFormat, level: LogLevel, journal: bool, to: W) -> tracing::Dispatch
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let level = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warning => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
    };
    // boringtun speaks of its timers, capsule of its threads, for who debugs them; what becomes of tunnels we say ourselves.
    let capsule = level.min(LevelFilter::WARN);
    let level =
        Targets::new().with_default(level).with_target("boringtun", LevelFilter::OFF).with_target("capsule", capsule);
    let lines = layer().with_writer(to).log_internal_errors(false);
    match format {
        LogFormat::Text => Registry::default().with(lines.event_format(Text { journal }).with_filter(level)).into(),
        LogFormat::Json => {
            let json = lines.json().flatten_event(true).with_current_span(false).with_span_list(false);
            Registry::default().with(json.with_target(false).with_filter(level)).into()
        }
    }
}

/// Standard error leads to the journal, which takes a line's priority from its beginning (sd-daemon(3)).
fn journal_listens() -> bool {
    let there = std::fs::metadata("/proc/self/fd/2").map(|m| format!("{}:{}", m.dev(), m.ino()));
    std::env::var("JOURNAL_STREAM").is_ok_and(|stream| there.is_ok_and(|there| stream == there))
}

/// `dispatcher: [warning: ]what`. Particulars stand in the sentence.
struct Text {
    journal: bool,
}

impl<S, N> FormatEvent<S, N> for Text
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut to: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut message = Message::default();
        event.record(&mut message);
        let (priority, word) = match *event.metadata().level() {
            Level::ERROR => ("<3>", ""),
            Level::WARN => ("<4>", "warning: "),
            _ => ("<6>", ""),
        };
        // Faults of a file are several lines.
        for (number, line) in message.0.lines().enumerate() {
            let priority = if self.journal { priority } else { "" };
            let (name, word) = if number == 0 { ("dispatcher: ", word) } else { ("", "") };
            writeln!(to, "{priority}{name}{word}{line}")?;
        }
        Ok(())
    }
}

/// The sentence of an event.
#[derive(Default)]
struct Message(String);

impl tracing::field::Visit for Message {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::events::{Events, Kind, News};
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn written(format: LogFormat, level: LogLevel, journal: bool) -> String {
        let kept = Kept::default();
        let to = kept.clone();
        tracing::dispatcher::with_default(&subscriber(format, level, journal, move || to.clone()), || {
            tracing::info!("control: drain a\nand more");
            let down = News::new(Kind::Backend, true, "backend a is down").with("backend", "a").with("by", "check");
            Events::default().tell(down.clone(), 1.0);
            Events::default().tell(News { logged: true, ..down }, 1.0);
            // What they say of their own timers and threads is nobody's business.
            tracing::error!(target: "boringtun::noise::timers", "CONNECTION_EXPIRED(REKEY_ATTEMPT_TIME)");
            tracing::info!(target: "capsule::runtime", "parking core2.");
            tracing::error!("over");
        });
        String::from_utf8(kept.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn people_get_lines_with_what_is_worth_a_look_marked_and_the_journal_its_priorities() {
        assert_eq!(
            written(LogFormat::Text, LogLevel::Info, false),
            "dispatcher: control: drain a\nand more\ndispatcher: warning: backend a is down\ndispatcher: over\n"
        );
        assert_eq!(
            written(LogFormat::Text, LogLevel::Warning, true),
            "<4>dispatcher: warning: backend a is down\n<3>dispatcher: over\n"
        );
    }

    #[test]
    fn programs_get_one_object_a_line_with_time_level_and_particulars() {
        let text = written(LogFormat::Json, LogLevel::Info, true);
        let all: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(all.len(), 3, "{text}");
        let down = &all[1];
        assert_eq!((&down["message"], &down["level"]), (&"backend a is down".into(), &"WARN".into()), "{down}");
        assert_eq!((&down["kind"], &down["backend"], &down["by"]), (&"backend".into(), &"a".into(), &"check".into()));
        assert!(down.get("port").is_none(), "what does not apply is left out: {down}");
        assert!(down["timestamp"].as_str().is_some_and(|t| t.ends_with('Z') && t.contains('T')), "{down}");
    }
}
