//! `dispatcher ctl apply --against TRACE`: what a change would do to recorded traffic.
//!
//! It is compared here and not by the dispatcher, which only says what is in force and what would be. So no capture is read by a process
//! with its rights, and nothing that a capture holds, or how long it is, costs a worker anything.

use super::check;
use crate::control::configuration::Configuration;
use crate::control::file;
use crate::replay::against;
use crate::replay::unread::NotRead;
use std::io::Write;
use std::path::Path;

/// Tells of two files, as the dispatcher has written them, what the change from one to the other would do; or says why that cannot be told.
pub fn tell(trace: &Path, now: &str, next: &str, out: &mut dyn Write) -> Result<(), String> {
    let options = against::Options {
        files: vec![trace.to_owned()],
        json: false,
        report: None,
        config: check::engine(&read(now)?),
        next: read(next)?.wanted,
    };
    match against::run(&options, out) {
        Ok(()) => Ok(()),
        // What could be read was told.
        Err(e) if e.is::<NotRead>() => {
            eprintln!("dispatcher: warning: {e}");
            Ok(())
        }
        Err(e) => Err(format!("{e:#}")),
    }
}

fn read(text: &str) -> Result<Configuration, String> {
    let wrong = |faults| format!("what is in force is not understood; is the dispatcher of another version? {faults}");
    file::read("what is in force", text.as_bytes()).map_err(wrong)
}
