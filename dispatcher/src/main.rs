//! The `dispatcher` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    dispatcher::cli::main()
}
