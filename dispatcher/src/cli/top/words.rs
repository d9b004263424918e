//! Numbers, times and other people's words, as they stand in a cell of a terminal.

use crate::strange::strange;
use serde_json::Value;

/// Stands for what is not known.
pub const NOTHING: &str = "-";

/// At most five digits, or four with a unit of thousands: `17`, `2.5`, `12.3k`.
pub fn number(n: f64) -> String {
    if !n.is_finite() {
        return NOTHING.into();
    }
    for (least, one, unit) in [(1e12, 1e12, "T"), (1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e5, 1e3, "k")] {
        if n >= least {
            let n = n / one;
            return if n < 99.95 { format!("{n:.1}{unit}") } else { format!("{n:.0}{unit}") };
        }
    }
    if n >= 99.95 || n.fract() == 0.0 { format!("{n:.0}") } else { format!("{n:.1}") }
}

/// A rate, or that there is none yet.
pub fn rate(n: Option<f64>) -> String {
    n.map_or(NOTHING.into(), number)
}

/// How large a part is of the whole; of nothing there is none.
pub fn percent(part: f64, whole: f64) -> String {
    if whole > 0.0 { format!("{:.0}%", (100.0 * part / whole).clamp(0.0, 100.0)) } else { NOTHING.into() }
}

/// Seconds, to two units at most: `250 us`, `4.2 ms`, `37s`, `2m 5s`, `3h 2m`, `4d 5h`.
pub fn time(seconds: f64) -> String {
    let s = seconds.max(0.0);
    let whole = s as u64;
    match whole {
        0 if s < 0.001 => format!("{:.0} us", s * 1e6),
        0 => format!("{:.1} ms", s * 1e3),
        1..60 => format!("{whole}s"),
        60..3600 => format!("{}m {}s", whole / 60, whole % 60),
        3600..86400 => format!("{}h {}m", whole / 3600, whole / 60 % 60),
        _ => format!("{}d {}h", whole / 86400, whole / 3600 % 24),
    }
}

/// The time of day in UTC of seconds since 1970.
pub fn clock(seconds: f64) -> String {
    let s = seconds.max(0.0) as u64 % 86400;
    format!("{:02}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60)
}

/// Stands for every character that is none of a text's.
const STRANGE: &str = "?";

/// Takes everything out of all texts within that is `strange`. What was said by operators, agents and servers is among these texts.
pub fn clean(value: &mut Value) {
    match value {
        Value::String(text) if text.contains(strange) => *text = text.replace(strange, STRANGE),
        Value::Array(all) => all.iter_mut().for_each(clean),
        Value::Object(all) => all.values_mut().for_each(clean),
        _ => {}
    }
}

/// The same of one text.
pub fn plain(text: &str) -> String {
    text.replace(strange, STRANGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_say_their_unit() {
        let said = [0.0, 7.0, 2.54, 99.97, 123.4, 99_999.0, 100_000.0, 12_345_678.0, 3.2e9, f64::NAN].map(number);
        assert_eq!(said, ["0", "7", "2.5", "100", "123", "99999", "100k", "12.3M", "3.2G", "-"]);
        assert!((0..400).all(|n| number(1.09f64.powi(n)).len() <= 5 || n > 399 - 80), "none is wider than its column");
    }

    #[test]
    fn times_are_of_two_units_at_most() {
        let said = [0.00025, 0.0042, 37.9, 125.0, 10_920.0, 363_600.0, -1.0].map(time);
        assert_eq!(said, ["250 us", "4.2 ms", "37s", "2m 5s", "3h 2m", "4d 5h", "0 us"]);
        // As date(1) has it: date -u -d @1500000000.
        assert_eq!(clock(1.5e9), "02:40:00");
    }

    #[test]
    fn nothing_that_moves_a_terminal_is_left_in_any_text() {
        let mut value = serde_json::json!({
            "name": "web\u{1b}[2J1", "list": ["\u{9b}31m", "a\nb\r\u{7}", "\u{202e}txt.exe"], "deep": {"why": "ß é 服 ok"},
        });
        clean(&mut value);
        let whole = "?";
        assert_eq!(value["name"], format!("web{whole}[2J1"));
        assert_eq!(value["list"][0], format!("{whole}31m"));
        assert_eq!(value["list"][1], format!("a{whole}b{whole}{whole}"));
        assert_eq!(value["list"][2], format!("{whole}txt.exe"));
        assert_eq!(value["deep"]["why"], "ß é 服 ok", "texts of people stay as they are");
    }
}
