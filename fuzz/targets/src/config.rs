//! Configuration files.

use dispatcher::control::{file, rules, text};

/// A file: refused with faults that lie in it, or understood.
pub fn config(bytes: &[u8]) {
    match file::read("f", bytes) {
        Ok(configuration) => {
            assert!(rules::faults(&configuration).is_empty());
            let written = text::text(&configuration);
            let again = file::read("f", written.as_bytes()).unwrap_or_else(|faults| panic!("{faults}\n{written}"));
            assert_eq!(again, configuration, "{written}");
        }
        Err(faults) => {
            let lines = bytes.iter().filter(|b| **b == b'\n').count() + 1;
            assert!(!faults.faults.is_empty());
            assert!(faults.faults.iter().all(|f| !f.what.is_empty() && (1..=lines).contains(&f.line) && f.column > 0));
            assert!(faults.to_string().lines().count() <= 3 * faults.faults.len() + 1, "{faults}");
        }
    }
}
