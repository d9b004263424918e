//! A model as a picture, on a terminal of any size.

use super::keys::HELP;
use super::model::{Front, Model};
use super::table::{Table, Tone};
use super::views::View;
use super::words::{number, percent, rate, time};
use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Clear, Paragraph, Sparkline};

/// The plot of connections has a place on terminals that are so wide.
const WIDE: u16 = 110;
const PLOT: u16 = 36;

const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);
const SOFT: Style = Style::new().add_modifier(Modifier::DIM);
const MARKED: Style = Style::new().add_modifier(Modifier::REVERSED);

/// Draws it. Where there is little room, the table's rows stay longest. Returned: the last line that what stands before the table can begin with.
pub fn render(model: &Model, frame: &mut Frame<'_>) -> u16 {
    let area = frame.area();
    let above = match area.height {
        0..5 => 0,
        5..10 => 2,
        _ => 5,
    };
    let below = u16::from(area.height > 2);
    let [head, body, foot] =
        Layout::vertical([Constraint::Length(above), Constraint::Min(0), Constraint::Length(below)]).areas(area);
    let table = model.table();
    header(model, frame, head);
    rows(model, &table, frame, body);
    footer(model, &table, frame, foot);
    match model.front {
        Front::Nothing => 0,
        Front::Help(line) => help(line, frame, area),
        Front::Details(line) => details(model, &table, line, frame, body),
    }
}

fn style(tone: Tone) -> Style {
    match tone {
        Tone::Plain => Style::new(),
        Tone::Good => Style::new().fg(Color::Green),
        Tone::Warning => Style::new().fg(Color::Yellow),
        Tone::Bad => Style::new().fg(Color::Red).add_modifier(Modifier::BOLD),
    }
}

fn header(model: &Model, frame: &mut Frame<'_>, area: Rect) {
    let lines = Layout::vertical([Constraint::Length(1); 5]).split(area);
    let line = |n: usize| lines[n].intersection(area);
    let o = &model.now.overview;
    let [left, right] = Layout::horizontal([Constraint::Min(0), Constraint::Length(22)]).areas(line(0));
    let about = format!("  {}, process {}, up {}", o.version, o.pid, time(o.uptime));
    frame.render_widget(Line::from(vec![Span::styled("dispatcher", BOLD), Span::raw(about)]), left);
    let state = match (model.paused, &model.trouble) {
        (true, _) => Span::styled("PAUSED", MARKED),
        (false, Some(_)) => Span::styled("NO ANSWER", style(Tone::Bad)),
        (false, None) => Span::styled("live", style(Tone::Good)),
    };
    let every = humantime::format_duration(model.every);
    let right_line = Line::from(vec![Span::raw(format!("every {every}  ")), state]);
    frame.render_widget(right_line.alignment(Alignment::Right), right);
    let plot = if area.width >= WIDE && area.height > 3 { PLOT } else { 0 };
    let wide = |n: usize| Rect { width: line(n).width.saturating_sub(plot), ..line(n) };
    frame.render_widget(glance(model), wide(1));
    if area.height < 5 {
        return;
    }
    frame.render_widget(machines(model), wide(2));
    frame.render_widget(word(model), wide(3));
    frame.render_widget(tabs(model.view), line(4));
    if plot > 0 {
        let x = area.right() - plot;
        past(model, frame, Rect { x, y: area.y + 1, width: plot, height: 3 });
    }
}

/// Numbers with their names, which stand out less.
fn figures<'a>(all: impl IntoIterator<Item = (&'a str, String, Tone)>) -> Line<'a> {
    let mut spans = Vec::new();
    for (name, value, tone) in all {
        if !spans.is_empty() {
            spans.push(Span::raw("   "));
        }
        spans.push(Span::styled(name, SOFT));
        spans.push(Span::raw(" "));
        spans.push(Span::styled(value, style(tone).add_modifier(Modifier::BOLD)));
    }
    Line::from(spans)
}

fn glance(model: &Model) -> Line<'static> {
    let (o, dropped) = (&model.now.overview, model.rates.dropped(&model.now));
    let waiting: usize = model.now.queues.iter().map(|q| q.waiting).sum();
    figures([
        ("Connections/s", rate(model.rates.connections(&model.now)), Tone::Plain),
        ("Flows", number(o.flows as f64), Tone::Plain),
        ("Resumed", percent(o.resumed as f64, o.offered as f64), Tone::Plain),
        ("Waiting", number(waiting as f64), if waiting > 0 { Tone::Warning } else { Tone::Plain }),
        ("Drops/s", rate(dropped), if dropped.is_some_and(|n| n > 0.0) { Tone::Warning } else { Tone::Plain }),
    ])
}

fn machines(model: &Model) -> Line<'static> {
    let (now, rates) = (&model.now, &model.rates);
    let o = &now.overview;
    let up = o.backends.saturating_sub(o.backends_down);
    let running = now.workers.iter().filter(|w| w.running).count();
    let turns = now.workers.iter().map(|w| rates.turns(w)).fold((0.0, 0.0), |a, b| (a.0 + b.0, a.1 + b.1));
    let all = |whole: bool| if whole { Tone::Good } else { Tone::Bad };
    figures([
        ("Backends up", format!("{up} of {}", o.backends), all(o.backends_down == 0)),
        ("Workers", format!("{running} of {}", now.workers.len()), all(running == now.workers.len())),
        ("busy", percent(turns.0, turns.1), Tone::Plain),
        ("Frames/s in", rate(rates.workers(now, |w| w.frames_in)), Tone::Plain),
        ("out", rate(rates.workers(now, |w| w.frames_out)), Tone::Plain),
    ])
}

/// What somebody should know: that what is shown is old, before anything else.
fn word(model: &Model) -> Line<'_> {
    if let Some(why) = &model.trouble {
        return Line::styled(format!("what is shown is old: {why}"), style(Tone::Bad));
    }
    let notes = &model.now.sessions.notes;
    match notes.first() {
        None => Line::default(),
        Some(note) if notes.len() == 1 => Line::styled(format!("note: {note}"), style(Tone::Warning)),
        Some(note) => Line::styled(format!("note (1 of {}): {note}", notes.len()), style(Tone::Warning)),
    }
}

fn tabs(view: View) -> Line<'static> {
    let mut spans = Vec::new();
    for one in View::ALL {
        let style = if one == view { MARKED } else { Style::new() };
        spans.push(Span::styled(format!("{} {}", one.place() + 1, one.title()), style));
        spans.push(Span::raw(" "));
    }
    Line::from(spans)
}

fn past(model: &Model, frame: &mut Frame<'_>, area: Rect) {
    let highest = model.past.iter().copied().fold(0.0, f64::max);
    let [title, plot] = Layout::vertical([Constraint::Length(1), Constraint::Min(0)]).areas(area);
    let text = format!("Connections/s, at most {}", number(highest));
    frame.render_widget(Line::styled(text, SOFT).alignment(Alignment::Right), title);
    // The latest stands at the right edge. In hundredths, as bars are of whole numbers.
    let shown = model.past.len().min(usize::from(plot.width));
    let empty = usize::from(plot.width) - shown;
    let latest = model.past.iter().skip(model.past.len() - shown).map(|rate| (rate * 100.0) as u64);
    let data: Vec<u64> = std::iter::repeat_n(0, empty).chain(latest).collect();
    frame.render_widget(Sparkline::default().data(&data).max(((highest * 100.0) as u64).max(1)), plot);
}

/// A text in so many columns.
fn fitted(text: &str, width: u16, right: bool) -> String {
    let width = usize::from(width);
    let has = Span::raw(text).width();
    if has <= width {
        let blanks = " ".repeat(width - has);
        return if right { blanks + text } else { text.to_string() + &blanks };
    }
    if width == 0 {
        return String::new();
    }
    let mut out = String::new();
    for c in text.chars() {
        if Span::raw(format!("{out}{c}")).width() > width - 1 {
            break;
        }
        out.push(c);
    }
    out.push('…');
    let blanks = width.saturating_sub(Span::raw(&out).width());
    out + &" ".repeat(blanks)
}

fn rows(model: &Model, table: &Table, frame: &mut Frame<'_>, area: Rect) {
    let [head, body] = Layout::vertical([Constraint::Length(1), Constraint::Min(0)]).areas(area);
    let shown = table.fit(area.width);
    let (by, down) = model.order();
    let heads = shown.iter().map(|(i, width)| {
        let column = table.columns[*i];
        let arrow = if down { '▼' } else { '▲' };
        let title = match (*i == by, column.number) {
            (false, _) => column.title.to_string(),
            (true, true) => format!("{arrow}{}", column.title),
            (true, false) => format!("{}{arrow}", column.title),
        };
        fitted(&title, *width, column.number) + " "
    });
    frame.render_widget(Line::styled(heads.collect::<String>(), BOLD), head);
    if table.rows.is_empty() {
        let text = if table.all > 0 { "nothing that the filter leaves (Esc: all)" } else { model.view.empty() };
        frame.render_widget(Line::styled(text, SOFT), body);
        return;
    }
    let cursor = model.cursor(table);
    let height = usize::from(body.height);
    // The cursor is in the middle, where there are rows on both sides.
    let first = cursor.saturating_sub(height / 2).min(table.rows.len().saturating_sub(height));
    for (n, row) in table.rows.iter().enumerate().skip(first).take(height) {
        let at = Rect { y: body.y + (n - first) as u16, height: 1, ..body };
        let mut spans = Vec::new();
        for (i, width) in &shown {
            let (cell, column) = (&row.cells[*i], table.columns[*i]);
            spans.push(Span::styled(fitted(&cell.text, *width, column.number), style(cell.tone)));
            spans.push(Span::raw(" "));
        }
        let line = Line::from(spans);
        frame.render_widget(if n == cursor { line.style(MARKED) } else { line }, at);
    }
}

fn footer(model: &Model, table: &Table, frame: &mut Frame<'_>, area: Rect) {
    let (by, down) = model.order();
    let shown = match table.rows.len() == table.all {
        true => table.all.to_string(),
        false => format!("{} of {}", table.rows.len(), table.all),
    };
    let arrow = if down { '▼' } else { '▲' };
    let right = format!("{shown}, by {} {arrow}", table.columns[by].title);
    let [left, end] =
        Layout::horizontal([Constraint::Min(0), Constraint::Length(right.chars().count() as u16)]).areas(area);
    frame.render_widget(Line::styled(right, SOFT), end);
    let line = match (model.typing, model.filter.is_empty()) {
        (true, _) => {
            Line::from(vec![Span::styled("filter: ", BOLD), Span::raw(&model.filter), Span::styled(" ", MARKED)])
        }
        (false, false) => Line::from(vec![
            Span::styled("filter: ", BOLD),
            Span::raw(&model.filter),
            Span::styled("  (Esc: all)", SOFT),
        ]),
        (false, true) => Line::styled("h help  q quit  / filter  < > order  p pause  Enter more", SOFT),
    };
    frame.render_widget(line, left);
}

/// A text in lines of so many columns, broken between words where that is possible.
fn broken(text: &str, width: usize) -> Vec<String> {
    let width = width.max(1);
    let mut lines = vec![String::new()];
    for word in text.split_inclusive(' ') {
        let line = lines.last().map_or(0, |line| Span::raw(line).width());
        if line > 0 && line + Span::raw(word.trim_end()).width() > width {
            lines.push(String::new());
        }
        for c in word.chars() {
            let Some(line) = lines.last_mut() else { continue };
            if Span::raw(format!("{line}{c}")).width() <= width {
                line.push(c);
            } else if c != ' ' {
                lines.push(c.to_string());
            }
        }
    }
    lines
}

/// Names, and what is said of each, in a box before the rest: as tall as it must be and as there is room. It begins with this line; returned is the last one
/// that it can begin with.
fn told(title: String, all: &[(&str, &str)], from: u16, frame: &mut Frame<'_>, room: Rect) -> u16 {
    let block = Block::bordered().title(title).title_bottom(Line::from(" Esc: back ").alignment(Alignment::Right));
    let inner = usize::from(block.inner(room).width);
    let names = all.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let lines = all.iter().flat_map(|(name, text)| {
        let parts = broken(text, inner.saturating_sub(names + 2)).into_iter().enumerate();
        parts.map(move |(n, part)| {
            let name = if n == 0 { *name } else { "" };
            Line::from(vec![Span::styled(format!("{name:names$}  "), SOFT), Span::raw(part)])
        })
    });
    let lines: Vec<Line<'_>> = lines.collect();
    let tall = u16::try_from(lines.len()).unwrap_or(u16::MAX);
    let height = tall.saturating_add(2).min(room.height);
    let last = tall.saturating_sub(height.saturating_sub(2));
    let area = Rect { height, ..room };
    frame.render_widget(Clear, area);
    frame.render_widget(Paragraph::new(lines).block(block).scroll((from.min(last), 0)), area);
    last
}

fn help(from: u16, frame: &mut Frame<'_>, area: Rect) -> u16 {
    told(" dispatcher top: keys ".into(), HELP, from, frame, area)
}

fn details(model: &Model, table: &Table, from: u16, frame: &mut Frame<'_>, area: Rect) -> u16 {
    let Some(row) = table.rows.get(model.cursor(table)) else { return 0 };
    let all: Vec<(&str, &str)> = row.details.iter().map(|(name, text)| (*name, text.as_str())).collect();
    told(format!(" {}: {} ", model.view.title(), row.key), &all, from, frame, area)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn texts_are_broken_between_words() {
        assert_eq!(broken("one two three", 8), ["one two ", "three"]);
        assert_eq!(broken("one two", 7), ["one two"]);
        assert_eq!(broken("abcdefghij k", 4), ["abcd", "efgh", "ij k"]);
        assert_eq!(broken("", 4), [""]);
        assert_eq!(fitted("abcdef", 4, false), "abc…");
        assert_eq!(fitted("服服服", 4, false), "服… ");
        assert_eq!(fitted("7", 4, true), "   7");
    }

    proptest! {
        #[test]
        fn whatever_is_written_fits_into_its_columns(text in "\\PC{0,40}", width in 2u16..30) {
            prop_assert_eq!(Span::raw(fitted(&text, width, true)).width(), usize::from(width));
            prop_assert!(broken(&text, usize::from(width)).iter().all(|line| Span::raw(line).width() <= usize::from(width)));
        }
    }
}
