//! A settings file: its values, and the line on which each key stands.

use std::{ops::Range, path::PathBuf};

use figment::value::{Dict, Num, Tag, Value};
use toml_edit::{Document, Item, TableLike};

use crate::{
    error::{Place, Problem},
    provenance::shown_line,
};

/// A file that was read.
#[derive(Debug)]
pub(crate) struct File {
    path: PathBuf,
    text: String,
    document: Document<String>,
}

impl File {
    /// Parses `text`; a syntax error carries its line.
    pub(crate) fn parse(path: PathBuf, text: String) -> Result<Self, Box<Problem>> {
        match Document::parse(text.clone()) {
            Ok(document) => Ok(Self { path, text, document }),
            Err(error) => Err(Box::new(Problem {
                key: String::new(),
                place: place(&path, &text, error.span().unwrap_or(0..0)),
                message: format!("not valid TOML: {}", error.message().replace('\n', ", ")),
                nearest: None,
            })),
        }
    }

    /// All values.
    pub(crate) fn values(&self) -> Dict {
        table(self.document.as_table())
    }

    /// Where `key` stands; the nearest key above it that is written out, where it is not.
    pub(crate) fn place(&self, key: &[String]) -> Place {
        let mut here: &dyn TableLike = self.document.as_table();
        let mut span = 0..0;
        for part in key {
            let Some((key, item)) = here.get_key_value(part) else {
                break;
            };
            if let Some(found) = key.span().or_else(|| item.span()) {
                span = found;
            }
            match item.as_table_like() {
                Some(table) => here = table,
                None => break,
            }
        }
        place(&self.path, &self.text, span)
    }
}

fn place(path: &std::path::Path, text: &str, span: Range<usize>) -> Place {
    let at = span.start.min(text.len());
    let start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
    let end = text[at..].find('\n').map_or(text.len(), |newline| at + newline);
    Place::File {
        path: path.to_owned(),
        line: text[..at].matches('\n').count() + 1,
        text: shown_line(text[start..end].trim_end()),
        column: text[start..at].chars().count(),
        width: text[at..span.end.clamp(at, end)].chars().count(),
    }
}

fn table(table: &dyn TableLike) -> Dict {
    table
        .iter()
        .filter_map(|(key, item)| Some((key.to_owned(), item_value(item)?)))
        .collect()
}

fn item_value(item: &Item) -> Option<Value> {
    match item {
        Item::None => None,
        Item::Value(found) => Some(value(found)),
        Item::Table(found) => Some(Value::Dict(Tag::Default, table(found))),
        Item::ArrayOfTables(found) => Some(Value::Array(
            Tag::Default,
            found
                .iter()
                .map(|found| Value::Dict(Tag::Default, table(found)))
                .collect(),
        )),
    }
}

fn value(value: &toml_edit::Value) -> Value {
    use toml_edit::Value as Toml;
    match value {
        Toml::String(text) => Value::from(text.value().as_str()),
        Toml::Integer(number) => Value::Num(Tag::Default, Num::I64(*number.value())),
        Toml::Float(number) => Value::Num(Tag::Default, Num::F64(*number.value())),
        Toml::Boolean(switch) => Value::Bool(Tag::Default, *switch.value()),
        Toml::Datetime(time) => Value::from(time.value().to_string()),
        Toml::Array(found) => Value::Array(Tag::Default, found.iter().map(self::value).collect()),
        Toml::InlineTable(found) => Value::Dict(Tag::Default, table(found)),
    }
}

/// One value as TOML writes it on the right of `=`; `None` where it is none.
pub(crate) fn written_value(text: &str) -> Option<Value> {
    let document = Document::parse(format!("value = {text}\n")).ok()?;
    document
        .as_table()
        .get("value")
        .filter(|_| document.as_table().len() == 1)
        .and_then(item_value)
}
