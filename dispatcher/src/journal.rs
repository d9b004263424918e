//! Ended connections as JSON lines: the object that `run --connections-log` and `replay --json` both write, and the
//! way from a worker to the file.
//!
//! A worker never waits for a disk: [`Journal::record`] puts a copy of fixed size into a bounded queue, and a thread of
//! its own writes. A full queue, or a write that fails, costs lines, and each line lost is counted. The file can be opened anew under its
//! name, for who moves it away now and then (logrotate): no line is lost or divided by that.

use crate::engine::{ConnectionRecord, Told};
use crate::time::Time;
use arrayvec::{ArrayString, ArrayVec};
use crossbeam::queue::ArrayQueue;
use lb::service::DEFAULT;
use serde::{Serialize, Serializer};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// One connection, as one line of JSON.
#[derive(Clone, Debug, Serialize)]
pub struct ConnectionLine<'a> {
    /// Running number, from 1.
    pub conn: u64,
    /// When it began, by the wall clock.
    pub time: Stamp,
    /// How long it lasted.
    pub duration_ms: Milliseconds,
    /// From its beginning to the server's first byte.
    pub first_byte_ms: Option<Milliseconds>,
    /// From the client's hello to the server's, on the server's side.
    pub handshake_ms: Option<Milliseconds>,
    /// `ADDR:PORT`, IPv6 in brackets.
    pub client: SocketAddr,
    /// The balancer whose PROXY header names the client, where one does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub via: Option<SocketAddr>,
    /// As `client`.
    pub vip: SocketAddr,
    /// Where it went.
    pub backend: Option<&'a str>,
    /// Our address and port as the backend sees them: by these it is found in the server's own log.
    pub local: Option<SocketAddr>,
    /// `secure` or `non-secure`.
    pub class: &'static str,
    /// What the table named.
    pub decided: Option<&'a str>,
    /// Replay only: left out when none, and null when the inner value is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Option<&'static str>>,
    /// Why it went there.
    pub reason: &'a str,
    /// The key of the row that decided; null when empty.
    #[serde(serialize_with = "hex")]
    pub identity: &'a [u8],
    /// What the hello offered to resume.
    pub offered: &'a [&'static str],
    /// As a name, `1.2`.
    pub tls_version: Option<VersionName>,
    /// The server name in the hello.
    pub sni: Option<&'a str>,
    /// What the server's answer showed.
    pub resumed: Option<bool>,
    /// Stream bytes.
    pub bytes_to_server: u64,
    /// Stream bytes.
    pub bytes_to_client: u64,
    /// Backends dialled.
    pub dial_attempts: u32,
    /// Replay only, as `verdict`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub intact: Option<Option<bool>>,
    /// Why it ended.
    pub end: &'a str,
    /// The service it connected to. Live only: left out with flags alone, and when it has gone long ago.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<&'a str>,
    /// The pool it was routed to. Left out as `service`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool: Option<&'a str>,
    /// The class in which it asked for room at a backend. With `waited_ms` and `spilled` left out where no backend has a limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_class: Option<&'a str>,
    /// How long it waited for room.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waited_ms: Option<u32>,
    /// Its session's backend had no room, and it went to another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spilled: Option<bool>,
}

impl<'a> ConnectionLine<'a> {
    /// Of a connection that was told, without what is replay's. `origin` is the wall clock's reading at [`Time::ZERO`](crate::time::Time::ZERO).
    pub fn of<N: AsRef<str>, T: AsRef<str>, I: AsRef<[u8]>, O: AsRef<[&'static str]>>(
        r: &'a Told<N, T, I, O>,
        origin: SystemTime,
    ) -> ConnectionLine<'a> {
        let name = |name: &'a Option<N>| name.as_ref().map(AsRef::as_ref);
        ConnectionLine {
            conn: r.conn,
            time: Stamp::at(origin, r.began.since(Time::ZERO)),
            duration_ms: Milliseconds(r.lasted),
            first_byte_ms: r.first_byte.map(Milliseconds),
            handshake_ms: r.handshake.map(Milliseconds),
            client: r.client,
            via: r.via,
            vip: r.vip,
            backend: name(&r.backend),
            local: r.local,
            class: r.class.as_str(),
            decided: name(&r.decided),
            verdict: None,
            reason: r.reason_word(),
            identity: r.identity.as_ref(),
            offered: r.offered.as_ref(),
            tls_version: r.tls_version.map(VersionName),
            sni: r.sni.as_ref().map(AsRef::as_ref),
            resumed: r.resumed,
            bytes_to_server: r.bytes_to_server,
            bytes_to_client: r.bytes_to_client,
            dial_attempts: r.dial_attempts,
            intact: None,
            end: r.end.as_str(),
            service: unless_default(name(&r.service)),
            pool: unless_default(name(&r.pool)),
            queue_class: name(&r.queue_class),
            waited_ms: r.queue_class.as_ref().map(|_| r.waited_ms),
            spilled: r.queue_class.as_ref().map(|_| r.spilled),
        }
    }
}

impl ConnectionLine<'_> {
    /// Writes the object and a line feed.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        serde_json::to_writer(&mut *out, self)?;
        out.write_all(b"\n")
    }
}

fn hex<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
    if bytes.is_empty() {
        return to.serialize_none();
    }
    let digits = bytes.iter().flat_map(|b| [b >> 4, b & 15]).map(|d| char::from_digit(u32::from(d), 16).unwrap_or('?'));
    to.serialize_str(&digits.collect::<String>())
}

/// A moment, which shows as RFC 3339 has it: in UTC, with microseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stamp(SystemTime);

/// The end of the year 9999, in seconds since 1970: later years have no four digits.
const LAST: Duration = Duration::from_secs(253_402_300_799);

impl Stamp {
    /// So long after `origin`. What clocks and captures cannot mean is moved to between 1970 and 9999.
    pub fn at(origin: SystemTime, after: Duration) -> Stamp {
        let since_1970 = origin.duration_since(UNIX_EPOCH).unwrap_or_default().saturating_add(after);
        Stamp(UNIX_EPOCH + since_1970.min(LAST))
    }
}

impl Serialize for Stamp {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&humantime::format_rfc3339_micros(self.0))
    }
}

/// A span, which shows as milliseconds with three places.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Milliseconds(pub Duration);

impl Serialize for Milliseconds {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_f64(self.0.as_micros() as f64 / 1000.0)
    }
}

/// A TLS version's code point, which shows as its name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VersionName(pub u16);

impl core::fmt::Display for VersionName {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self.0 {
            0x0002 => f.write_str("SSL2"),
            0x0300 => f.write_str("SSL3"),
            0x0301 => f.write_str("1.0"),
            0x0302 => f.write_str("1.1"),
            0x0303 => f.write_str("1.2"),
            0x0304 => f.write_str("1.3"),
            0xfeff => f.write_str("DTLS1.0"),
            0xfefd => f.write_str("DTLS1.2"),
            0xfefc => f.write_str("DTLS1.3"),
            other => write!(f, "{other:#06x}"),
        }
    }
}

impl Serialize for VersionName {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

/// With flags alone there is one service and one pool: nothing to tell.
fn unless_default(name: Option<&str>) -> Option<&str> {
    name.filter(|name| *name != DEFAULT)
}

/// Most bytes of a name of a backend, service or pool that a journal line carries; the command line accepts no longer ones.
pub const MAX_NAME: usize = 63;

/// Lines that wait for the writer, at most. Full: further ones are lost and counted.
const QUEUE: usize = 8192;

/// How often the writer looks into the queue. Looking, instead of being woken, keeps system calls out of the worker.
const LOOK: Duration = Duration::from_millis(20);

type Name = ArrayString<MAX_NAME>;

/// A [`ConnectionRecord`] that is kept without a heap. What is longer than its place is cut: names, the server name (RFC 6066: a DNS name, hence
/// at most 255 bytes), and the identity.
type Entry = Told<Name, ArrayString<255>, ArrayVec<u8, 32>, ArrayVec<&'static str, 3>>;

fn cut<const N: usize>(text: &str) -> ArrayString<N> {
    let mut to = ArrayString::new();
    for c in text.chars() {
        if to.try_push(c).is_err() {
            break;
        }
    }
    to
}

fn entry(record: &ConnectionRecord<'_>) -> Entry {
    record.kept(
        cut,
        cut,
        |identity| identity.iter().copied().take(32).collect(),
        |offered| offered.iter().copied().take(3).collect(),
    )
}

struct Shared {
    queue: ArrayQueue<Entry>,
    lost: AtomicU64,
    stop: AtomicBool,
    /// Somebody who wants the file opened anew, and to know whether it was.
    reopen: Mutex<Option<mpsc::SyncSender<io::Result<()>>>>,
}

impl Shared {
    fn new(queue: usize) -> Shared {
        Shared {
            queue: ArrayQueue::new(queue),
            lost: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            reopen: Mutex::new(None),
        }
    }
}

/// The worker's end.
#[derive(Clone)]
pub struct Journal {
    shared: Arc<Shared>,
}

impl Journal {
    /// Hands a connection to the writer. Never waits, never allocates.
    pub fn record(&self, record: &ConnectionRecord<'_>) {
        if self.shared.queue.push(entry(record)).is_err() {
            // Relaxed: a count, ordered with nothing.
            self.shared.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The thread that writes the file.
pub struct JournalWriter {
    path: PathBuf,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// Lines that the queue of a journal holds, see [`QUEUE_BYTES`].
pub const QUEUE_ENTRIES: usize = QUEUE;
/// Bytes that it takes: each entry, and the stamp beside it.
pub const QUEUE_BYTES: usize = QUEUE * (size_of::<Entry>() + size_of::<usize>());

/// The wall clock's reading at [`Time::ZERO`] of the workers' clock, asked each time that lines are written: so these follow a clock that was set.
pub type Origin = Box<dyn Fn() -> SystemTime + Send>;

/// Opens `path` to append to, and starts its writer.
pub fn open(path: &Path, origin: Origin) -> io::Result<(Journal, JournalWriter)> {
    let path = path.to_owned();
    let again = path.clone();
    start(path, move || File::options().append(true).create(true).open(&again), QUEUE, origin)
}

fn start<W: Write + Send + 'static>(
    path: PathBuf,
    mut open: impl FnMut() -> io::Result<W> + Send + 'static,
    queue: usize,
    origin: Origin,
) -> io::Result<(Journal, JournalWriter)> {
    let out = open()?;
    let shared = Arc::new(Shared::new(queue));
    let for_thread = shared.clone();
    let thread = std::thread::spawn(move || write_all(&for_thread, out, open, &origin));
    Ok((Journal { shared: shared.clone() }, JournalWriter { path, shared, thread: Some(thread) }))
}

fn write_all<W: Write>(shared: &Shared, out: W, mut open: impl FnMut() -> io::Result<W>, origin: &Origin) {
    let mut out = BufWriter::with_capacity(64 * 1024, out);
    loop {
        // Between two rounds nothing is buffered: what follows is whole lines.
        if let Some(asker) = shared.reopen.lock().unwrap_or_else(|e| e.into_inner()).take() {
            let opened = open().map(|file| out = BufWriter::with_capacity(64 * 1024, file));
            // The asker may have lost its patience.
            let _ = asker.try_send(opened);
        }
        // Read before the queue is emptied: what was recorded before the stop is then written. Acquire pairs with the
        // Release of `finish`.
        let last = shared.stop.load(Ordering::Acquire);
        let (mut lines, mut lost) = (0u64, 0u64);
        let origin = origin();
        while let Some(entry) = shared.queue.pop() {
            match ConnectionLine::of(&entry, origin).write(&mut out) {
                Ok(()) => lines += 1,
                Err(_) => lost += 1,
            }
        }
        if lines > 0 && out.flush().is_err() {
            // Which of them got out before the disk was full is not known; say all of this round.
            lost += lines;
            // Do not write half a line again behind whatever is there by then.
            let (file, rest) = out.into_parts();
            drop(rest);
            out = BufWriter::with_capacity(64 * 1024, file);
        }
        if lost > 0 {
            shared.lost.fetch_add(lost, Ordering::Relaxed);
        }
        if last {
            return;
        }
        std::thread::sleep(LOOK);
    }
}

/// How long a file that is to be opened anew is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

impl JournalWriter {
    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the file anew under its name, and comes back when that is done. What cannot be opened leaves the old one in use.
    pub fn reopen(&self) -> io::Result<()> {
        let (tell, told) = mpsc::sync_channel(1);
        *self.shared.reopen.lock().unwrap_or_else(|e| e.into_inner()) = Some(tell);
        told.recv_timeout(PATIENCE).unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Lines lost so far.
    pub fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::Relaxed)
    }

    /// Writes what is queued and ends the thread: how many lines were lost in all.
    pub fn finish(mut self) -> u64 {
        self.shared.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            self.shared.lost.fetch_add(1, Ordering::Relaxed);
        }
        self.lost()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Class, End};
    use std::sync::Mutex;

    /// 2026-11-27 00:00:00.
    fn origin() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_795_737_600)
    }

    fn record<'a>() -> ConnectionRecord<'a> {
        ConnectionRecord {
            conn: 17,
            began: Time::from_millis(1500),
            lasted: Duration::from_micros(12_345),
            first_byte: Some(Duration::from_micros(3_100)),
            handshake: Some(Duration::from_micros(900)),
            client: "10.0.0.7:41022".parse().unwrap(),
            via: None,
            vip: "[fd00::9]:443".parse().unwrap(),
            service: Some("shop"),
            pool: Some("api"),
            backend: Some("web2"),
            local: Some("198.51.100.1:20001".parse().unwrap()),
            slot: Some((lb::BackendId(1), 1)),
            class: Class::Secure,
            decided: Some("web2"),
            reason: Some(lb::Reason::SessionId),
            identity: &[0x0a, 0xff],
            offered: &["session-id"],
            tls_version: Some(0x0303),
            sni: Some("a.example"),
            resumed: Some(true),
            bytes_to_server: 2315,
            bytes_to_client: 8120,
            dial_attempts: 1,
            queue_class: None,
            waited_ms: 0,
            spilled: false,
            end: End::Fin,
        }
    }

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>, Arc<AtomicBool>);
    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.1.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn started(sink: &Sink, queue: usize) -> (Journal, JournalWriter) {
        let sink = sink.clone();
        start(PathBuf::new(), move || Ok(sink.clone()), queue, Box::new(origin)).unwrap()
    }

    #[test]
    fn a_file_that_was_moved_away_keeps_its_lines_and_a_new_one_gets_the_next() {
        let folder = std::env::temp_dir().join(format!("dispatcher-journal-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (log, moved) = (folder.join("log"), folder.join("log.1"));
        let lines = |path: &Path| std::fs::read_to_string(path).unwrap().lines().count();
        let (journal, writer) = open(&log, Box::new(origin)).unwrap();
        (0..3).for_each(|_| journal.record(&record()));
        std::fs::rename(&log, &moved).unwrap();
        writer.reopen().unwrap();
        (0..2).for_each(|_| journal.record(&record()));
        // What cannot be opened (a folder is there now) leaves the one in use.
        std::fs::rename(&log, folder.join("log.2")).unwrap();
        std::fs::create_dir(&log).unwrap();
        assert!(writer.reopen().is_err());
        journal.record(&record());
        assert_eq!(writer.path(), log);
        assert_eq!(writer.finish(), 0);
        assert_eq!(lines(&moved) + lines(&folder.join("log.2")), 6);
        assert!(lines(&folder.join("log.2")) >= 1);
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_line_is_the_contract_to_the_letter() {
        let expected = concat!(
            r#"{"conn":17,"time":"2026-11-27T00:00:01.500000Z","duration_ms":12.345,"first_byte_ms":3.1,"handshake_ms":0.9,"#,
            r#""client":"10.0.0.7:41022","vip":"[fd00::9]:443","backend":"web2","local":"198.51.100.1:20001","class":"secure","#,
            r#""decided":"web2","reason":"session-id","identity":"0aff","offered":["session-id"],"tls_version":"1.2","#,
            r#""sni":"a.example","resumed":true,"bytes_to_server":2315,"bytes_to_client":8120,"dial_attempts":1,"#,
            r#""end":"fin","service":"shop","pool":"api"}"#,
            "\n"
        );
        let mut direct = Vec::new();
        ConnectionLine::of(&record(), origin()).write(&mut direct).unwrap();
        assert_eq!(String::from_utf8(direct).unwrap(), expected);
        let sink = Sink::default();
        let (journal, writer) = started(&sink, 4);
        journal.record(&record());
        assert_eq!(writer.finish(), 0);
        assert_eq!(String::from_utf8(sink.0.lock().unwrap().clone()).unwrap(), expected);
    }

    #[test]
    fn what_is_unknown_is_null_and_what_is_replays_is_there_in_replay() {
        let r = ConnectionRecord {
            backend: None,
            local: None,
            first_byte: None,
            handshake: None,
            decided: None,
            identity: &[],
            offered: &[],
            tls_version: None,
            sni: None,
            resumed: None,
            class: Class::NonSecure,
            ..record()
        };
        let mut line = ConnectionLine::of(&r, origin());
        (line.verdict, line.intact) = (Some(None), Some(Some(true)));
        let json = serde_json::to_value(&line).unwrap();
        for null in [
            "backend",
            "local",
            "first_byte_ms",
            "handshake_ms",
            "decided",
            "identity",
            "tls_version",
            "sni",
            "resumed",
            "verdict",
        ] {
            assert!(json.as_object().unwrap().contains_key(null) && json[null].is_null(), "{null}");
        }
        assert_eq!((json["intact"].as_bool(), json["offered"].as_array().unwrap().len()), (Some(true), 0));
    }

    #[test]
    fn a_full_queue_and_a_full_disk_cost_lines_and_nothing_else() {
        let sink = Sink::default();
        sink.1.store(true, Ordering::Relaxed);
        let (journal, writer) = started(&sink, 64);
        for _ in 0..64 {
            journal.record(&record());
        }
        std::thread::sleep(5 * LOOK);
        sink.1.store(false, Ordering::Relaxed);
        journal.record(&record());
        let lost = writer.finish();
        assert_eq!(lost, 64, "and the disk that has room again is written to");
        assert_eq!(sink.0.lock().unwrap().iter().filter(|b| **b == b'\n').count(), 1);

        let shared = Arc::new(Shared::new(2));
        let journal = Journal { shared: shared.clone() };
        (0..5).for_each(|_| journal.record(&record()));
        assert_eq!(shared.lost.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn moments_that_no_four_digits_of_a_year_can_say_are_moved_to_those_that_can() {
        let said = |stamp: Stamp| serde_json::to_string(&stamp).unwrap();
        assert_eq!(said(Stamp::at(UNIX_EPOCH, Duration::MAX)), r#""9999-12-31T23:59:59.000000Z""#);
        let before = UNIX_EPOCH - Duration::from_secs(5);
        assert_eq!(said(Stamp::at(before, Duration::from_secs(1))), r#""1970-01-01T00:00:01.000000Z""#);
        assert_eq!(said(Stamp::at(origin(), Duration::from_nanos(1_999))), r#""2026-11-27T00:00:00.000001Z""#);
    }

    #[test]
    fn names_too_long_for_their_place_are_cut_at_a_character() {
        let long = "é".repeat(40);
        assert_eq!(cut::<63>(&long).as_str(), "é".repeat(31));
    }
}
