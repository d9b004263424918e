//! What people read must be true: lists in the documents against what the code says.

use dispatcher::control::keys::{KEYS, Key};
use dispatcher::engine::DropReason;
use std::collections::BTreeSet;
use std::path::Path;

#[test]
fn the_documents_list_every_name_of_a_drop_and_no_other() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/packet-path.md");
    let text = std::fs::read_to_string(path).unwrap();
    let section = text.split("## Names of drops").nth(1).expect("the section");
    let section = section.split("\n## ").next().unwrap();
    let listed: Vec<&str> = section.lines().filter(|l| l.starts_with("| `")).collect();
    let wanted: Vec<String> =
        DropReason::ALL.iter().map(|why| format!("| `{}` | {} |", why.as_str(), why.meaning())).collect();
    assert_eq!(listed, wanted);
}

#[test]
fn the_documents_list_every_key_of_the_file_and_no_other() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md");
    let text = std::fs::read_to_string(path).unwrap();
    let listed: Vec<&str> = text.lines().filter(|l| l.starts_with("| ") && !l.starts_with("| table ")).collect();
    let row = |key: &Key| {
        let Key { table, name, value, default, meaning } = key;
        format!("| {} | `{name}` | `{value}` | {default} | {meaning} |", table.as_str())
    };
    assert_eq!(listed, KEYS.iter().map(row).collect::<Vec<_>>());
}

/// Every test that the threat model promises is there under that name.
#[test]
fn the_tests_that_hold_the_promises_exist() {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let mut known = BTreeSet::new();
    for folder in ["ssl-parse", "lb", "dispatcher", "scripts/live.d"] {
        functions(&root.join(folder), &mut known);
    }
    let text = std::fs::read_to_string(root.join("docs/threat-model.md")).unwrap();
    let named = text.split('`').skip(1).step_by(2).map(|name| name.rsplit('/').next().unwrap());
    // Of what stands in code quotes, the names of tests: words without spaces or dots.
    let tests: Vec<&str> =
        named.filter(|n| n.contains('_') && n.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')).collect();
    assert!(tests.len() > 40, "{}", tests.len());
    let missing: Vec<&&str> = tests.iter().filter(|name| !known.contains(**name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// Names of functions, of Rust and Python, in the sources below a folder.
fn functions(folder: &Path, known: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if path.file_name().is_none_or(|n| n != "target") {
                functions(&path, known);
            }
        } else if path.extension().is_some_and(|e| e == "rs" || e == "py") {
            for line in std::fs::read_to_string(&path).unwrap().lines() {
                let line = line.trim_start();
                if let Some(rest) = line.strip_prefix("fn ").or_else(|| line.strip_prefix("def ")) {
                    known.extend(rest.split('(').next().map(str::to_string));
                }
            }
        }
    }
}
