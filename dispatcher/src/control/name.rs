//! What ports and backends may be called.

use crate::journal::MAX_NAME;

/// Names of ports and backends stand in reports and logs.
pub fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() || name.len() > MAX_NAME {
        return Err(format!("a name has 1 to {MAX_NAME} characters"));
    }
    match name.chars().find(|c| !(c.is_ascii_alphanumeric() || "-_.:[]".contains(*c))) {
        Some(c) => Err(format!("'{}' cannot stand in a name", c.escape_default())),
        None => Ok(()),
    }
}
