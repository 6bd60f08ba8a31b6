//! YAML by `serde-saphyr`, each node with its place.

use std::fmt;

use serde::{Deserialize, Deserializer, de};
use serde_json::{Map, Number, Value};
use serde_saphyr::{Location, Spanned};

use super::{
    Source, SyntaxError,
    place::{Position, SourceMap},
    without_place,
};

pub(super) fn read(text: &str) -> Result<Source, SyntaxError> {
    if text.trim().is_empty() {
        return Ok(Source {
            document: Value::Object(Map::new()),
            places: SourceMap::default(),
        });
    }
    // `no`, `on` and their like are text, as YAML 1.2 has it.
    let options = serde_saphyr::options! { strict_booleans: true };
    let root: Spanned<Node> = serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let position = error.location().and_then(position);
        let message = error.without_snippet().to_string();
        SyntaxError::new(text, position, without_place(first_line(&message)))
    })?;
    let mut places = SourceMap::default();
    let document = build(root.value, &mut Vec::new(), &mut places);
    Ok(Source { document, places })
}

fn first_line(message: &str) -> &str {
    message.lines().next().unwrap_or(message)
}

fn position(location: Location) -> Option<Position> {
    let line = usize::try_from(location.line()).ok()?;
    let column = usize::try_from(location.column()).ok()?;
    (line > 0).then_some(Position {
        line,
        column: column.max(1),
    })
}

/// A node as it was read; the places of what is in it come with it.
enum Node {
    Scalar(Value),
    List(Vec<Spanned<Node>>),
    Table(Vec<(Spanned<String>, Node)>),
}

fn build(node: Node, path: &mut Vec<String>, places: &mut SourceMap) -> Value {
    match node {
        Node::Scalar(value) => value,
        Node::List(items) => {
            let mut list = Vec::with_capacity(items.len());
            for (index, item) in items.into_iter().enumerate() {
                path.push(index.to_string());
                if let Some(position) = position(item.referenced) {
                    places.note(path, position);
                }
                list.push(build(item.value, path, places));
                path.pop();
            }
            Value::Array(list)
        }
        Node::Table(entries) => {
            let mut table = Map::new();
            for (key, node) in entries {
                path.push(key.value.clone());
                if let Some(position) = position(key.referenced) {
                    places.note(path, position);
                }
                table.insert(key.value, build(node, path, places));
                path.pop();
            }
            Value::Object(table)
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Node;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table, a list, text, a number, true, false or nothing")
            }

            fn visit_bool<E: de::Error>(self, value: bool) -> Result<Node, E> {
                Ok(Node::Scalar(value.into()))
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Node, E> {
                Ok(Node::Scalar(value.into()))
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Node, E> {
                Ok(Node::Scalar(value.into()))
            }

            fn visit_f64<E: de::Error>(self, value: f64) -> Result<Node, E> {
                Number::from_f64(value)
                    .map(|number| Node::Scalar(Value::Number(number)))
                    .ok_or_else(|| E::custom("a number that is infinite or none"))
            }

            fn visit_str<E: de::Error>(self, value: &str) -> Result<Node, E> {
                Ok(Node::Scalar(value.into()))
            }

            fn visit_string<E: de::Error>(self, value: String) -> Result<Node, E> {
                Ok(Node::Scalar(value.into()))
            }

            fn visit_unit<E: de::Error>(self) -> Result<Node, E> {
                Ok(Node::Scalar(Value::Null))
            }

            fn visit_none<E: de::Error>(self) -> Result<Node, E> {
                self.visit_unit()
            }

            fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
                Node::deserialize(deserializer)
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    items.push(item);
                }
                Ok(Node::List(items))
            }

            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Node::Table(entries))
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}
