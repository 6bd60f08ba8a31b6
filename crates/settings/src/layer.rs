//! One layer of settings: the file, a variable or a flag.

use std::path::PathBuf;

use figment::{
    Metadata, Profile, Provider,
    value::{Dict, Map, Tag, Value},
};

use crate::{error::Place, file::File};

/// Values that came from one place.
#[derive(Debug)]
pub(crate) struct Layer {
    pub(crate) origin: Origin,
    pub(crate) values: Dict,
}

/// Where a layer came from.
#[derive(Debug)]
pub(crate) enum Origin {
    File(Box<File>),
    Variable { name: String, file: Option<PathBuf> },
    Flag(String),
}

impl Layer {
    /// A layer of one value.
    pub(crate) fn single(origin: Origin, key: &[String], value: Value) -> Self {
        Self {
            origin,
            values: nest(key, value),
        }
    }

    /// Where `key` of this layer stands.
    pub(crate) fn place(&self, key: &[String]) -> Place {
        match &self.origin {
            Origin::File(file) => file.place(key),
            Origin::Variable { name, file } => Place::Variable {
                name: name.clone(),
                file: file.clone(),
            },
            Origin::Flag(name) => Place::Flag(name.clone()),
        }
    }
}

/// A layer under the number by which it is found again from a value's tag.
pub(crate) struct Numbered<'a>(pub(crate) usize, pub(crate) &'a Layer);

impl Provider for Numbered<'_> {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.0.to_string())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Map::from([(Profile::Default, self.1.values.clone())]))
    }
}

/// The defaults, below all layers.
pub(crate) struct Below(pub(crate) Dict);

impl Provider for Below {
    fn metadata(&self) -> Metadata {
        Metadata::named("default")
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Map::from([(Profile::Default, self.0.clone())]))
    }
}

/// Tables around one value.
pub(crate) fn nest(key: &[String], value: Value) -> Dict {
    match key {
        [] => Dict::new(),
        [last] => Dict::from([(last.clone(), value)]),
        [first, rest @ ..] => Dict::from([(first.clone(), Value::Dict(Tag::Default, nest(rest, value)))]),
    }
}

/// Every value with its key; an empty table is a value, too.
pub(crate) fn leaves(values: &Dict) -> Vec<(Vec<String>, &Value)> {
    fn walk<'v>(values: &'v Dict, above: &[String], found: &mut Vec<(Vec<String>, &'v Value)>) {
        for (name, value) in values {
            let mut key = above.to_vec();
            key.push(name.clone());
            match value {
                Value::Dict(_, table) if !table.is_empty() => walk(table, &key, found),
                _ => found.push((key, value)),
            }
        }
    }
    let mut found = Vec::new();
    walk(values, &[], &mut found);
    found
}
