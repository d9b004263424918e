//! A document: one file with everything in it, which needs no script and asks nobody for anything.

use super::plot::{bars, share};
use super::{STYLE, escape, number, percent, source};
use core::fmt::Write;

/// A word, and what it means.
pub type Word = (&'static str, &'static str);

/// What stands in a cell of a table.
#[derive(Clone, PartialEq, Debug)]
pub enum Cell {
    /// Text, of whoever.
    Text(String),
    /// A sentence or more: it may be broken.
    Long(String),
    /// A number.
    Number(u64),
    /// A number with a unit.
    Measure(String),
    /// So many of so many, with a bar.
    Share(u64, u64),
}

impl Cell {
    /// Text.
    pub fn text(text: impl ToString) -> Cell {
        Cell::Text(text.to_string())
    }
}

/// A document that is being written, from the top.
pub struct Document {
    title: String,
    about: String,
    body: String,
    words: &'static [Word],
    /// Those that were used.
    used: Vec<Word>,
    sections: usize,
}

impl Document {
    /// With nothing in it. `words` are explained where they are heads of columns, or stand for a number.
    pub fn new(title: &str, about: &str, words: &'static [Word]) -> Document {
        Document {
            title: escape(title),
            about: escape(about),
            body: String::new(),
            words,
            used: Vec::new(),
            sections: 0,
        }
    }

    /// A word, which explains itself when it is pressed.
    fn term(&mut self, word: &str) -> String {
        let Some(place) = self.words.iter().position(|(known, _)| *known == word) else { return escape(word) };
        if !self.used.contains(&self.words[place]) {
            self.used.push(self.words[place]);
        }
        format!("<button type=\"button\" class=\"term\" popovertarget=\"word-{place}\">{}</button>", escape(word))
    }

    fn begin(&mut self, title: &str, class: &str) {
        self.sections += 1;
        let n = self.sections;
        let title = escape(title);
        _ = writeln!(self.body, "<section class=\"{class}\" aria-labelledby=\"s{n}\"><h2 id=\"s{n}\">{title}</h2>");
    }

    /// Numbers at a glance: what, how many, and a word more.
    pub fn cards(&mut self, all: &[(&str, String, String)]) {
        self.body.push_str("<div class=\"cards\">\n");
        for (name, value, more) in all {
            self.sections += 1;
            let (n, term) = (self.sections, self.term(name));
            let (value, more) = (escape(value), escape(more));
            _ = writeln!(
                self.body,
                "<section aria-labelledby=\"s{n}\"><h2 id=\"s{n}\">{term}</h2><p class=\"value\">{value}</p><small>{more}</small></section>"
            );
        }
        self.body.push_str("</div>\n");
    }

    /// What somebody should know. Nothing, if there is nothing.
    pub fn notes(&mut self, title: &str, all: &[String]) {
        if all.is_empty() {
            return;
        }
        self.begin(title, "notes");
        let items: String = all.iter().map(|note| format!("<li>{}</li>\n", escape(note))).collect();
        _ = writeln!(self.body, "<ul>{items}</ul></section>");
    }

    /// Bars over time, and the same as a table: kinds with their colours, of `k0` to `k5`; of each moment when it began, and how many there were of each kind. `end`: of the last one.
    pub fn plot<const N: usize>(
        &mut self,
        title: &str,
        kinds: &[(&str, u8); N],
        moments: &[(String, [u64; N])],
        each: &str,
        end: &str,
    ) {
        self.begin(title, "");
        let counts: Vec<[u64; N]> = moments.iter().map(|(_, counts)| *counts).collect();
        let most = counts.iter().map(|kinds| kinds.iter().sum::<u64>()).max().unwrap_or(0);
        let shown: Vec<usize> = (0..N).filter(|kind| counts.iter().any(|one| one[*kind] > 0)).collect();
        let all = |kind: usize| counts.iter().map(|one| one[kind]).sum::<u64>();
        let told = format!("at most {} in {each}", number(most));
        let label = format!("{}: {told}. The same as a table is below.", escape(title));
        let begin = moments.first().map_or("", |(begin, _)| begin);
        let legend: String = shown
            .iter()
            .map(|kind| (kinds[*kind], all(*kind)))
            .map(|((name, k), all)| format!("<li><i class=\"k{k}\"></i>{} {}</li>", escape(name), number(all)))
            .collect();
        _ = writeln!(
            self.body,
            "<p class=\"soft\">One bar for {each}, {told}</p>{}<p class=\"axis soft\"><span>{}</span> <span>{}</span></p>\
             <ul class=\"legend\">{legend}</ul>",
            bars(&counts, kinds.map(|(_, colour)| colour), &label),
            escape(begin),
            escape(end)
        );
        let heads: Vec<&str> = ["From"].into_iter().chain(shown.iter().map(|kind| kinds[*kind].0)).collect();
        let rows = moments.iter().filter(|(_, counts)| counts.iter().any(|n| *n > 0)).map(|(begin, counts)| {
            let counts = shown.iter().map(|kind| Cell::Number(counts[*kind]));
            [Cell::text(begin)].into_iter().chain(counts).collect()
        });
        let rows: Vec<Vec<Cell>> = rows.collect();
        self.body.push_str("<details><summary>As a table</summary>\n");
        self.rows(title, &heads, &rows);
        self.body.push_str("</details></section>\n");
    }

    /// A table; `after` stands below. Nothing, if there are no rows.
    pub fn table(&mut self, title: &str, heads: &[&str], rows: &[Vec<Cell>], after: &str) {
        if rows.is_empty() {
            return;
        }
        self.begin(title, "");
        self.rows(title, heads, rows);
        if !after.is_empty() {
            _ = writeln!(self.body, "<p class=\"soft\">{}</p>", escape(after));
        }
        self.body.push_str("</section>\n");
    }

    fn rows(&mut self, title: &str, heads: &[&str], rows: &[Vec<Cell>]) {
        let number_in = |column: usize| {
            rows.first()
                .and_then(|row| row.get(column))
                .is_some_and(|c| matches!(c, Cell::Number(_) | Cell::Measure(_) | Cell::Share(..)))
        };
        let mut head = String::new();
        for (i, title) in heads.iter().enumerate() {
            let class = if number_in(i) { " class=\"number\"" } else { "" };
            _ = write!(head, "<th scope=\"col\"{class}>{}</th>", self.term(title));
        }
        let label = escape(title);
        _ = writeln!(
            self.body,
            "<div class=\"wide\" tabindex=\"0\" role=\"region\" aria-label=\"{label}: table\"><table><thead><tr>{head}</tr></thead><tbody>"
        );
        for row in rows {
            self.body.push_str("<tr>");
            for (i, cell) in row.iter().enumerate() {
                let (class, text) = match cell {
                    Cell::Text(text) => ("", escape(text)),
                    Cell::Long(text) => (" class=\"wrap\"", escape(text)),
                    Cell::Measure(text) => (" class=\"number\"", escape(text)),
                    Cell::Number(n) => (" class=\"number\"", number(*n)),
                    Cell::Share(part, whole) => {
                        let hundredths = 100.0 * *part as f64 / (*whole).max(1) as f64;
                        (" class=\"number\"", percent(*part, *whole) + &share(hundredths))
                    }
                };
                _ = match i {
                    0 => write!(self.body, "<th scope=\"row\"{class}>{text}</th>"),
                    _ => write!(self.body, "<td{class}>{text}</td>"),
                };
            }
            self.body.push_str("</tr>\n");
        }
        self.body.push_str("</tbody></table></div>\n");
    }

    /// The whole document. What a browser is to allow it stands in it: its own style, and nothing else.
    pub fn finish(mut self) -> String {
        let words: Vec<Word> = self.words.iter().filter(|word| self.used.contains(word)).copied().collect();
        if !words.is_empty() {
            self.begin("Words", "");
            let list: String = words
                .iter()
                .map(|(word, what)| format!("<dt>{}</dt><dd>{}</dd>", escape(word), escape(what)))
                .collect();
            _ = writeln!(
                self.body,
                "<details><summary>What the words in this report mean</summary><dl>{list}</dl></details></section>"
            );
        }
        let mut tips = String::new();
        for (place, word) in self.words.iter().enumerate().filter(|(_, word)| self.used.contains(word)) {
            _ = writeln!(tips, "<div id=\"word-{place}\" class=\"tip\" popover>{}</div>", escape(word.1));
        }
        let Document { title, about, body, .. } = self;
        let policy = format!("default-src 'none'; style-src '{}'; img-src data:; base-uri 'none'", source(STYLE));
        format!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta http-equiv=\"Content-Security-Policy\" content=\"{policy}\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<meta name=\"referrer\" content=\"no-referrer\">\n\
             <title>{title}</title>\n<link rel=\"icon\" href=\"data:,\">\n<style>{STYLE}</style>\n</head>\n<body>\n\
             <header><h1>{title}</h1><span class=\"soft\">{about}</span></header>\n<main>\n{body}{tips}</main>\n</body>\n</html>\n"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORDS: &[Word] = &[("Right", "The table named the server."), ("Wrong", "It did not.")];

    #[test]
    fn a_document_asks_nobody_and_what_stands_in_it_is_text() {
        let evil = "</style><script>alert(1)</script><img src=x onerror='y'>\u{202e}";
        let mut d = Document::new(evil, evil, WORDS);
        d.cards(&[("Right", evil.into(), evil.into())]);
        d.notes("Notes", &[evil.into()]);
        d.plot(evil, &[(evil, 0)], &[(evil.into(), [3])], "1 s", evil);
        d.table(evil, &[evil, "Right"], &[vec![Cell::text(evil), Cell::Share(1, 4)]], evil);
        let html = d.finish();
        assert_eq!(html.matches("<script").count() + html.matches("<img").count(), 0);
        assert_eq!(html.matches("</style>").count(), 1);
        let elsewhere = html.replace("href=\"data:,\"", "");
        for word in ["http:", "https:", "href=", "src=\"", "url(", "@import", "style=\""] {
            assert!(!elsewhere.contains(word), "{word}");
        }
        assert!(html.contains("12.5") || html.contains("25.0\u{a0}%"));
        assert!(html.contains("popovertarget=\"word-0\"") && html.contains("id=\"word-0\""));
        assert!(!html.contains("It did not."), "only words that are used are explained");
    }
}
