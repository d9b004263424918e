//! `dispatcher run --takeover --background`: another process takes over, and goes on when this one has ended.
//!
//! Three processes. This one starts the second, which starts the third and ends at once: so the third, which takes over, is the child of the service manager (or of init) before
//! it is told of as the service's. Of a main process that is not its child systemd does not wait for the end: it kills it in the moment in which it asks it to stop.
//!
//! What the third one says goes where this one says its own. That it has ended is seen by a pipe whose other end it holds, as its standard input, until then.

use super::{REFUSED, Refusal};
use crate::control::socket::api::Overview;
use crate::control::socket::client::{self, Question};
use core::time::Duration;
use hyper::Method;
use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};

/// How often it is asked whether the one in the background has taken over.
const ASK: Duration = Duration::from_millis(50);

/// The same command, in a process of its own.
fn same_command(without: &[&str]) -> io::Result<(Command, Vec<OsString>)> {
    let words = std::env::args_os().skip(1).filter(|word| !without.iter().any(|other| word == other)).collect();
    Ok((Command::new(std::env::current_exe()?), words))
}

fn also(fd: BorrowedFd<'_>) -> io::Result<Stdio> {
    Ok(fd.try_clone_to_owned()?.into())
}

/// Comes back when another process, that is started for it, has taken over from the one that answers at `control`; or when it has ended, and has said why.
pub fn start(control: Option<&Path>) -> Result<ExitCode, Refusal> {
    let refused = |why: &dyn core::fmt::Display| Refusal::new(format!("takeover: {why}"));
    let failed = |e: io::Error| refused(&e);
    let control = control.ok_or_else(|| refused(&"no --control: by it the running one is found"))?;
    let (mut second, words) = same_command(&["--background"]).map_err(failed)?;
    second.args(words).arg("--detached").stdin(also(io::stdout().as_fd()).map_err(failed)?).stdout(Stdio::piped());
    let mut second = second.spawn().map_err(failed)?;
    let pipe = second.stdout.take().ok_or_else(|| refused(&"no pipe"))?;
    let (mut pipe, mut pid) = (BufReader::new(pipe), String::new());
    pipe.read_line(&mut pid).map_err(failed)?;
    second.wait().map_err(failed)?;
    // What it said stands above.
    let Ok(pid) = pid.trim().parse::<u32>() else { return Ok(ExitCode::from(REFUSED)) };
    let (end, ended) = mpsc::channel();
    std::thread::spawn(move || {
        // Nothing ever comes.
        _ = pipe.read_to_end(&mut Vec::new());
        _ = end.send(());
    });
    loop {
        if ended.recv_timeout(ASK) != Err(RecvTimeoutError::Timeout) {
            return Ok(ExitCode::from(REFUSED));
        }
        let answer = client::request(control, Question::new(Method::GET, "/v1"));
        let told = answer.ok().and_then(|answer| serde_json::from_slice::<Overview>(&answer.body).ok());
        if told.is_some_and(|told| told.pid == pid) {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

/// The second process: says which the third one is, and leaves it alone.
pub fn leave() -> Result<ExitCode, Refusal> {
    let failed = |e: io::Error| Refusal::new(format!("takeover: {e}"));
    let (mut third, words) = same_command(&["--detached"]).map_err(failed)?;
    // Our standard input is where the first one says what it says, and our standard output the pipe.
    third
        .args(words)
        .stdin(also(io::stdout().as_fd()).map_err(failed)?)
        .stdout(also(io::stdin().as_fd()).map_err(failed)?);
    let third = third.spawn().map_err(failed)?;
    println!("{}", third.id());
    Ok(ExitCode::SUCCESS)
}
