//! `tools`: what is run around the engine, one command each.

mod rush;
mod seeds;
mod storm;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[derive(Parser)]
#[command(version, about = "Tools around the dispatcher's engine (see also tls-inspect and flood)")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Simulated storms: the engine between clients and servers, with everything going wrong, seed after seed, on all cores
    Storm(storm::StormArgs),
    /// Simulated rushes: three times more clients than servers with limits may take, while servers fail, drain and recover
    Rush(rush::RushArgs),
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Storm(args) => storm::main(&args),
        Command::Rush(args) => rush::main(&args),
    }
}
