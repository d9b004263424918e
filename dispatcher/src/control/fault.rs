//! What is wrong with a file, and where: `FILE:LINE:COLUMN: what; what was probably meant`, the line, and a mark below it.

use core::ops::Range;
use serde::Serialize;

/// Most faults of one file that are told; of further ones their number.
pub const MAX_FAULTS: usize = 100;

/// Characters of a line that are shown.
const SHOWN: usize = 100;

/// Something wrong in a file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Fault {
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// What is wrong.
    pub what: String,
    /// What was probably meant, or what to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The line, as far as it is shown.
    pub source: String,
    /// Where in `source` the mark begins, and how long it is: in characters.
    pub mark: (usize, usize),
}

/// All faults of a file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Faults {
    /// What the file is called.
    pub file: String,
    /// In the order of the file; at most [`MAX_FAULTS`].
    pub faults: Vec<Fault>,
    /// So many more were found.
    pub more: usize,
}

impl core::fmt::Display for Faults {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        for fault in &self.faults {
            let Fault { line, column, what, hint, source, mark } = fault;
            write!(f, "{}:{line}:{column}: {what}", self.file)?;
            if let Some(hint) = hint {
                write!(f, "; {hint}")?;
            }
            let number = line.to_string();
            // What stands before the mark keeps its tabs, so that the mark stands below what it means.
            let before: String = source.chars().take(mark.0).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
            writeln!(
                f,
                "\n  {number} | {source}\n  {:width$} | {before}{}",
                "",
                "^".repeat(mark.1),
                width = number.len()
            )?;
        }
        if self.more > 0 {
            writeln!(f, "{}: and {} more", self.file, self.more)?;
        }
        Ok(())
    }
}

impl core::error::Error for Faults {}

/// Finds lines and columns in a text.
pub struct Source<'a> {
    text: &'a str,
    /// Where each line begins.
    lines: Vec<usize>,
}

impl<'a> Source<'a> {
    /// Of this text.
    pub fn new(text: &'a str) -> Source<'a> {
        let lines = core::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Source { text, lines }
    }

    /// Number of the line, from 0, in which this byte is.
    pub fn line(&self, at: usize) -> usize {
        self.lines.partition_point(|start| *start <= at).saturating_sub(1)
    }

    /// A fault at these bytes.
    pub fn fault(&self, span: &Range<usize>, what: String, hint: Option<String>) -> Fault {
        let at = self.boundary(span.start);
        let line = self.line(at);
        let start = self.lines[line];
        let end = self.lines.get(line + 1).map_or(self.text.len(), |next| next - 1);
        let end = if self.text[start..end].ends_with('\r') { end - 1 } else { end };
        let at = at.min(end);
        let column = self.text[start..at].chars().count();
        let length = self.text[at..self.boundary(span.end).clamp(at, end)].chars().count().max(1);
        // Of a long line the part around the place.
        let skipped = if column + length.min(SHOWN / 2) > SHOWN { column - SHOWN / 2 } else { 0 };
        let shown = self.text[start..end].chars().skip(skipped).take(SHOWN);
        let source: String = shown.map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect();
        let begins = column - skipped;
        let length = length.min(SHOWN - begins.min(SHOWN - 1));
        Fault { line: line + 1, column: column + 1, what, hint, source, mark: (begins, length) }
    }

    fn boundary(&self, at: usize) -> usize {
        let mut at = at.min(self.text.len());
        while !self.text.is_char_boundary(at) {
            at -= 1;
        }
        at
    }
}

/// The word of these that was probably meant.
pub fn meant<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if word.len() > 64 {
        return None;
    }
    let near = known.into_iter().map(|k| (strsim::damerau_levenshtein(&word.to_lowercase(), k), k));
    near.min().filter(|(distance, k)| *distance <= 1 + k.len().max(word.len()) / 4).map(|(_, k)| k)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_shows_its_line_and_a_mark_below_the_very_characters() {
        let text = "a = 1\r\n\tñb = \"two\"\nc";
        let at = text.find("\"two\"").unwrap();
        let fault = Source::new(text).fault(&(at..at + 5), "wrong".into(), Some("right".into()));
        assert_eq!((fault.line, fault.column, fault.mark), (2, 7, (6, 5)));
        let shown = Faults { file: "f".into(), faults: vec![fault], more: 0 }.to_string();
        assert_eq!(shown, "f:2:7: wrong; right\n  2 | \tñb = \"two\"\n    | \t     ^^^^^\n");
    }

    #[test]
    fn places_at_and_beyond_the_ends_of_lines_and_texts_are_places() {
        let text = format!("é\n{}\r\n", "ü".repeat(5000));
        let source = Source::new(&text);
        for start in 0..text.len() + 3 {
            for end in [start, start + 1, start + 500] {
                let fault = source.fault(&(start..end), String::new(), None);
                assert!(
                    fault.source.chars().count() <= SHOWN && fault.mark.0 + fault.mark.1 <= SHOWN.max(fault.mark.0 + 1)
                );
            }
        }
    }

    #[test]
    fn what_was_meant_is_near() {
        assert_eq!(meant("ballance", ["balance", "backend"]), Some("balance"));
        assert_eq!(meant("Balance", ["balance", "backend"]), Some("balance"));
        assert_eq!(meant("colour", ["balance", "backend"]), None);
    }
}
