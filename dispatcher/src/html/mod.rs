//! What is made for browsers: the look of all of it, documents that need no script and ask nobody for anything, and plots.

pub mod document;
pub mod plot;

use crate::strange::strange;
use core::fmt::Write;
use sha2::{Digest, Sha256};

/// The look of everything that is made for browsers.
pub const STYLE: &str = include_str!("style.css");

/// How a policy names what stands in a document itself (CSP Level 3, section 2.3.1, hash-source).
pub fn source(text: &str) -> String {
    format!("sha256-{}", base64(&Sha256::digest(text)))
}

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let group = |three: &[u8]| {
        let word = three.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        let digit = |n: usize| match n <= three.len() {
            true => char::from(DIGITS[(word >> (18 - 6 * n)) as usize & 63]),
            false => '=',
        };
        [0, 1, 2, 3].map(digit)
    };
    bytes.chunks(3).flat_map(group).collect()
}

/// Text that stays text, in an element or in an attribute that is quoted (HTML, sections 13.1.3 and 13.1.4).
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c if strange(c) => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// A number as people read it: a thin space at each thousand.
pub fn number(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            _ = write!(out, "\u{202f}");
        }
        out.push(digit);
    }
    out
}

/// How large a part is of the whole; of nothing there is none.
pub fn percent(part: u64, whole: u64) -> String {
    if whole == 0 { "–".into() } else { format!("{:.1}\u{a0}%", 100.0 * part as f64 / whole as f64) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn base64_is_that_of_the_rfc() {
        for (plain, coded) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }

    #[test]
    fn numbers_are_grouped() {
        let said = [0, 999, 1000, 1_234_567].map(number);
        assert_eq!(said, ["0", "999", "1\u{202f}000", "1\u{202f}234\u{202f}567"]);
        assert_eq!([percent(1, 8), percent(0, 0)], ["12.5\u{a0}%", "–"]);
    }

    proptest! {
        #[test]
        fn no_text_becomes_markup(text in "[\\PC<>&\"'\u{0}-\u{1f}\u{202e}]{0,60}") {
            let escaped = escape(&text);
            let harmless = |c: char| !strange(c) && !['<', '>', '"', '\''].contains(&c);
            prop_assert!(escaped.chars().all(harmless));
            let back = escaped.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&#39;", "'");
            let whole: String = text.chars().map(|c| if strange(c) { '\u{fffd}' } else { c }).collect();
            prop_assert_eq!(back.replace("&amp;", "&"), whole);
        }
    }
}
