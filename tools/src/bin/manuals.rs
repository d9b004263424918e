//! Writes what packages have beside the program: man pages of the dispatcher and of each of its commands, and completions for shells. All of it is made from
//! the declarations of the command line, so nothing of it is kept in the repository.

use clap::{CommandFactory, Parser};
use clap_complete::Shell;
use dispatcher::cli::args::Cli;
use std::fs;
use std::path::{Path, PathBuf};

/// Writes man pages and completions.
#[derive(Parser)]
struct Args {
    /// Below this directory: man1/*.1, bash-completion/dispatcher, zsh/_dispatcher, fish/dispatcher.fish
    out: PathBuf,
}

fn main() -> anyhow::Result<()> {
    let Args { out } = Args::parse();
    let man = out.join("man1");
    fs::create_dir_all(&man)?;
    let mut command = Cli::command();
    command.build();
    pages(&command, "dispatcher", &[], &man)?;
    for (shell, folder, file) in [
        (Shell::Bash, "bash-completion", "dispatcher"),
        (Shell::Zsh, "zsh", "_dispatcher"),
        (Shell::Fish, "fish", "dispatcher.fish"),
    ] {
        let folder = out.join(folder);
        fs::create_dir_all(&folder)?;
        let mut text = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "dispatcher", &mut text);
        fs::write(folder.join(file), text)?;
    }
    Ok(())
}

/// A command's page, called `dispatcher-ctl-show.1`, and those of what is below it.
fn pages(command: &clap::Command, name: &str, above: &[&str], to: &Path) -> anyhow::Result<()> {
    let spoken = above.iter().copied().chain([command.get_name()]).collect::<Vec<_>>();
    let version = format!("dispatcher {}", env!("CARGO_PKG_VERSION"));
    // clap wants a name that lasts as long as the program; there are some dozens.
    let of_page =
        command.clone().name(&*name.to_string().leak()).display_name(name.to_string()).bin_name(spoken.join(" "));
    let mut text = Vec::new();
    clap_mangen::Man::new(of_page.version(env!("CARGO_PKG_VERSION")))
        .source(version)
        .manual("Dispatcher")
        .render(&mut text)?;
    fs::write(to.join(format!("{name}.1")), text)?;
    for below in command.get_subcommands().filter(|below| below.get_name() != "help") {
        pages(below, &format!("{name}-{}", below.get_name()), &spoken, to)?;
    }
    Ok(())
}
