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

/// `scheme://user:password@host`, or several of them, without their passwords.
fn without_password(text: &str) -> String {
    let (mut masked, mut left) = (String::with_capacity(text.len()), text);
    while let Some(at) = left.find("://") {
        let (scheme, rest) = left.split_at(at + 3);
        // The next address, if there is one, begins behind the comma before its scheme.
        let end = rest.find("://").and_then(|next| rest[..next].rfind(','));
        let (address, after) = rest.split_at(end.unwrap_or(rest.len()));
        masked.push_str(scheme);
        match address.split_once('@').map(|(user, host)| (user.split_once(':'), host)) {
            Some((Some((name, password)), host)) if !name.contains('/') && !password.contains('/') => {
                masked.push_str(&format!("{name}:{MASK}@{host}"));
            }
            _ => masked.push_str(address),
        }
        left = after;
    }
    masked.push_str(left);
    masked
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
        assert_eq!(
            without_password("url = \"redis://me:pw@a:1,rediss://:two,three@b,redis://c,redis://d:four@e\""),
            "url = \"redis://me:********@a:1,rediss://:********@b,redis://c,redis://d:********@e\""
        );
        assert_eq!(without_password("tcp://host:2375"), "tcp://host:2375");
        assert_eq!(without_password("tcp://host/a:b@c"), "tcp://host/a:b@c");
    }
}
