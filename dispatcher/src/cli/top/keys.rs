//! What keys do. Those of top and less that mean the same here are the same.

use super::model::{Front, Model};
use super::views::View;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

/// What a key wants that the model cannot do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wish {
    /// Nothing.
    None,
    /// To end.
    Quit,
    /// To be stopped, as by Ctrl-Z in any program.
    Suspend,
    /// The whole picture anew.
    Redraw,
    /// Readings at once, at another pace.
    Reading,
}

/// Rows of a page up or down.
const PAGE: isize = 10;

/// Said by the key `h`.
pub const HELP: &[(&str, &str)] = &[
    ("1 to 8, Tab, left, right", "look at another view"),
    ("up, down, j, k", "move the cursor; PgUp, PgDn, Home, End too"),
    ("Enter", "all that is known of the row at the cursor; again, or Esc: back"),
    ("< >", "order by the column before, or behind"),
    ("r", "the other way round"),
    ("/", "only rows in which a text stands; Enter keeps it, Esc forgets it"),
    ("p, space", "pause, and go on"),
    ("+ -", "readings twice as often, half as often"),
    ("Ctrl-L", "draw everything anew"),
    ("h, ?, F1", "this help"),
    ("q, Ctrl-C", "quit"),
];

/// A key was pressed.
pub fn press(model: &mut Model, key: KeyEvent) -> Wish {
    if key.kind == KeyEventKind::Release {
        return Wish::None;
    }
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        return match key.code {
            KeyCode::Char('c') => Wish::Quit,
            KeyCode::Char('z') => Wish::Suspend,
            KeyCode::Char('l') => Wish::Redraw,
            KeyCode::Char('u') if model.typing => {
                model.filter.clear();
                Wish::None
            }
            _ => Wish::None,
        };
    }
    if model.typing {
        write(model, key.code);
        return Wish::None;
    }
    match model.front {
        Front::Nothing => at_table(model, key.code),
        Front::Help(line) => {
            model.front = scrolled(key.code, line).map_or(Front::Nothing, Front::Help);
            Wish::None
        }
        Front::Details(line) => match key.code {
            KeyCode::Char('p' | ' ') => pause(model),
            code => {
                model.front = scrolled(code, line).map_or(Front::Nothing, Front::Details);
                Wish::None
            }
        },
    }
}

/// From which line on one reads after this key; none: no more. Where the end is says who draws: [`Model::ends_at`].
fn scrolled(code: KeyCode, line: u16) -> Option<u16> {
    Some(match code {
        KeyCode::Down | KeyCode::Char('j') => line.saturating_add(1),
        KeyCode::Up | KeyCode::Char('k') => line.saturating_sub(1),
        KeyCode::PageDown => line.saturating_add(PAGE as u16),
        KeyCode::PageUp => line.saturating_sub(PAGE as u16),
        KeyCode::Home | KeyCode::Char('g') => 0,
        KeyCode::End | KeyCode::Char('G') => u16::MAX,
        _ => return None,
    })
}

fn pause(model: &mut Model) -> Wish {
    model.paused = !model.paused;
    Wish::Reading
}

fn at_table(model: &mut Model, code: KeyCode) -> Wish {
    match code {
        KeyCode::Char('q') => return Wish::Quit,
        KeyCode::Char('h' | '?') | KeyCode::F(1) => model.front = Front::Help(0),
        KeyCode::Char('p' | ' ') => return pause(model),
        KeyCode::Char('+') => {
            model.pace(true);
            return Wish::Reading;
        }
        KeyCode::Char('-') => {
            model.pace(false);
            return Wish::Reading;
        }
        KeyCode::Char(c @ '1'..='8') => model.view = View::ALL[c as usize - '1' as usize],
        KeyCode::Tab | KeyCode::Right => model.turn(1),
        KeyCode::BackTab | KeyCode::Left => model.turn(-1),
        KeyCode::Down | KeyCode::Char('j') => model.go(1),
        KeyCode::Up | KeyCode::Char('k') => model.go(-1),
        KeyCode::PageDown => model.go(PAGE),
        KeyCode::PageUp => model.go(-PAGE),
        KeyCode::Home | KeyCode::Char('g') => model.go(isize::MIN),
        KeyCode::End | KeyCode::Char('G') => model.go(isize::MAX),
        KeyCode::Char('>') => model.sort_by(1),
        KeyCode::Char('<') => model.sort_by(-1),
        KeyCode::Char('r' | 'R') => model.reverse(),
        KeyCode::Char('/') | KeyCode::F(4) => model.typing = true,
        KeyCode::Esc => model.filter.clear(),
        KeyCode::Enter if !model.table().rows.is_empty() => {
            model.hold();
            model.front = Front::Details(0);
        }
        _ => {}
    }
    Wish::None
}

fn write(model: &mut Model, code: KeyCode) {
    match code {
        KeyCode::Enter => model.typing = false,
        KeyCode::Esc => {
            model.filter.clear();
            model.typing = false;
        }
        KeyCode::Backspace => _ = model.filter.pop(),
        KeyCode::Char(c) => model.write(c),
        _ => {}
    }
}
