//! Man pages and completions, as packages have them.

use clap::CommandFactory;
use dispatcher::cli::args::Cli;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn made(name: &str) -> PathBuf {
    let out = std::env::temp_dir().join(format!("dispatcher-manuals-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&out);
    assert!(Command::new(env!("CARGO_BIN_EXE_manuals")).arg(&out).status().unwrap().success());
    out
}

fn there_is(program: &str) -> bool {
    Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

/// Every command with its page's name.
fn commands(command: &clap::Command, name: &str, all: &mut Vec<(String, clap::Command)>) {
    all.push((name.to_string(), command.clone()));
    for below in command.get_subcommands().filter(|below| below.get_name() != "help") {
        commands(below, &format!("{name}-{}", below.get_name()), all);
    }
}

#[test]
fn every_command_has_a_page_with_all_of_its_flags_that_man_finds_nothing_wrong_with() {
    let out = made("pages");
    let mut command = Cli::command();
    command.build();
    let mut all = Vec::new();
    commands(&command, "dispatcher", &mut all);
    let pages: BTreeSet<_> =
        out.join("man1").read_dir().unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(pages, all.iter().map(|(name, _)| format!("{name}.1")).collect());
    assert!(pages.contains("dispatcher-ctl-log-reopen.1") && pages.len() > 15, "{pages:?}");
    for (name, command) in &all {
        let file = out.join("man1").join(format!("{name}.1"));
        let text = std::fs::read_to_string(&file).unwrap().replace("\\-", "-");
        for flag in command.get_arguments().filter(|a| !a.is_hide_set()).filter_map(|a| a.get_long()) {
            assert!(text.contains(&format!("--{flag}")), "{name}: --{flag}");
        }
        let spoken = name.replace('-', " ");
        assert!(text.contains(&spoken), "{name}: the synopsis does not say '{spoken}'");
        if there_is("man") {
            // As lintian looks at them.
            let said = Command::new("man")
                .args(["--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z"])
                .arg(&file)
                .env("LC_ALL", "C.UTF-8")
                .env("MANROFFSEQ", "")
                .env("MANWIDTH", "80")
                .output()
                .unwrap();
            assert!(
                said.status.success() && said.stderr.is_empty(),
                "{name}: {}",
                String::from_utf8_lossy(&said.stderr)
            );
        }
    }
    let _ = std::fs::remove_dir_all(out);
}

/// What bash offers at the end of this line.
fn offered(script: &Path, line: &[&str]) -> String {
    let words = line.iter().map(|w| format!("'{w}'")).collect::<Vec<_>>().join(" ");
    let ask = format!(
        "source '{}'; COMP_WORDS=({words}); COMP_CWORD={}; _dispatcher dispatcher '{}' '{}'; echo \"${{COMPREPLY[*]}}\"",
        script.display(),
        line.len() - 1,
        line[line.len() - 1],
        line[line.len() - 2],
    );
    let out = Command::new("bash").args(["--norc", "-c", &ask]).output().unwrap();
    assert!(out.stderr.is_empty(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap().trim().to_string()
}

#[test]
fn bash_completes_commands_flags_and_words() {
    let out = made("completions");
    let bash = out.join("bash-completion/dispatcher");
    assert_eq!(offered(&bash, &["dispatcher", "rep"]), "replay");
    assert_eq!(offered(&bash, &["dispatcher", "ctl", "show", "back"]), "backends");
    assert_eq!(offered(&bash, &["dispatcher", "ctl", "events", "--fol"]), "--follow");
    assert_eq!(offered(&bash, &["dispatcher", "run", "--idle", "s"]), "spin sleep");
    for file in ["zsh/_dispatcher", "fish/dispatcher.fish"] {
        assert!(std::fs::read_to_string(out.join(file)).unwrap().contains("follow"), "{file}");
    }
    let _ = std::fs::remove_dir_all(out);
}
