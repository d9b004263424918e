//! Rows and columns, before it is known how wide the terminal is: which rows are wanted, in which order, and which columns there is room for.

use core::cmp::Ordering;
use ratatui::text::Span;

/// Columns of this rank go before a text in the last column has less than [`LEAST`], others before it has less than [`LAST`].
const NEEDLESS: u8 = 3;
const LEAST: u16 = 32;
const LAST: u16 = 16;

/// How something is to be taken. It is said in words, too: colours may be missing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Tone {
    /// As it should be, or neither good nor bad.
    #[default]
    Plain,
    /// It serves.
    Good,
    /// Somebody should look at it.
    Warning,
    /// It does not serve.
    Bad,
}

/// A column.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Column {
    /// Its head.
    pub title: &'static str,
    /// Numbers stand right, and are sorted from the largest at first.
    pub number: bool,
    /// Where there is no room, columns of the highest rank are left out first; those of rank 0 stay.
    pub rank: u8,
    /// Most of its characters; what is longer is cut. The last column has what is left of the line.
    pub most: u16,
}

impl Column {
    /// Of text.
    pub const fn text(title: &'static str, rank: u8, most: u16) -> Column {
        Column { title, number: false, rank, most }
    }

    /// Of numbers.
    pub const fn number(title: &'static str, rank: u8) -> Column {
        Column { title, number: true, rank, most: 14 }
    }
}

/// One field.
#[derive(Clone, PartialEq, Debug)]
pub struct Cell {
    /// As it is shown.
    pub text: String,
    /// What it is sorted by, where that is not its text.
    pub value: Option<f64>,
    /// How it is to be taken.
    pub tone: Tone,
}

impl Cell {
    /// Sorted by itself.
    pub fn text(text: impl Into<String>) -> Cell {
        Cell { text: text.into(), value: None, tone: Tone::Plain }
    }

    /// Sorted by a number; what is not known comes after everything.
    pub fn number(text: impl Into<String>, value: impl Into<Option<f64>>) -> Cell {
        Cell { text: text.into(), value: Some(value.into().unwrap_or(-1.0)), tone: Tone::Plain }
    }

    /// To be taken so.
    pub fn tone(self, tone: Tone) -> Cell {
        Cell { tone, ..self }
    }
}

/// One thing of a view.
#[derive(Clone, PartialEq, Debug)]
pub struct Row {
    /// What it is known by from one reading to the next.
    pub key: String,
    /// One for each column.
    pub cells: Vec<Cell>,
    /// Everything that is known of it: what, and how it is.
    pub details: Vec<(&'static str, String)>,
}

/// A view's rows.
#[derive(Clone, PartialEq, Debug)]
pub struct Table {
    /// From the left.
    pub columns: &'static [Column],
    /// Those that are shown.
    pub rows: Vec<Row>,
    /// Those that there are.
    pub all: usize,
}

impl Table {
    /// These rows.
    pub fn new(columns: &'static [Column], rows: Vec<Row>) -> Table {
        Table { columns, all: rows.len(), rows }
    }

    /// Leaves those in which the text stands, in whatever case.
    pub fn filter(&mut self, wanted: &str) {
        let wanted = wanted.trim().to_lowercase();
        if !wanted.is_empty() {
            self.rows.retain(|row| row.cells.iter().any(|cell| cell.text.to_lowercase().contains(&wanted)));
        }
    }

    /// By this column; what is equal there stands in the order of its key.
    pub fn sort(&mut self, column: usize, down: bool) {
        self.rows.sort_by(|a, b| {
            let order = match (a.cells.get(column), b.cells.get(column)) {
                (Some(a), Some(b)) => in_order(a, b),
                _ => Ordering::Equal,
            };
            (if down { order.reverse() } else { order }).then_with(|| natural(&a.key, &b.key))
        });
    }

    /// The columns that there is room for, with how wide each is, and one blank between them. A text in the last column has what is left of the line.
    pub fn fit(&self, width: u16) -> Vec<(usize, u16)> {
        let end = self.columns.len().saturating_sub(1);
        let mut shown: Vec<(usize, u16)> = (0..=end).map(|i| (i, self.wanted(i))).collect();
        let rest = shown.last().map_or(0, |(_, wanted)| *wanted);
        loop {
            let highest = shown.iter().map(|(i, _)| self.columns[*i].rank).max().unwrap_or(0);
            if let Some((i, last)) = shown.last_mut().filter(|(i, _)| *i == end) {
                let least = if highest >= NEEDLESS { LEAST } else { LAST };
                *last = if self.columns[*i].number { rest } else { rest.min(least) };
            }
            let taken = shown.iter().map(|(_, w)| w + 1).sum::<u16>().saturating_sub(1);
            let place = shown.iter().rposition(|(i, _)| self.columns[*i].rank == highest);
            if let Some(place) = place.filter(|_| taken > width && highest > 0) {
                shown.remove(place);
                continue;
            }
            if let Some((i, last)) = shown.last_mut() {
                if taken > width {
                    *last = last.saturating_sub(taken - width);
                } else if !self.columns[*i].number {
                    *last += width - taken;
                }
            }
            return shown;
        }
    }

    /// What a column would take: its head with the arrow of the order, and its widest cell.
    fn wanted(&self, column: usize) -> u16 {
        let Column { title, most, .. } = self.columns[column];
        let cells = self.rows.iter().filter_map(|row| row.cells.get(column)).map(|cell| Span::raw(&cell.text).width());
        let widest = cells.max().unwrap_or(0).min(usize::from(most));
        widest.max(title.chars().count() + 1) as u16
    }
}

fn in_order(a: &Cell, b: &Cell) -> Ordering {
    match (a.value, b.value) {
        (Some(a), Some(b)) => a.total_cmp(&b),
        _ => natural(&a.text, &b.text),
    }
}

/// As people count: web2 before web10.
pub fn natural(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.as_bytes(), b.as_bytes());
    loop {
        let digits = |s: &[u8]| s.iter().take_while(|c| c.is_ascii_digit()).count();
        let (m, n) = (digits(a), digits(b));
        let order = if m > 0 && n > 0 {
            let zeros = |s: &[u8]| s.iter().take_while(|c| **c == b'0').count();
            let (x, y) = (&a[zeros(&a[..m])..m], &b[zeros(&b[..n])..n]);
            x.len().cmp(&y.len()).then_with(|| x.cmp(y)).then_with(|| m.cmp(&n))
        } else {
            a.first().map(u8::to_ascii_lowercase).cmp(&b.first().map(u8::to_ascii_lowercase))
        };
        if order != Ordering::Equal || a.is_empty() || b.is_empty() {
            return order;
        }
        let step = |n: usize| n.max(1);
        (a, b) = (&a[step(m)..], &b[step(n)..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const COLUMNS: [Column; 4] =
        [Column::text("NAME", 0, 10), Column::number("N", 1), Column::text("MORE", 3, 30), Column::text("WHY", 0, 200)];

    fn table(names: &[&str]) -> Table {
        let row = |name: &&str| Row {
            key: name.to_string(),
            cells: vec![
                Cell::text(*name),
                Cell::number(name.len().to_string(), name.len() as f64),
                Cell::text("x".repeat(20)),
                Cell::text("because of this and that"),
            ],
            details: vec![],
        };
        Table::new(&COLUMNS, names.iter().map(row).collect())
    }

    fn names(table: &Table) -> Vec<&str> {
        table.rows.iter().map(|row| row.key.as_str()).collect()
    }

    #[test]
    fn names_are_in_the_order_in_which_people_count() {
        let mut table = table(&["web10", "web2", "Web1", "web02", "api"]);
        table.sort(0, false);
        assert_eq!(names(&table), ["api", "Web1", "web2", "web02", "web10"]);
        table.sort(1, true);
        assert_eq!(
            names(&table),
            ["web02", "web10", "Web1", "web2", "api"],
            "by number, and by name where that is equal"
        );
    }

    #[test]
    fn what_is_filtered_is_found_in_any_column_and_case() {
        let mut table = table(&["web1", "web2"]);
        table.filter(" WEB2 ");
        assert_eq!((names(&table), table.all), (vec!["web2"], 2));
        table.filter("THIS AND");
        assert_eq!(names(&table), ["web2"]);
        table.filter("nobody");
        assert!(names(&table).is_empty());
    }

    #[test]
    fn columns_of_the_highest_rank_go_first_and_the_last_text_has_what_is_left() {
        let table = table(&["web1"]);
        assert_eq!(table.fit(60), [(0, 5), (1, 2), (2, 20), (3, 30)]);
        assert_eq!(table.fit(54), [(0, 5), (1, 2), (2, 20), (3, 24)], "it wants no more");
        assert_eq!(table.fit(53), [(0, 5), (1, 2), (3, 44)]);
        assert_eq!(table.fit(25), [(0, 5), (1, 2), (3, 16)]);
        assert_eq!(table.fit(24), [(0, 5), (3, 18)]);
        assert_eq!(table.fit(12), [(0, 5), (3, 6)], "it is cut where nothing can go");
    }

    proptest! {
        #[test]
        fn the_order_of_names_is_one(a in "[a-c0-2]{0,6}", b in "[a-c0-2]{0,6}", c in "[a-c0-2]{0,6}") {
            prop_assert_eq!(natural(&a, &b), natural(&b, &a).reverse());
            prop_assert_eq!(natural(&a, &b) == Ordering::Equal, a == b);
            if natural(&a, &b).is_le() && natural(&b, &c).is_le() {
                prop_assert!(natural(&a, &c).is_le());
            }
        }
    }
}
