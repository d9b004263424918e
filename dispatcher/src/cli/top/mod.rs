//! `dispatcher top`: what a running dispatcher does, on a terminal, over its control socket.
//!
//! * [`source`]: readings, from a thread of its own; texts of others are made harmless there.
//! * [`rates`]: from two readings; [`views`]: what is made of one, row by row; [`table`]: order, filter, columns that fit.
//! * [`model`]: what is looked at, and how; [`keys`]: what keys change of it.
//! * [`render`]: the model as a picture, pure; [`screen`]: the terminal it is drawn on, which is given back whatever happens.
//! * [`words`]: numbers and times.

pub mod keys;
pub mod model;
pub mod rates;
pub mod render;
pub mod screen;
pub mod source;
pub mod table;
pub mod views;
pub mod words;

use super::Refusal;
use crate::control::socket::DEFAULT_SOCKET;
use crate::control::socket::api::Status;
use crate::control::values;
use clap::Args;
use keys::Wish;
use model::{LONGEST, Model, SHORTEST};
use ratatui::crossterm::event::{self, Event};
use screen::{Screen, give_back};
use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;
use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;

/// What stands below the help.
pub const EXAMPLES: &str = "\
Examples:
  dispatcher top
  dispatcher top --socket /run/dispatcher/control.sock --interval 5s

The dispatcher must have been started with --control. Views: services, backends, sessions, ticket keys, queues with their classes, drops, workers, events. Rates are those from one reading to the next. `h` says what keys do, Enter all that is known of a row. It only looks; `dispatcher ctl` changes things, and for scripts there is `dispatcher ctl show --json`.

Exit status: 0 ended as asked, 2 wrong flags, no terminal, or no dispatcher answers (one line on standard error says which).";

/// Flags of `top`.
#[derive(Args, Debug)]
pub struct TopArgs {
    /// The control socket of the dispatcher
    #[arg(long, value_name = "PATH", default_value = DEFAULT_SOCKET)]
    pub socket: PathBuf,

    /// From one reading to the next: 100ms to 1h
    #[arg(short = 'd', long, value_name = "D", default_value = "1s", value_parser = interval)]
    pub interval: Duration,
}

fn interval(text: &str) -> Result<Duration, String> {
    let time = values::duration(text)?;
    match (SHORTEST..=LONGEST).contains(&time) {
        true => Ok(time),
        false => Err("from 100ms to 1h".into()),
    }
}

/// What happens to somebody who looks.
enum News {
    /// At the terminal.
    Terminal(Event),
    /// A reading, or why there is none.
    Told(Box<Result<Status, String>>),
    /// A signal.
    Signal(i32),
    /// A thread has ended: nothing of its kind comes any more.
    Ended(String),
}

/// The command.
///
/// # Errors
/// No terminal, or nobody answers; or the terminal has gone.
pub fn run(args: &TopArgs) -> Result<ExitCode, Refusal> {
    let refuse = |why: &str| Refusal::new(format!("top: {why}"));
    if !io::stdout().is_terminal() {
        return Err(refuse("standard output is no terminal (for scripts there is: dispatcher ctl show --json)"));
    }
    if std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb") {
        return Err(refuse("this terminal can only write line by line, says TERM (dispatcher ctl show does, too)"));
    }
    let first = source::read(&args.socket).map_err(Refusal::new)?;
    let (tell, told) = mpsc::channel();
    let orders = listen(args, &tell).map_err(|e| refuse(&e.to_string()))?;
    let mut model = Model::new(first, args.interval);
    let mut screen = Screen::take().map_err(|e| refuse(&format!("the terminal cannot be used: {e}")))?;
    let end = look(&mut model, &mut screen, &told, &orders);
    // Before anything is said.
    drop(screen);
    match end {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(e) => Err(refuse(&format!("the terminal is gone: {e}"))),
    }
}

/// Tells of its thread's end.
struct AtEnd(Sender<News>, &'static str);

impl Drop for AtEnd {
    fn drop(&mut self) {
        let _ = self.0.send(News::Ended(format!("{} has ended", self.1)));
    }
}

/// A thread for one kind of news, which ends with the process at the latest.
fn start(name: &'static str, tell: &Sender<News>, body: impl FnOnce(&Sender<News>) + Send + 'static) -> io::Result<()> {
    let end = AtEnd(tell.clone(), name);
    std::thread::Builder::new().name(name.into()).spawn(move || body(&end.0)).map(|_| ())
}

/// Threads for everything that can happen. Returned: where readings are ordered.
fn listen(args: &TopArgs, tell: &Sender<News>) -> io::Result<Sender<Option<Duration>>> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP, SIGCONT])?;
    start("signals", tell, move |tell| {
        let _ = signals.forever().try_for_each(|signal| tell.send(News::Signal(signal)));
    })?;
    start("keys", tell, |tell| {
        while let Ok(event) = event::read() {
            if tell.send(News::Terminal(event)).is_err() {
                return;
            }
        }
    })?;
    let (order, orders) = mpsc::channel();
    let (socket, every) = (args.socket.clone(), args.interval);
    start("readings", tell, move |tell| {
        source::watch(&socket, every, &orders, |reading| tell.send(News::Told(Box::new(reading))).is_ok());
    })?;
    Ok(order)
}

/// Until one wants no more.
fn look(
    model: &mut Model,
    screen: &mut Screen,
    told: &Receiver<News>,
    orders: &Sender<Option<Duration>>,
) -> io::Result<()> {
    loop {
        let last = screen.draw(model)?;
        model.ends_at(last);
        // Whatever else there is belongs into the same picture.
        let first = told.recv().map_err(io::Error::other)?;
        for news in [first].into_iter().chain(told.try_iter().take(256)) {
            let wish = match news {
                News::Terminal(Event::Key(key)) => keys::press(model, key),
                News::Terminal(Event::Resize(..)) => Wish::Redraw,
                News::Terminal(_) => Wish::None,
                News::Told(reading) => {
                    model.told(*reading);
                    Wish::None
                }
                News::Signal(SIGTSTP) => Wish::Suspend,
                News::Signal(SIGCONT) => {
                    screen.retake()?;
                    Wish::None
                }
                News::Signal(_) => Wish::Quit,
                News::Ended(why) => return Err(io::Error::other(why)),
            };
            match wish {
                Wish::None => {}
                Wish::Quit => return Ok(()),
                Wish::Redraw => screen.renew()?,
                Wish::Reading => _ = orders.send((!model.paused).then_some(model.every)),
                Wish::Suspend => {
                    give_back();
                    emulate_default_handler(SIGTSTP)?;
                    screen.retake()?;
                }
            }
        }
    }
}
