//! The definitions reader: a file as `robata apply` reads it, and what the server makes of it.
#![no_main]

#[path = "../../crates/client/src/definitions/mod.rs"]
#[expect(dead_code, reason = "a file's name is not told here")]
mod definitions;

use definitions::{Format, Source, locate, read};
use libfuzzer_sys::fuzz_target;
use robata_api_types::Place;
use robata_core::{
    Timestamp,
    definition::{Catalog, Definition, Document},
};
use serde_json::Value;

fuzz_target!(|text: &str| {
    for format in [Format::Toml, Format::Yaml, Format::Json] {
        match read(text, format) {
            Ok(source) => check(&source),
            Err(error) => {
                assert!(!error.message.is_empty(), "{format:?}");
                let shown = error.shown("f");
                let Some(at) = error.position else {
                    // The one mistake for which toml_edit knows none.
                    assert_eq!(error.message, "recursion limit", "{format:?}: no place");
                    continue;
                };
                assert!(
                    (1..=text.matches(['\n', '\r']).count() + 1).contains(&at.line) && at.column > 0,
                    "{shown}"
                );
            }
        }
    }
});

fn check(source: &Source) {
    let written = source.document.to_string();
    let again = read(&written, Format::Json).unwrap_or_else(|error| panic!("{error}: {written}"));
    assert!(same(&again.document, &source.document), "{written}");

    let document = match Document::read(&source.document) {
        Ok(document) => document,
        Err(problems) => {
            assert!(!problems.is_empty());
            let places: Vec<Place> = problems.into_iter().map(Place::from).collect();
            for place in &places {
                assert!(!place.message.is_empty() && !place.code.is_empty(), "{place:?}");
            }
            assert_eq!(locate("f", &places, &source.places).len(), places.len());
            return;
        }
    };
    let mut catalog = Catalog::default();
    match catalog.plan(&document, true, &[]) {
        Ok(plan) => {
            for write in plan.writes {
                catalog.write(write, Timestamp::default());
            }
        }
        Err(problems) => return assert!(problems.iter().all(|problem| !problem.message.is_empty())),
    }
    // What was applied is what was read: applied once more, nothing changes.
    match catalog.plan(&document, true, &[]) {
        Ok(plan) => assert!(plan.writes.is_empty(), "{written}: {:?}", plan.writes),
        Err(problems) => panic!("refused the second time: {problems:?}"),
    }
    for entry in catalog.apps.values().flat_map(|app| app.jobs.values()) {
        let kept = serde_json::to_string(&*entry.definition).unwrap_or_else(|error| panic!("{error}"));
        match serde_json::from_str::<Definition>(&kept) {
            Ok(again) => assert_eq!(again, *entry.definition, "{kept}"),
            Err(error) => panic!("a store could not read it again: {error}: {kept}"),
        }
    }
}

/// Equal; numbers with a fraction may differ in their last digit, which JSON's reader does not promise.
fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len()
                && one
                    .iter()
                    .all(|(key, value)| other.get(key).is_some_and(|other| same(value, other)))
        }
        (Value::Number(one), Value::Number(other)) if one.is_f64() => match (one.as_f64(), other.as_f64()) {
            (Some(one), Some(other)) => (one - other).abs() <= one.abs() * 1e-15,
            _ => false,
        },
        _ => one == other,
    }
}
