//! What is in force and where it came from, for `robata config`.

use figment::{Figment, value::Value};
use serde::Serialize;

use crate::{
    error::Place,
    layer::{Layer, leaves},
    load::tag_of,
    tables::Settings,
};

/// One setting.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Entry {
    /// The key, as `server.listen`.
    pub key: String,
    /// The value, secrets masked.
    pub value: serde_json::Value,
    /// Where it came from.
    pub place: Place,
}

impl std::fmt::Display for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // JSON's texts, numbers, lists and empty tables are TOML's, too.
        write!(f, "{} = {}  # {}", self.key, self.value, self.place)
    }
}

/// The last words of keys that hold secrets.
const SECRETS: &[&str] = &["password", "secret", "token", "admin_token"];
/// What stands in a secret's place.
const MASK: &str = "********";

pub(crate) fn entries(figment: &Figment, settings: &Settings, layers: &[Layer]) -> Vec<Entry> {
    let Ok(Value::Dict(_, values)) = Value::serialize(settings) else {
        return Vec::new();
    };
    leaves(&values)
        .into_iter()
        .map(|(key, value)| {
            let place = tag_of(figment, &key)
                .and_then(|tag| figment.get_metadata(tag))
                .and_then(|metadata| metadata.name.parse::<usize>().ok())
                .and_then(|number| layers.get(number))
                .map_or(Place::Default, |layer| layer.place(&key));
            let shown = serde_json::to_value(value).unwrap_or_default();
            Entry {
                value: masked(&key, shown),
                key: key.join("."),
                place: hidden(&key, place),
            }
        })
        .collect()
}

fn is_secret(key: &[String]) -> bool {
    key.last().is_some_and(|last| SECRETS.contains(&last.as_str()))
}

fn masked(key: &[String], value: serde_json::Value) -> serde_json::Value {
    match value {
        serde_json::Value::String(_) if is_secret(key) => MASK.into(),
        serde_json::Value::String(text) => without_password(&text).into(),
        other => other,
    }
}

/// The text of a file's line may hold the secret itself.
fn hidden(key: &[String], place: Place) -> Place {
    match place {
        Place::File {
            path,
            line,
            text,
            column,
            width,
        } => Place::File {
            path,
            line,
            text: if is_secret(key) {
                MASK.to_owned()
            } else {
                without_password(&text)
            },
            column,
            width,
        },
        other => other,
    }
}

/// `scheme://user:password@host` without its password.
fn without_password(text: &str) -> String {
    let masked = text.split_once("://").and_then(|(scheme, rest)| {
        let (user, host) = rest.split_once('@')?;
        let (name, _) = user.split_once(':')?;
        (!user.contains('/')).then(|| format!("{scheme}://{name}:{MASK}@{host}"))
    });
    masked.unwrap_or_else(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_in_addresses_are_masked() {
        assert_eq!(
            without_password("redis://me:pw@host:1/0"),
            "redis://me:********@host:1/0"
        );
        assert_eq!(without_password("tcp://host:2375"), "tcp://host:2375");
        assert_eq!(without_password("tcp://host/a:b@c"), "tcp://host/a:b@c");
    }
}
