//! What is looked at, and how: two readings, a view, its order, a filter. It knows no terminal, no socket and no clock.

use super::rates::Rates;
use super::table::Table;
use super::views::View;
use crate::control::socket::api::Status;
use std::collections::VecDeque;
use std::time::Duration;

/// Readings of which the rate of connections is kept, for the small plot.
pub const KEPT: usize = 120;

/// The shortest time from one reading to the next.
pub const SHORTEST: Duration = Duration::from_millis(100);
/// The longest.
pub const LONGEST: Duration = Duration::from_secs(3600);

/// Longest filter.
const FILTER: usize = 100;

/// What stands before the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Front {
    /// Nothing.
    #[default]
    Nothing,
    /// What keys do; from this line on.
    Help(u16),
    /// All that is known of the row that the cursor is at; from this line on.
    Details(u16),
}

/// How one view is looked at.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Look {
    column: usize,
    down: bool,
    /// The row that the cursor is at: by its key, so that it stays there when the order changes; and its place, should it go.
    cursor: Option<String>,
    place: usize,
}

/// Everything that a picture is made of.
#[derive(Clone, PartialEq, Debug)]
pub struct Model {
    /// The latest reading.
    pub now: Status,
    /// From the one before.
    pub rates: Rates,
    /// Connections that ended each second, one for each reading, oldest first.
    pub past: VecDeque<f64>,
    /// What is looked at.
    pub view: View,
    looks: Vec<Look>,
    /// Rows in which this does not stand are left out.
    pub filter: String,
    /// The filter is being written.
    pub typing: bool,
    /// Readings are not taken.
    pub paused: bool,
    /// From one reading to the next.
    pub every: Duration,
    /// Why there was no reading, the last time.
    pub trouble: Option<String>,
    /// What stands before the table.
    pub front: Front,
}

impl Model {
    /// The first reading.
    pub fn new(now: Status, every: Duration) -> Model {
        let look = |view: &View| {
            let (column, down) = view.order();
            Look { column, down, cursor: None, place: 0 }
        };
        Model {
            now,
            rates: Rates::default(),
            past: VecDeque::with_capacity(KEPT),
            view: View::Backends,
            looks: View::ALL.iter().map(look).collect(),
            filter: String::new(),
            typing: false,
            paused: false,
            every,
            trouble: None,
            front: Front::Nothing,
        }
    }

    /// Takes the next reading, or why there is none. What is paused stays as it is.
    pub fn told(&mut self, told: Result<Status, String>) {
        if self.paused {
            return;
        }
        match told {
            Ok(next) => {
                self.rates = Rates::between(&self.now, &next);
                self.now = next;
                self.trouble = None;
                match self.rates.connections(&self.now) {
                    // Another process: its past is none of the one before.
                    None => self.past.clear(),
                    Some(rate) => {
                        if self.past.len() == KEPT {
                            self.past.pop_front();
                        }
                        self.past.push_back(rate);
                    }
                }
            }
            Err(why) => self.trouble = Some(why),
        }
    }

    /// What stands before the table has no further line to begin with.
    pub fn ends_at(&mut self, last: u16) {
        if let Front::Help(line) | Front::Details(line) = &mut self.front {
            *line = (*line).min(last);
        }
    }

    fn look(&self) -> &Look {
        &self.looks[self.view.place()]
    }

    fn look_mut(&mut self) -> &mut Look {
        &mut self.looks[self.view.place()]
    }

    /// The column that rows are in the order of, and whether from the largest.
    pub fn order(&self) -> (usize, bool) {
        (self.look().column, self.look().down)
    }

    /// The rows that are wanted, in their order.
    pub fn table(&self) -> Table {
        let mut table = self.view.table(&self.now, &self.rates);
        table.filter(&self.filter);
        let (column, down) = self.order();
        table.sort(column, down);
        table
    }

    /// The place of the cursor in it; without rows 0.
    pub fn cursor(&self, table: &Table) -> usize {
        let Look { cursor, place, .. } = self.look();
        let known = cursor.as_ref().and_then(|key| table.rows.iter().position(|row| row.key == *key));
        known.unwrap_or(*place).min(table.rows.len().saturating_sub(1))
    }

    /// Moves the cursor by so many rows. At the top it stays at the top, whatever comes there.
    pub fn go(&mut self, rows: isize) {
        let table = self.table();
        let place = self.cursor(&table).saturating_add_signed(rows).min(table.rows.len().saturating_sub(1));
        let cursor = table.rows.get(place).filter(|_| place > 0).map(|row| row.key.clone());
        let look = self.look_mut();
        (look.place, look.cursor) = (place, cursor);
    }

    /// What is at the cursor keeps it, also at the top: it is looked at closely.
    pub fn hold(&mut self) {
        let table = self.table();
        let place = self.cursor(&table);
        let cursor = table.rows.get(place).map(|row| row.key.clone());
        let look = self.look_mut();
        (look.place, look.cursor) = (place, cursor);
    }

    /// Orders by a column so many further, as its kind is looked at at first: numbers from the largest.
    pub fn sort_by(&mut self, further: isize) {
        let columns = self.view.columns();
        let column = (self.look().column as isize + further).rem_euclid(columns.len() as isize) as usize;
        let look = self.look_mut();
        (look.column, look.down) = (column, columns[column].number);
    }

    /// Turns the order round.
    pub fn reverse(&mut self) {
        let look = self.look_mut();
        look.down = !look.down;
    }

    /// Looks at a view so many further.
    pub fn turn(&mut self, further: isize) {
        let all = View::ALL.len() as isize;
        self.view = View::ALL[(self.view.place() as isize + further).rem_euclid(all) as usize];
    }

    /// Writes on at the filter. Control characters are none of a name's.
    pub fn write(&mut self, c: char) {
        if self.filter.chars().count() < FILTER {
            self.filter.push_str(&super::words::plain(&c.to_string()));
        }
    }

    /// Twice as often, or half as often.
    pub fn pace(&mut self, faster: bool) {
        let next = if faster { self.every / 2 } else { self.every * 2 };
        self.every = next.clamp(SHORTEST, LONGEST);
    }
}
