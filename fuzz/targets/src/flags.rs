//! Command lines.

use clap::Parser;
use dispatcher::cli::args::{Cli, Command};
use dispatcher::cli::check;

/// A command line, one word a line.
pub fn flags(bytes: &[u8]) {
    let Ok(text) = core::str::from_utf8(bytes) else { return };
    let words = core::iter::once("dispatcher").chain(text.lines().take(64));
    match Cli::try_parse_from(words) {
        Ok(Cli { command: Command::Replay(args) }) => {
            if let Err(refusal) = check::replay_options(&args) {
                assert!(!refusal.0.is_empty());
            }
        }
        // What else would be looked at is devices of this machine.
        Ok(Cli { command: Command::Run(args) }) => {
            assert!(args.ports.iter().all(|p| !p.name.is_empty() && !p.device.is_empty()));
        }
        // What they would ask is another process.
        Ok(Cli { command: Command::Ctl(args) }) => assert!(!args.socket.as_os_str().is_empty()),
        Ok(Cli { command: Command::Top(args) }) => assert!(!args.interval.is_zero()),
        // Files are the target `config`.
        Ok(Cli { command: Command::Check(_) | Command::Tunnel(_) }) => {}
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
