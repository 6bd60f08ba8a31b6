//! TOML by `toml_edit`, which keeps the place of each key and value.

use serde_json::{Map, Number, Value};
use toml_edit::{Document, Item, TableLike, Value as TomlValue};

use super::{
    Source, SyntaxError,
    place::{Lines, SourceMap},
};

pub(super) fn read(text: &str) -> Result<Source, SyntaxError> {
    let lines = Lines::of(text);
    let document = Document::parse(text).map_err(|error| {
        let position = error.span().map(|span| lines.position(span.start));
        SyntaxError::new(text, position, error.message())
    })?;
    let mut reader = Reader {
        text,
        lines,
        places: SourceMap::default(),
        path: Vec::new(),
    };
    let document = reader.table(document.as_table())?;
    Ok(Source {
        document,
        places: reader.places,
    })
}

struct Reader<'t> {
    text: &'t str,
    lines: Lines<'t>,
    places: SourceMap,
    path: Vec<String>,
}

impl Reader<'_> {
    fn note(&mut self, byte: Option<usize>) {
        if let Some(byte) = byte {
            let position = self.lines.position(byte);
            self.places.note(&self.path, position);
        }
    }

    fn table(&mut self, table: &dyn TableLike) -> Result<Value, SyntaxError> {
        let mut object = Map::new();
        for (name, item) in table.iter() {
            self.path.push(name.to_owned());
            let key = table.key(name).and_then(toml_edit::Key::span);
            self.note(key.or_else(|| item.span()).map(|span| span.start));
            object.insert(name.to_owned(), self.item(item)?);
            self.path.pop();
        }
        Ok(Value::Object(object))
    }

    fn item(&mut self, item: &Item) -> Result<Value, SyntaxError> {
        match item {
            Item::None => Ok(Value::Null),
            Item::Value(value) => self.value(value),
            Item::Table(table) => self.table(table),
            Item::ArrayOfTables(tables) => {
                let mut items = Vec::with_capacity(tables.len());
                for (index, table) in tables.iter().enumerate() {
                    self.path.push(index.to_string());
                    self.note(table.span().map(|span| span.start));
                    items.push(self.table(table)?);
                    self.path.pop();
                }
                Ok(Value::Array(items))
            }
        }
    }

    fn value(&mut self, value: &TomlValue) -> Result<Value, SyntaxError> {
        Ok(match value {
            TomlValue::String(text) => Value::String(text.value().clone()),
            TomlValue::Integer(number) => (*number.value()).into(),
            TomlValue::Boolean(word) => (*word.value()).into(),
            TomlValue::Datetime(time) => Value::String(time.value().to_string()),
            TomlValue::Float(number) => match Number::from_f64(*number.value()) {
                Some(number) => Value::Number(number),
                None => {
                    let position = value.span().map(|span| self.lines.position(span.start));
                    let message = "a number that is infinite or none";
                    return Err(SyntaxError::new(self.text, position, message));
                }
            },
            TomlValue::Array(array) => {
                let mut items = Vec::with_capacity(array.len());
                for (index, value) in array.iter().enumerate() {
                    self.path.push(index.to_string());
                    self.note(value.span().map(|span| span.start));
                    items.push(self.value(value)?);
                    self.path.pop();
                }
                Value::Array(items)
            }
            TomlValue::InlineTable(table) => self.table(table)?,
        })
    }
}
