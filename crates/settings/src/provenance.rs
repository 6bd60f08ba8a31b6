//! What is in force and where it came from, for `robata config`.

use figment::{Figment, value::Value};
use serde::Serialize;

use crate::{
    check::near,
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
const SECRETS: &[&str] = &["password", "secret", "token", "admin_token", "secret_access_key"];
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
                place,
            }
        })
        .collect()
}

pub(crate) fn is_secret(key: &[String]) -> bool {
    key.last().is_some_and(|last| SECRETS.contains(&last.as_str()))
}

fn masked(key: &[String], value: serde_json::Value) -> serde_json::Value {
    match value {
        serde_json::Value::String(_) if is_secret(key) => MASK.into(),
        serde_json::Value::String(text) => without_password(&text).into(),
        other => other,
    }
}

/// A file's line as errors may show it: nothing of what stands behind a secret's key, misspelt or not, and no passwords.
pub(crate) fn shown_line(text: &str) -> String {
    let is_key = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-');
    for (at, _) in text.match_indices('=') {
        let before = text[..at].trim_end().trim_end_matches(['"', '\'']);
        let name = before.rsplit(|c| !is_key(c)).next().unwrap_or_default();
        // The table of the places where secrets live holds none.
        if name != "secrets" && near(&name.to_lowercase(), SECRETS.iter().copied()).is_some() {
            return format!("{} {MASK}", &text[..=at]);
        }
    }
    without_password(text)
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
    fn a_line_is_shown_without_what_stands_behind_a_secrets_key_however_it_is_spelt() {
        for line in [
            "admin_token = \"hunter2\"",
            "admin_tokn=\"hunter2",
            "ADMIN_TOKEN = 'hunter2'",
            "auth.admin_token = hunter2",
            "\"admin_token\" = \"hunter2\"",
            "auth = { admin_token = \"hunter2=\" }",
            "passwrd = \"hunter2\"",
            "urll = \"postgres://me:hunter2@h/x\"",
        ] {
            let shown = shown_line(line);
            assert!(!shown.contains("hunter2") && shown.contains(MASK), "{shown}");
        }
        for line in [
            "listen = \"127.0.0.1:7070\"",
            "secrets = { folder = \"/run/secrets\" }",
            "hosts = [\"a=b\"]",
            "[auth]",
            "",
            "=",
        ] {
            assert_eq!(shown_line(line), line);
        }
    }

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
