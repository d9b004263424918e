//! Tables of a TOML file, key by key, with every fault put down and none the last.

use super::fault::{Fault, Faults, MAX_FAULTS, Source, meant};
use super::keys::{INSTEAD, Table};
use clap::ValueEnum;
use core::ops::Range;
use std::collections::HashSet;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Bytes of the file.
pub type Span = Range<usize>;

/// A value and where it stands.
pub type Placed<T> = (T, Span);

/// Puts faults down.
pub struct Reader<'a> {
    source: Source<'a>,
    faults: Vec<(Span, Fault)>,
    /// Lines that are no TOML: what was guessed of them is not judged.
    broken: HashSet<usize>,
    more: usize,
}

impl<'a> Reader<'a> {
    /// Of this text.
    pub fn new(text: &'a str) -> Reader<'a> {
        Reader { source: Source::new(text), faults: Vec::new(), broken: HashSet::new(), more: 0 }
    }

    /// A line that is no TOML.
    pub fn broken(&mut self, span: Span, what: String) {
        // One mistake may be told several times.
        if self.broken.insert(self.source.line(span.start)) {
            self.put(span, what, None);
        }
    }

    /// Something else.
    pub fn fault(&mut self, span: &Span, what: impl Into<String>, hint: Option<String>) {
        if !self.broken.contains(&self.source.line(span.start)) {
            self.put(span.clone(), what.into(), hint);
        }
    }

    fn put(&mut self, span: Span, what: String, hint: Option<String>) {
        if self.faults.len() < MAX_FAULTS {
            self.faults.push((span.clone(), self.source.fault(&span, what, hint)));
        } else {
            self.more += 1;
        }
    }

    /// Whether the file is TOML at all; of one that is not, nothing is missing.
    pub fn is_toml(&self) -> bool {
        self.broken.is_empty()
    }

    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.faults.is_empty()
    }

    /// All that was put down, in the order of the file.
    pub fn finish(mut self, file: &str) -> Faults {
        self.faults.sort_by_key(|(span, _)| span.start);
        let faults = self.faults.into_iter().map(|(_, fault)| fault).collect();
        Faults { file: file.to_string(), faults, more: self.more }
    }
}

/// A table of the file.
pub struct Section<'t> {
    /// Which keys it may have.
    pub table: Table,
    /// What people call it.
    pub title: String,
    /// Where it stands, or its head.
    pub span: Span,
    entries: &'t DeTable<'t>,
}

impl<'t> Section<'t> {
    /// Looks at a table; unknown keys are faults.
    pub fn new(reader: &mut Reader<'_>, table: Table, title: String, span: Span, entries: &'t DeTable<'t>) -> Self {
        let known = |name: &str| table.keys().any(|key| key.name == name);
        for (key, _) in entries {
            let (name, at) = (key.get_ref().as_ref(), key.span());
            if known(name) {
                continue;
            }
            let shown: String = name.chars().take(64).collect::<String>().escape_debug().to_string();
            if let Some((_, _, what)) = INSTEAD.iter().find(|(t, sought, _)| *t == table && *sought == name) {
                reader.fault(&at, format!("unknown key '{shown}' in {title}"), Some((*what).to_string()));
                continue;
            }
            let elsewhere = Table::ALL.into_iter().find(|t| *t != Table::Root && t.keys().any(|k| k.name == name));
            let hint = match (meant(name, table.keys().map(|k| k.name)), elsewhere) {
                (Some(near), _) => Some(format!("did you mean '{near}'?")),
                (None, Some(other)) => Some(format!("it belongs to {}", other.as_str())),
                (None, None) => {
                    let all: Vec<_> = table.keys().map(|k| k.name).collect();
                    Some(format!("there are {}", all.join(", ")))
                }
            };
            reader.fault(&at, format!("unknown key '{shown}' in {title}"), hint);
        }
        Section { table, title, span, entries }
    }

    /// A key's value.
    pub fn get(&self, name: &str) -> Option<&'t Spanned<DeValue<'t>>> {
        debug_assert!(self.table.keys().any(|key| key.name == name), "{name} is in no list");
        self.entries.get(name)
    }

    /// Puts down that a key is not there.
    pub fn missing(&self, reader: &mut Reader<'_>, name: &str) {
        if reader.is_toml() {
            let example = self.table.keys().find(|key| key.name == name).map_or("", |key| key.value);
            reader.fault(
                &self.span,
                format!("{} has no '{name}'", self.title),
                Some(format!("such as {name} = {example}")),
            );
        }
    }

    /// One value, if it is there and right.
    pub fn one<T>(
        &self,
        reader: &mut Reader<'_>,
        name: &str,
        parse: impl FnMut(&str) -> Result<T, String>,
    ) -> Option<Placed<T>> {
        let value = self.get(name)?;
        self.scalar(reader, name, value, parse)
    }

    /// One value that must be there.
    pub fn must<T>(
        &self,
        reader: &mut Reader<'_>,
        name: &str,
        parse: impl FnMut(&str) -> Result<T, String>,
    ) -> Option<Placed<T>> {
        if self.get(name).is_none() {
            self.missing(reader, name);
        }
        self.one(reader, name, parse)
    }

    /// A list of values; a single value is a list of one.
    pub fn list<T>(
        &self,
        reader: &mut Reader<'_>,
        name: &str,
        mut parse: impl FnMut(&str) -> Result<T, String>,
    ) -> Vec<Placed<T>> {
        let Some(value) = self.get(name) else { return Vec::new() };
        match value.get_ref() {
            DeValue::Array(all) => {
                all.iter().filter_map(|value| self.scalar(reader, name, value, &mut parse)).collect()
            }
            _ => self.scalar(reader, name, value, parse).into_iter().collect(),
        }
    }

    /// Tables below this one, in the order of the file.
    pub fn tables(&self, reader: &mut Reader<'_>, name: &str) -> Vec<(Span, &'t DeTable<'t>)> {
        let Some(value) = self.get(name) else { return Vec::new() };
        let wrong = |reader: &mut Reader<'_>, span: Span, value: &DeValue<'_>| {
            reader.fault(&span, format!("'{name}' is a list of tables, not a {}", kind(value)), None);
        };
        match value.get_ref() {
            DeValue::Array(all) => all
                .iter()
                .filter_map(|value| match value.get_ref() {
                    DeValue::Table(table) => Some((value.span(), table)),
                    other => {
                        wrong(reader, value.span(), other);
                        None
                    }
                })
                .collect(),
            other => {
                wrong(reader, value.span(), other);
                Vec::new()
            }
        }
    }

    /// A table may stand there, and this word does instead.
    pub fn says(&self, name: &str, word: &str) -> bool {
        matches!(self.get(name).map(|value| value.get_ref()), Some(DeValue::String(text)) if *text == word)
    }

    /// One table below this one.
    pub fn table(&self, reader: &mut Reader<'_>, name: &str) -> Option<(Span, &'t DeTable<'t>)> {
        let value = self.get(name)?;
        match value.get_ref() {
            DeValue::Table(table) => Some((value.span(), table)),
            other => {
                let example = self.table.keys().find(|key| key.name == name).map_or("", |key| key.value);
                let hint = Some(format!("such as {name} = {example}"));
                reader.fault(&value.span(), format!("'{name}' is a table, not a {}", kind(other)), hint);
                None
            }
        }
    }

    fn scalar<T>(
        &self,
        reader: &mut Reader<'_>,
        name: &str,
        value: &Spanned<DeValue<'_>>,
        mut parse: impl FnMut(&str) -> Result<T, String>,
    ) -> Option<Placed<T>> {
        let number;
        let text = match value.get_ref() {
            DeValue::String(text) => text.as_ref(),
            DeValue::Integer(n) => {
                number = if n.radix() == 10 { n.as_str().to_string() } else { n.to_string() };
                &number
            }
            DeValue::Boolean(true) => "true",
            DeValue::Boolean(false) => "false",
            other => {
                let example =
                    self.table.keys().find(|key| key.name == name).map(|key| format!("such as {name} = {}", key.value));
                reader.fault(&value.span(), format!("'{name}' cannot be a {}", kind(other)), example);
                return None;
            }
        };
        match parse(text) {
            Ok(good) => Some((good, value.span())),
            Err(why) => {
                reader.fault(&value.span(), format!("{name}: {why}"), None);
                None
            }
        }
    }
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "text",
        DeValue::Integer(_) => "number",
        DeValue::Float(_) => "number with a point",
        DeValue::Boolean(_) => "truth value",
        DeValue::Datetime(_) => "date",
        DeValue::Array(_) => "list",
        DeValue::Table(_) => "table",
    }
}

/// One of a flag's words.
pub fn word<E: ValueEnum>(text: &str) -> Result<E, String> {
    E::from_str(text, false).map_err(|_| {
        let words: Vec<_> = E::value_variants().iter().filter_map(|v| v.to_possible_value()).collect();
        let words: Vec<&str> = words.iter().map(|w| w.get_name()).collect();
        let shown: String = text.chars().take(64).collect();
        let near = meant(text, words.iter().copied()).map_or(String::new(), |near| format!("; did you mean '{near}'?"));
        format!("'{}' is none of {}{near}", shown.escape_debug(), words.join(", "))
    })
}
