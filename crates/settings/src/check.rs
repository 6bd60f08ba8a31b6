//! Checks each value by itself, so that one mistake does not hide the next.

use std::collections::BTreeSet;

use figment::{
    error::Kind,
    value::{Dict, Tag, Value},
};

use crate::{
    error::Problem,
    layer::{Layer, leaves, nest},
    provenance::is_secret,
    tables::Settings,
};

/// Adapters that Robata has, or will have, under each family; this version has the ones that [`Settings`] names.
const LATER: &[(&str, &[&str])] = &[("logs", &["gcs", "azure"]), ("executors", &["kubernetes", "ecs"])];

/// Whether `value` may stand at `key`.
pub(crate) fn fits(key: &[String], value: &Value) -> Result<(), Box<figment::Error>> {
    Value::Dict(Tag::Default, nest(key, value.clone()))
        .deserialize::<Settings>()
        .map(drop)
        .map_err(Box::new)
}

/// Every mistake of a layer.
pub(crate) fn layer(layer: &Layer, known: &[String]) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut told = BTreeSet::new();
    for (key, value) in leaves(&layer.values) {
        let Err(error) = fits(&key, value) else {
            continue;
        };
        let (wrong, message, nearest) = explain(&key, &error, known);
        if told.insert(wrong.clone()) {
            problems.push(Problem {
                key: wrong.join("."),
                place: layer.place(&wrong),
                message,
                nearest,
            });
        }
    }
    problems
}

/// The part of the key that is wrong, what is wrong with it, and the nearest valid key.
fn explain(key: &[String], error: &figment::Error, known: &[String]) -> (Vec<String>, String, Option<String>) {
    match &error.kind {
        Kind::UnknownField(name, siblings) => {
            let wrong = up_to(key, name);
            let above = &wrong[..wrong.len() - 1];
            let nearest = near(name, siblings.iter().copied())
                .map(|sibling| join(above, sibling))
                .or_else(|| elsewhere(name, known));
            let message = if nearest.is_some() {
                "unknown key".to_owned()
            } else {
                format!("unknown key; {} has {}", place_name(above), siblings.join(", "))
            };
            (wrong, message, nearest)
        }
        Kind::UnknownVariant(name, adapters) => {
            let wrong = up_to(key, name);
            let family = wrong.first().map_or("", String::as_str);
            let later = LATER
                .iter()
                .any(|(of, names)| *of == family && names.contains(&name.as_str()));
            let here = adapters.join(", ");
            if later {
                let message = format!(
                    "the adapter `{name}` is not available in this version ({}), which has {here}",
                    env!("CARGO_PKG_VERSION")
                );
                return (wrong, message, None);
            }
            let above = &wrong[..wrong.len() - 1];
            let nearest = near(name, adapters.iter().copied()).map(|found| join(above, found));
            if above.last().is_some_and(|table| table == "secrets") {
                let message = format!("unknown key; {} has one of {here}", place_name(above));
                return (wrong, message, nearest);
            }
            (wrong, format!("no such adapter; there are {here}"), nearest)
        }
        // What else is wrong with it would say what it is.
        _ if is_secret(key) => (key.to_vec(), "must be text, in quotes".to_owned(), None),
        _ => (key.to_vec(), told(&error.kind), None),
    }
}

fn told(kind: &Kind) -> String {
    match kind {
        Kind::InvalidType(actual, expected) => format!("must be {expected}, not {actual}"),
        Kind::InvalidValue(actual, expected) => format!("must be {expected}, not {actual}"),
        Kind::InvalidLength(length, expected) => {
            format!("must have {expected}, not {length} parts")
        }
        Kind::Message(message) => message.clone(),
        other => other.to_string(),
    }
}

fn place_name(above: &[String]) -> String {
    if above.is_empty() {
        "the top level".to_owned()
    } else {
        format!("[{}]", above.join("."))
    }
}

fn join(above: &[String], name: &str) -> String {
    let mut parts: Vec<&str> = above.iter().map(String::as_str).collect();
    parts.push(name);
    parts.join(".")
}

fn up_to(key: &[String], name: &str) -> Vec<String> {
    let end = key.iter().position(|part| part == name).unwrap_or(key.len() - 1);
    key[..=end].to_vec()
}

/// The name most like `name`, where one is like it.
pub(crate) fn near<'n>(name: &str, names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    names
        .map(|other| (strsim::jaro_winkler(name, other), other))
        .filter(|(likeness, _)| *likeness > 0.78)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, other)| other)
}

/// A key of another table that ends in this very name.
fn elsewhere(name: &str, known: &[String]) -> Option<String> {
    known.iter().find(|key| key.rsplit('.').next() == Some(name)).cloned()
}

/// Families of which more than one adapter is chosen, as (key, adapters).
pub(crate) fn chosen_twice(merged: &Dict) -> Vec<(Vec<String>, Vec<String>)> {
    let several = |value: &Value| {
        value
            .as_dict()
            .filter(|adapters| adapters.len() > 1)
            .map(|adapters| adapters.keys().cloned().collect::<Vec<_>>())
    };
    let mut found = Vec::new();
    for family in ["store", "queue", "logs"] {
        if let Some(adapters) = merged.get(family).and_then(several) {
            found.push((vec![family.to_owned()], adapters));
        }
    }
    if let Some(executors) = merged.get("executors").and_then(Value::as_dict) {
        for (name, value) in executors {
            if let Some(adapters) = several(value) {
                found.push((vec!["executors".to_owned(), name.clone()], adapters));
            }
            for (kind, chosen) in value.as_dict().into_iter().flatten() {
                let places = chosen.as_dict().and_then(|chosen| several(chosen.get("secrets")?));
                let key = ["executors", name, kind, "secrets"].map(str::to_owned);
                found.extend(places.map(|places| (key.to_vec(), places)));
            }
        }
    }
    found
}
