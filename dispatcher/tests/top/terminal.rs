//! All of it, in a pseudo-terminal; what is on the screen is read by an emulator that is none of ours (vt100).

use super::figures::reading;
use dispatcher::cli::top::model::Model;
use dispatcher::cli::top::screen::Screen;
use serde_json::Value;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How long something is waited for that is to come.
const PATIENCE: Duration = Duration::from_secs(60);

fn wait_until<T>(what: &str, mut there: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = there() {
            return found;
        }
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// What is other in the `n`th reading.
type Change = Box<dyn FnMut(u64, &mut Value) + Send>;

/// A control socket that answers as it is told to: each answer is another reading.
struct Answering {
    socket: PathBuf,
    change: Arc<Mutex<Change>>,
}

impl Answering {
    fn new(name: &str) -> Answering {
        let socket = std::env::temp_dir().join(format!("dispatcher-top-{}-{name}", std::process::id()));
        let _ = std::fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).unwrap();
        let change: Arc<Mutex<Change>> = Arc::new(Mutex::new(Box::new(|_, _| {})));
        let told = change.clone();
        std::thread::spawn(move || {
            for n in 0.. {
                let Ok((mut stream, _)) = listener.accept() else { return };
                let head = BufReader::new(stream.try_clone().unwrap()).lines();
                let head: Vec<String> = head.map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
                assert!(head[0].starts_with("GET /v1/status"), "{head:?}");
                let mut value = reading(n);
                told.lock().unwrap()(n, &mut value);
                let body = value.to_string();
                let answer =
                    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
                // It may have ended meanwhile.
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        Answering { socket, change }
    }

    /// From now on readings are changed so.
    fn with(&self, change: impl FnMut(u64, &mut Value) + Send + 'static) {
        *self.change.lock().unwrap() = Box::new(change);
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.socket);
    }
}

/// A program in a pseudo-terminal of its own, which is its controlling one.
struct Pty {
    child: Child,
    master: File,
    /// Kept open, so that its settings can be read when the program has ended.
    slave: File,
    before: String,
    seen: Arc<Mutex<(vt100::Parser, Vec<u8>)>>,
}

fn size(columns: u16, rows: u16) -> libc::winsize {
    libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

/// All settings of a terminal, as stty(1) writes them.
fn settings(terminal: &File) -> String {
    let out = Command::new("stty").arg("-g").stdin(terminal.try_clone().unwrap()).output().unwrap();
    assert!(out.status.success(), "{out:?}");
    String::from_utf8(out.stdout).unwrap()
}

impl Pty {
    fn start(program: &Path, args: &[&str]) -> Pty {
        let (mut master, mut slave) = (0, 0);
        // SAFETY: both descriptors and the size outlive the call; neither a name nor settings are asked for.
        let made = unsafe {
            let (name, settings) = (std::ptr::null_mut(), std::ptr::null());
            libc::openpty(&mut master, &mut slave, name, settings, &size(80, 24))
        };
        assert_eq!(made, 0);
        // SAFETY: openpty has made them for us, and nobody else knows them.
        let (master, slave) = unsafe { (File::from_raw_fd(master), File::from_raw_fd(slave)) };
        for end in [&master, &slave] {
            // SAFETY: an open descriptor. Another test's program is not to keep this terminal open.
            assert_eq!(unsafe { libc::fcntl(end.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC) }, 0);
        }
        let before = settings(&slave);
        let end = || Stdio::from(slave.try_clone().unwrap());
        let mut command = Command::new("setsid");
        command.arg("--ctty").arg(program).args(args).env("TERM", "xterm-256color").env_remove("NO_COLOR");
        command.env("TOP_IN_A_TERMINAL", "yes");
        let child = command.stdin(end()).stdout(end()).stderr(end()).spawn().unwrap();
        let seen = Arc::new(Mutex::new((vt100::Parser::new(24, 80, 0), Vec::new())));
        let (told, mut from) = (seen.clone(), master.try_clone().unwrap());
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(n @ 1..) = from.read(&mut bytes) {
                let mut seen = told.lock().unwrap();
                seen.0.process(&bytes[..n]);
                seen.1.extend(&bytes[..n]);
            }
        });
        Pty { child, master, slave, before, seen }
    }

    fn top(socket: &Path) -> Pty {
        let program = Path::new(env!("CARGO_BIN_EXE_dispatcher"));
        Pty::start(program, &["top", "--interval", "100ms", "--socket", socket.to_str().unwrap()])
    }

    fn screen(&self) -> String {
        self.seen.lock().unwrap().0.screen().contents()
    }

    fn shows(&self, words: &[&str]) {
        let whole = || {
            let screen = self.screen();
            words.iter().all(|word| screen.contains(word)).then_some(())
        };
        let end = Instant::now() + PATIENCE;
        while whole().is_none() {
            assert!(Instant::now() < end, "{words:?} not in\n{}", self.screen());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn press(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).unwrap();
    }

    fn signal(&self, signal: i32) {
        // SAFETY: a child that was not waited for, so the number is still its own.
        assert_eq!(unsafe { libc::kill(self.child.id() as i32, signal) }, 0);
    }

    /// Its state, as ps(1) names it.
    fn state(&self) -> String {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        stat.rsplit(')').next().unwrap().trim().chars().take(1).collect()
    }

    fn resize(&self, columns: u16, rows: u16) {
        self.seen.lock().unwrap().0.screen_mut().set_size(rows, columns);
        // SAFETY: an open descriptor, and a size that outlives the call.
        assert_eq!(unsafe { libc::ioctl(self.master.as_raw_fd(), libc::TIOCSWINSZ, &size(columns, rows)) }, 0);
    }

    fn ended(&mut self) -> ExitStatus {
        let child = &mut self.child;
        wait_until("it does not end", || child.try_wait().unwrap())
    }

    /// The terminal is as it was.
    fn given_back(&self) {
        let there = || {
            let seen = self.seen.lock().unwrap();
            let screen = seen.0.screen();
            (!screen.alternate_screen() && !screen.hide_cursor()).then_some(())
        };
        wait_until("the screen or the cursor was not given back", there);
        assert_eq!(settings(&self.slave), self.before);
    }

    /// It draws on a screen of its own, by settings of its own.
    fn taken(&self) {
        let seen = self.seen.lock().unwrap();
        assert!(seen.0.screen().alternate_screen() && seen.0.screen().hide_cursor());
        drop(seen);
        assert_ne!(settings(&self.slave), self.before);
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn in_a_terminal_it_follows_what_happens_takes_keys_and_sizes_and_gives_the_terminal_back() {
    let dispatcher = Answering::new("follows");
    let mut pty = Pty::top(&dispatcher.socket);
    pty.shows(&["dispatcher  1.2.3, process 4711", "web10", "Connections/s 300", "live"]);
    pty.taken();
    dispatcher.with(|_, value| value["backends"][0]["holds"]["state"] = "differs".into());
    pty.shows(&["web10    differs"]);
    pty.press("/web2\r");
    pty.shows(&["filter: web2", "1 of 3"]);
    assert!(!pty.screen().contains("web10  "), "{}", pty.screen());
    pty.press("\x1b");
    pty.shows(&["web10  "]);
    pty.press("6");
    pty.shows(&["bad-cookie"]);
    pty.press("2");
    pty.resize(120, 40);
    pty.shows(&["BYTES IN/S", "Connections/s, at most 300"]);
    pty.resize(60, 12);
    pty.shows(&["web10", "h help"]);
    assert!(!pty.screen().contains("BYTES"), "{}", pty.screen());
    pty.press("p");
    pty.shows(&["PAUSED"]);
    pty.press("q");
    assert_eq!(pty.ended().code(), Some(0));
    pty.given_back();
}

#[test]
fn signals_give_the_terminal_back() {
    let dispatcher = Answering::new("signals");
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT] {
        let mut pty = Pty::top(&dispatcher.socket);
        pty.shows(&["web10"]);
        pty.signal(signal);
        assert_eq!(pty.ended().code(), Some(0), "signal {signal}");
        pty.given_back();
    }
    let mut pty = Pty::top(&dispatcher.socket);
    pty.shows(&["web10"]);
    pty.press("\x03");
    assert_eq!(pty.ended().code(), Some(0));
    pty.given_back();
}

#[test]
fn stopped_it_gives_the_terminal_back_and_continued_it_takes_it_again() {
    let dispatcher = Answering::new("stopped");
    let mut pty = Pty::top(&dispatcher.socket);
    for how in ["key", "signal"] {
        pty.shows(&["web10", "live"]);
        match how {
            "key" => pty.press("\x1a"),
            _ => pty.signal(libc::SIGTSTP),
        }
        wait_until("it does not stop", || (pty.state() == "T").then_some(()));
        pty.given_back();
        pty.signal(libc::SIGCONT);
        pty.shows(&["web10", "live"]);
        wait_until("it does not take the terminal", || (settings(&pty.slave) != pty.before).then_some(()));
        pty.taken();
    }
    pty.press("q");
    assert_eq!(pty.ended().code(), Some(0));
    pty.given_back();
}

#[test]
fn without_an_answer_what_is_old_stays_and_the_next_one_is_taken() {
    let dispatcher = Answering::new("lost");
    let pty = Pty::top(&dispatcher.socket);
    pty.shows(&["web10", "live"]);
    let away = dispatcher.socket.with_extension("away");
    std::fs::rename(&dispatcher.socket, &away).unwrap();
    pty.shows(&["NO ANSWER", "what is shown is old: no dispatcher answers at", "web10"]);
    std::fs::rename(&away, &dispatcher.socket).unwrap();
    pty.shows(&["live"]);
}

/// Whoever says something to the dispatcher, an agent or a server whose words are shown, could write to the operator's terminal.
#[test]
fn what_others_say_does_nothing_to_the_terminal() {
    const EVIL: &str = "x\u{1b}]0;owned\u{7}\u{1b}[2J\u{1b}[31m\u{9b}1;1H\r\n\u{8}\u{e}\u{202e}";
    let dispatcher = Answering::new("evil");
    dispatcher.with(|_, value| {
        fn poison(value: &mut Value) {
            match value {
                // Addresses and the like are no texts.
                Value::String(text) if text.contains(':') || text.contains('.') => {}
                Value::String(text) => text.push_str(EVIL),
                Value::Array(all) => all.iter_mut().for_each(poison),
                Value::Object(all) => all.values_mut().for_each(poison),
                _ => {}
            }
        }
        poison(value);
        value["backends"][2]["holds"]["by"] = Value::Null;
        value["backends"][2]["holds"]["why"] = format!("agent{EVIL}").into();
        value["events"][0]["text"] = EVIL.into();
    });
    let mut pty = Pty::top(&dispatcher.socket);
    pty.shows(&["agentx?]0;ow", "web10x?]0;ow"]);
    for key in ["1", "2", "\r", "\x1b", "3", "4", "5", "6", "7", "8", "\r", "\x1b", "/x\x07\u{9b}31m\r"] {
        pty.press(key);
        std::thread::sleep(Duration::from_millis(50));
    }
    pty.press("q");
    // It was in the filter, after Enter a key.
    assert_eq!(pty.ended().code(), Some(0));
    pty.given_back();
    let seen = pty.seen.lock().unwrap();
    let raw = String::from_utf8_lossy(&seen.1);
    assert!(raw.contains("]0;ow"), "it was shown");
    assert!(!raw.contains("\u{1b}]0;"), "a title was set");
    for c in raw.chars() {
        let harmless = !c.is_control() || matches!(c, '\u{1b}' | '\r' | '\n');
        assert!(harmless && c != '\u{202e}', "{c:?} was written");
    }
}

#[test]
fn a_panic_gives_the_terminal_back_before_it_says_why() {
    let myself = std::env::current_exe().unwrap();
    let mut pty =
        Pty::start(&myself, &["--exact", "terminal::panics_while_it_has_the_terminal", "--nocapture", "--ignored"]);
    assert_eq!(pty.ended().code(), Some(101));
    pty.given_back();
    // Of all that was written, not of what is still in sight: a backtrace, where they are asked for, scrolls it away.
    let end = Instant::now() + PATIENCE;
    let after_the_screen = || {
        let seen = pty.seen.lock().unwrap();
        let raw = String::from_utf8_lossy(&seen.1).into_owned();
        raw.rsplit_once("\u{1b}[?1049l").is_some_and(|(_, after)| after.contains("made up to panic"))
    };
    while !after_the_screen() {
        assert!(Instant::now() < end, "not told after the screen was left:\n{}", pty.screen());
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// What the test before runs in a terminal.
#[test]
#[ignore = "run by a_panic_gives_the_terminal_back_before_it_says_why, in a terminal"]
fn panics_while_it_has_the_terminal() {
    if std::env::var_os("TOP_IN_A_TERMINAL").is_none() {
        return;
    }
    let mut screen = Screen::take().unwrap();
    screen.draw(&Model::new(super::status(0), Duration::from_secs(1))).unwrap();
    panic!("made up to panic");
}

#[test]
fn without_a_terminal_or_a_dispatcher_one_line_says_so() {
    let top = |args: &[&str]| {
        let out = Command::new(env!("CARGO_BIN_EXE_dispatcher")).arg("top").args(args).output().unwrap();
        let text = String::from_utf8(out.stderr).unwrap();
        assert_eq!((out.status.code(), text.lines().count(), out.stdout.len()), (Some(2), 1, 0), "{text}");
        text
    };
    assert!(top(&[]).contains("top: standard output is no terminal (for scripts"), "{}", top(&[]));
    for wrong in ["50ms", "2h", "soon"] {
        assert!(top(&["--interval", wrong]).contains("--interval"), "{}", top(&["--interval", wrong]));
    }
    let mut pty = Pty::top(Path::new("/nonexistent/control.sock"));
    assert_eq!(pty.ended().code(), Some(2));
    pty.shows(&["dispatcher: no dispatcher answers at /nonexistent/control.sock"]);
    assert!(!pty.seen.lock().unwrap().1.contains(&0x1b), "the terminal was touched");
}
