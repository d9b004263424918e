//! `dispatcher top`: its pictures, read from a terminal that is made up (ratatui's), and all of it in a pseudo-terminal.

mod made_up;

#[path = "top/figures.rs"]
mod figures;
#[path = "top/terminal.rs"]
mod terminal;

use dispatcher::cli::top::keys::{HELP, Wish, press};
use dispatcher::cli::top::model::Model;
use dispatcher::cli::top::render::render;
use dispatcher::cli::top::views::View;
use dispatcher::control::socket::api::Status;
use figures::{reading, status};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use std::time::Duration;

/// Two readings, two seconds apart.
fn model() -> Model {
    let mut model = Model::new(status(0), Duration::from_secs(1));
    model.told(Ok(status(1)));
    model
}

/// Its lines.
fn picture(model: &Model, width: u16, height: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| _ = render(model, frame)).unwrap();
    let buffer = terminal.backend().buffer();
    let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_string();
    (0..height).map(line).collect()
}

fn text(model: &Model) -> String {
    picture(model, 80, 24).join("\n")
}

/// Presses keys: characters as they are, and these for others.
fn type_in(model: &mut Model, keys: &str) -> Wish {
    let code = |c| match c {
        '\n' => KeyCode::Enter,
        '\t' => KeyCode::Tab,
        '\x1b' => KeyCode::Esc,
        '\x08' => KeyCode::Backspace,
        '↓' => KeyCode::Down,
        '↑' => KeyCode::Up,
        '⇲' => KeyCode::End,
        c => KeyCode::Char(c),
    };
    keys.chars().fold(Wish::None, |_, c| press(model, KeyEvent::new(code(c), KeyModifiers::NONE)))
}

/// The first words of the table's lines.
fn order(model: &Model) -> Vec<String> {
    let lines = picture(model, 80, 24);
    let rows = lines[6..23].iter().filter(|line| !line.is_empty());
    rows.map(|line| line.split_whitespace().next().unwrap().to_string()).collect()
}

#[test]
fn eighty_columns_say_what_matters_and_rates_are_those_of_two_readings() {
    let lines = picture(&model(), 80, 24);
    for line in &lines {
        println!("{line}");
    }
    assert!(lines[0].starts_with("dispatcher  1.2.3, process 4711, up 1m 42s"), "{}", lines[0]);
    assert!(lines[0].ends_with("every 1s  live"), "{}", lines[0]);
    // 600 connections and 10 frames in two seconds.
    assert_eq!(lines[1], "Connections/s 300   Flows 13   Resumed 93%   Waiting 3   Drops/s 5");
    // 30 busy turns of 40 since the reading before, not 930 of 1040.
    assert_eq!(lines[2], "Backends up 2 of 3   Workers 1 of 1   busy 75%   Frames/s in 50000   out 45000");
    assert_eq!(lines[3], "note: web1 and web10 share a ticket key");
    assert_eq!(lines[4], "1 Services 2 Backends 3 Sessions 4 Keys 5 Queues 6 Drops 7 Workers 8 Events");
    let row = |name: &str| -> Vec<&str> {
        let line = lines.iter().find(|line| line.starts_with(&format!("{name} "))).unwrap();
        line.split_whitespace().collect()
    };
    assert_eq!(row("BACKEND▲"), ["BACKEND▲", "STATE", "FLOWS", "CONN/S", "RESUMED", "SLOTS", "WHY"]);
    assert_eq!(row("web1"), ["web1", "up", "6", "200", "75%", "40/40"]);
    assert_eq!(row("web10"), ["web10", "up", "6", "100", "75%", "-"]);
    let why = "check tls: connection refused, f…";
    assert_eq!(row("web2").join(" "), format!("web2 down 4 0 75% - {why}"));
    assert!(lines[23].ends_with("3, by BACKEND ▲"), "{}", lines[23]);
}

#[test]
fn wide_terminals_have_more_columns_and_the_past() {
    let mut model = model();
    model.told(Ok(status(4)));
    let lines = picture(&model, 120, 40);
    let head = &lines[5];
    for title in ["BACKEND▲", "BYTES IN/S", "BYTES OUT/S", "WHY"] {
        assert!(head.contains(title), "{head}");
    }
    // 600 in two seconds, then 1800 in six.
    assert!(lines[1].ends_with("Connections/s, at most 300"), "{}", lines[1]);
    assert!(lines[3].ends_with("██"), "{}", lines[3]);
    assert!(!picture(&model, 100, 40)[1].contains("at most"));
}

#[test]
fn every_view_shows_its_rows_at_eighty_columns() {
    let mut model = model();
    for (key, shown) in [
        ("1", ["shop", "2 of 3", "10.0.0.1:443 [fd00::1]:443"]),
        ("2", ["web2", "down", "connection refused"]),
        // Eight in two seconds; 40 of 60 that were answered.
        ("3", ["psk", "4", "67%"]),
        ("4", ["00112233445566778899aabbccddeeff", "yes", "web10 web1 web2"]),
        ("5", ["full", "< 4 ms", "TIMED OUT"]),
        ("6", ["no-flow", "bad-cookie", "To a VIP's port that is not served"]),
        ("7", ["running", "75%", "4.0 ms"]),
        ("8", ["02:40:01", "warning", "backend web2 is down: check tls: connection refused"]),
    ] {
        type_in(&mut model, key);
        let all = text(&model);
        for word in shown {
            assert!(all.contains(word), "{key}: {word}\n{all}");
        }
    }
    assert!(!text(&model).contains("malformed"), "reasons that have not happened are left out");
    type_in(&mut model, "\t");
    assert_eq!(model.view, View::Services, "behind the last one is the first");
}

#[test]
fn nothing_to_show_is_said_and_no_rate_is_made_up() {
    let mut first = reading(0);
    for key in ["services", "backends", "queues", "drops", "workers", "events"] {
        first[key] = serde_json::json!([]);
    }
    first["sessions"]["offered"] = serde_json::json!([]);
    let mut model = Model::new(serde_json::from_value(first).unwrap(), Duration::from_secs(1));
    for view in View::ALL {
        model.view = view;
        assert!(text(&model).contains(view.empty()), "{}", text(&model));
        assert_eq!(type_in(&mut model, "\n↓⇲↑"), Wish::None);
    }
    let only = Model::new(status(0), Duration::from_secs(1));
    assert!(text(&only).contains("Connections/s -   Flows 12"), "{}", text(&only));
}

#[test]
fn a_dispatcher_that_was_restarted_has_no_rates_with_the_one_before() {
    let mut model = model();
    let mut next = reading(9);
    next["overview"]["pid"] = 4712.into();
    model.told(Ok(serde_json::from_value(next).unwrap()));
    assert!(text(&model).contains("Connections/s -   Flows 21"), "{}", text(&model));
    // Counters that begin anew in the same process do not fall.
    let mut model = self::model();
    let mut next = reading(2);
    next["overview"]["connections"] = 0.into();
    model.told(Ok(serde_json::from_value(next).unwrap()));
    assert!(text(&model).contains("Connections/s 0 "), "{}", text(&model));
}

#[test]
fn rows_are_ordered_by_keys_and_the_cursor_stays_with_its_row() {
    let mut model = model();
    assert_eq!(order(&model), ["web1", "web2", "web10"]);
    type_in(&mut model, "r");
    assert_eq!(order(&model), ["web10", "web2", "web1"]);
    // By state, flows, connections a second; numbers from the largest.
    type_in(&mut model, ">>>");
    assert_eq!(order(&model), ["web1", "web10", "web2"]);
    assert!(text(&model).contains("▼CONN/S"), "{}", text(&model));
    type_in(&mut model, "<");
    assert!(text(&model).contains("▼FLOWS"), "{}", text(&model));
    type_in(&mut model, "<<↓");
    assert_eq!((order(&model), cursor(&model)), (vec!["web1".into(), "web2".into(), "web10".into()], "web2".into()));
    type_in(&mut model, ">>>");
    assert_eq!((order(&model)[2].as_str(), cursor(&model).as_str()), ("web2", "web2"));
    // Where the cursor was not moved it is at the top, whatever is there.
    type_in(&mut model, "↑↑↑↑r");
    assert_eq!((order(&model)[0].as_str(), cursor(&model).as_str()), ("web2", "web2"));
}

fn cursor(model: &Model) -> String {
    let table = model.table();
    table.rows[model.cursor(&table)].cells[0].text.clone()
}

#[test]
fn the_cursor_is_seen_among_a_thousand_rows_and_at_both_ends() {
    let mut all = status(0);
    let one = all.backends[0].clone();
    let names = (0..1000).map(|n| format!("web{n}"));
    all.backends = names.map(|name| dispatcher::control::socket::api::Backend { name, ..one.clone() }).collect();
    let mut model = Model::new(all, Duration::from_secs(1));
    let ends = |model: &Model| (order(model)[0].clone(), order(model).last().unwrap().clone());
    assert_eq!(ends(&model), ("web0".into(), "web16".into()));
    type_in(&mut model, "⇲");
    assert_eq!((ends(&model), cursor(&model)), (("web983".into(), "web999".into()), "web999".into()));
    (0..500).for_each(|_| _ = type_in(&mut model, "k"));
    assert_eq!(cursor(&model), "web499");
    assert!(order(&model).contains(&"web499".to_string()), "{:?}", order(&model));
    type_in(&mut model, "g/web50");
    assert_eq!(ends(&model), ("web50".into(), "web509".into()));
    assert!(text(&model).contains("11 of 1000, by BACKEND"), "{}", text(&model));
}

#[test]
fn a_filter_is_written_kept_and_forgotten() {
    let mut model = model();
    type_in(&mut model, "/WEB1q");
    assert!(text(&model).contains("nothing that the filter leaves"), "{}", text(&model));
    type_in(&mut model, "\x08");
    assert_eq!(order(&model), ["web1", "web10"]);
    assert!(text(&model).contains("filter: WEB1"), "{}", text(&model));
    type_in(&mut model, "\n");
    assert_eq!((order(&model).len(), type_in(&mut model, "q")), (2, Wish::Quit), "q is a key again");
    type_in(&mut model, "\x1b");
    assert_eq!(order(&model).len(), 3);
    // What a terminal is given as keys is no text that could do something to it.
    type_in(&mut model, "/a\u{9b}31m\u{202e}");
    assert_eq!(model.filter, "a?31m?");
    (0..1000).for_each(|_| _ = type_in(&mut model, "x"));
    assert_eq!(model.filter.chars().count(), 100);
}

#[test]
fn what_is_paused_stays_and_what_is_old_says_so() {
    let mut model = model();
    assert_eq!(type_in(&mut model, "p"), Wish::Reading);
    model.told(Ok(status(50)));
    assert_eq!(model.now, status(1));
    assert!(text(&model).lines().next().unwrap().ends_with("PAUSED"));
    type_in(&mut model, " ");
    model.told(Err("no dispatcher answers".into()));
    let all = text(&model);
    assert!(all.contains("NO ANSWER") && all.contains("what is shown is old: no dispatcher answers"), "{all}");
    assert!(all.contains("web10"), "it is still there");
    model.told(Ok(status(2)));
    assert!(text(&model).lines().next().unwrap().ends_with("live"));
    type_in(&mut model, "+");
    assert_eq!(model.every, Duration::from_millis(500));
    (0..30).for_each(|_| _ = type_in(&mut model, "+"));
    assert_eq!(model.every, Duration::from_millis(100));
    (0..30).for_each(|_| _ = type_in(&mut model, "-"));
    assert_eq!(model.every, Duration::from_secs(3600));
}

#[test]
fn help_names_every_key_and_details_everything_that_is_known() {
    let mut model = model();
    type_in(&mut model, "h");
    let all = text(&model);
    for (keys, what) in HELP {
        assert!(all.contains(keys) && all.contains(what.split(';').next().unwrap()), "{keys}\n{all}");
    }
    type_in(&mut model, "\x1b↓\n");
    let all = text(&model);
    for word in [
        "Backends: web2",
        "holds        down check tls: connection refused, for 1m 5s",
        "in force     up",
        "observed     down: check tls: connection refused, 1m 5s ago",
        "wanted       up",
        "tls: down for 1m 5s; 100 passed, 3 failed, the last one took 4.2 ",
        "named: 00112233445566778899aabbccddeeff",
        "shop (weight 1)",
    ] {
        assert!(all.contains(word), "{word}\n{all}");
    }
    assert!(!all.contains("web10    up"), "{all}");
    // It is still of web2 when that is no longer where it was.
    let mut next = status(2);
    next.backends.reverse();
    next.backends.remove(1);
    model.told(Ok(next));
    assert!(text(&model).contains("Backends: web2"), "{}", text(&model));
    type_in(&mut model, "\n");
    assert!(text(&model).contains("web10    up"));
}

#[test]
fn no_size_is_too_small_and_what_is_before_the_table_can_be_read_to_its_end() {
    let mut model = model();
    for keys in ["", "h", "\x1b\n", "\x1b/x", "\x1b"] {
        type_in(&mut model, keys);
        for view in View::ALL {
            model.view = view;
            for (width, height) in (0..30).flat_map(|w| (0..14).map(move |h| (w, h))) {
                picture(&model, width, height);
            }
        }
    }
    model.view = View::Backends;
    type_in(&mut model, "h");
    let draw = |model: &mut Model| {
        let mut terminal = Terminal::new(TestBackend::new(80, 8)).unwrap();
        let mut last = 0;
        terminal.draw(|frame| last = render(model, frame)).unwrap();
        model.ends_at(last);
        picture(model, 80, 8).join("\n")
    };
    assert!(!draw(&mut model).contains("quit"));
    type_in(&mut model, "G");
    draw(&mut model);
    assert!(draw(&mut model).contains("quit"), "{}", draw(&mut model));
    type_in(&mut model, "↑");
    assert!(!draw(&mut model).contains("quit"), "one line up is one line up, however far it was gone down");
}

#[test]
fn drawing_a_thousand_backends_and_taking_their_rates_is_a_matter_of_milliseconds() {
    let mut all: Status = status(0);
    let one = all.backends[0].clone();
    let names = (0..1000).map(|n| format!("web{n}"));
    all.backends = names.map(|name| dispatcher::control::socket::api::Backend { name, ..one.clone() }).collect();
    let mut next = all.clone();
    next.overview.uptime += 1.0;
    let mut model = Model::new(all, Duration::from_secs(1));
    // Measured beside something of a known kind on the same machine: reading the same figures from JSON.
    let json = serde_json::to_vec(&next).unwrap();
    let quickest = |mut job: Box<dyn FnMut() + '_>| {
        let once = |_| {
            let began = std::time::Instant::now();
            job();
            began.elapsed()
        };
        (0..5).map(once).min().unwrap()
    };
    let read = quickest(Box::new(|| _ = serde_json::from_slice::<Status>(&json).unwrap()));
    let drawn = quickest(Box::new(|| {
        model.told(Ok(next.clone()));
        picture(&model, 200, 60);
    }));
    assert!(drawn < 20 * read, "{drawn:?} for a picture, {read:?} to read what is in it");
}
