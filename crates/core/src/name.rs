//! Names: what DESIGN.md allows, and the one function that fits a name into a system that allows less (PROTOCOL R3).

use std::{borrow::Borrow, fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, de};
use sha2::{Digest, Sha256};

use crate::error::{Error, ErrorKind};

/// The rule of apps, queues, executors and tokens, for messages.
pub const SHORT_RULE: &str = "1 to 63 letters, digits, '_' or '-', beginning and ending with a letter or digit";
/// The rule of jobs, for messages.
pub const JOB_RULE: &str = "1 to 128 letters, digits, '.', '_', ':' or '-', beginning with a letter, digit or '_'";
/// The rule of secrets, for messages. A name can be a file's, and an argument of a command.
pub const SECRET_RULE: &str =
    "1 to 128 letters, digits, '.', '_' or '-', beginning with a letter, digit or '_', and without \"..\"";

fn is_short(text: &str) -> bool {
    let bytes = text.as_bytes();
    (1..=63).contains(&bytes.len())
        && bytes
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
        && bytes[0].is_ascii_alphanumeric()
        && bytes[bytes.len() - 1].is_ascii_alphanumeric()
}

fn is_job(text: &str) -> bool {
    let bytes = text.as_bytes();
    (1..=128).contains(&bytes.len())
        && bytes
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'-'))
        && (bytes[0].is_ascii_alphanumeric() || bytes[0] == b'_')
}

fn is_secret(text: &str) -> bool {
    is_job(text) && !text.contains(':') && !text.contains("..")
}

/// What was taken for a name. In the place of a secret's name people write its value: that is not repeated.
fn shown(text: &str, what: &str) -> String {
    if what == "secret" {
        return "this".to_owned();
    }
    let beginning: String = text.chars().take(140).collect();
    format!("{beginning:?}")
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $check:ident, $rule:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// The name, or an error that says the rule.
            pub fn new(text: impl Into<String>) -> Result<Self, Error> {
                let text = text.into();
                if $check(&text) {
                    return Ok(Self(text));
                }
                let shown = shown(&text, $what);
                Err(Error::new(ErrorKind::Invalid, "name.parse", format!("{shown} is no {} name: {}", $what, $rule)))
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self, Error> {
                Self::new(text)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Self::new(String::deserialize(deserializer)?).map_err(de::Error::custom)
            }
        }
    };
}

name!(
    /// An application's name.
    AppName, "app", is_short, SHORT_RULE
);
name!(
    /// A queue's name.
    QueueName, "queue", is_short, SHORT_RULE
);
name!(
    /// An executor's name.
    ExecutorName, "executor", is_short, SHORT_RULE
);
name!(
    /// A token's name.
    TokenName, "token", is_short, SHORT_RULE
);
name!(
    /// A job definition's name; Ruby class names fit.
    JobName, "job", is_job, JOB_RULE
);
name!(
    /// A secret's name, by which it is found where the attempt starts.
    SecretName, "secret", is_secret, SECRET_RULE
);

impl From<AppName> for QueueName {
    /// The default queue of an app has the app's name; both have the same rule.
    fn from(app: AppName) -> Self {
        Self(app.0)
    }
}

/// The names of the line `accept`: with a dot, which the rule allows in no user's name.
pub(crate) fn accept() -> (QueueName, ExecutorName) {
    (QueueName(".accept".to_owned()), ExecutorName(".masters".to_owned()))
}

/// What a system allows in a name.
#[derive(Clone, Copy, Debug)]
pub struct NameRule {
    /// The longest name, in bytes; at least 16.
    pub max_bytes: usize,
    /// Whether a byte may stand in it.
    pub allowed: fn(u8) -> bool,
    /// Whether a byte may stand at its ends.
    pub allowed_at_ends: fn(u8) -> bool,
    /// Whether capital letters are lowered (which counts as a change).
    pub lower_case: bool,
}

/// `name` as it is where `rule` allows it, else a readable prefix, `-`, and 10 hex digits of its SHA-256.
///
/// Two names never become one: whatever was changed or cut carries the digits (PROTOCOL R3).
#[must_use]
pub fn fit(name: &str, rule: NameRule) -> String {
    let bytes = name.as_bytes();
    let lower = |b: u8| {
        if rule.lower_case { b.to_ascii_lowercase() } else { b }
    };
    let whole = !bytes.is_empty()
        && bytes.len() <= rule.max_bytes
        && bytes.iter().all(|&b| (rule.allowed)(b) && lower(b) == b)
        && (rule.allowed_at_ends)(bytes[0])
        && (rule.allowed_at_ends)(bytes[bytes.len() - 1])
        && !ends_like_a_digest(name);
    if whole {
        return name.to_owned();
    }
    let digest = Sha256::digest(bytes);
    let digits: String = digest.iter().take(5).map(|b| format!("{b:02x}")).collect();
    let room = rule.max_bytes.saturating_sub(digits.len() + 1);
    let mut prefix = String::with_capacity(room);
    for &byte in bytes {
        let byte = lower(byte);
        let shown = if (rule.allowed)(byte) { byte } else { b'-' };
        if prefix.len() < room && (!prefix.is_empty() || (rule.allowed_at_ends)(shown)) && (rule.allowed)(shown) {
            prefix.push(char::from(shown));
        }
    }
    let kept = prefix.trim_end_matches(|c: char| !u8::try_from(c).is_ok_and(rule.allowed_at_ends));
    if kept.is_empty() {
        format!("x-{digits}")
    } else {
        format!("{kept}-{digits}")
    }
}

/// A name that already looks fitted is fitted again, so that nobody can choose another's fitted name.
fn ends_like_a_digest(name: &str) -> bool {
    name.rsplit_once('-')
        .is_some_and(|(_, end)| end.len() == 10 && end.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LABEL: NameRule = NameRule {
        max_bytes: 63,
        allowed: |b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'),
        allowed_at_ends: |b| b.is_ascii_alphanumeric(),
        lower_case: true,
    };

    #[test]
    fn names_follow_the_design() {
        for good in ["a", "Shop", "a-b_c", "0"] {
            AppName::new(good).unwrap();
        }
        for bad in ["", "-a", "a-", "a.b", "ä", "a b", &"a".repeat(64)] {
            AppName::new(bad).unwrap_err();
        }
        for good in ["Billing::InvoiceJob", "_x", "a.b-c"] {
            JobName::new(good).unwrap();
        }
        for bad in ["", ":a", "a/b", "a b", &"a".repeat(129)] {
            JobName::new(bad).unwrap_err();
        }
    }

    #[test]
    fn the_names_of_the_line_accept_are_no_users_and_fit_where_less_is_allowed() {
        let (queue, executor) = accept();
        QueueName::new(queue.as_str()).unwrap_err();
        ExecutorName::new(executor.as_str()).unwrap_err();
        assert_ne!(fit(queue.as_str(), LABEL), fit("accept", LABEL));
    }

    #[test]
    fn a_colon_and_a_dot_do_not_become_one_name() {
        assert_ne!(fit("a:b", LABEL), fit("a-b", LABEL));
        assert_eq!(fit("a-b", LABEL), "a-b");
        assert!(fit("Billing::InvoiceJob", LABEL).starts_with("billing--invoicejob-"));
    }

    proptest! {
        #[test]
        fn a_fitted_name_is_allowed_and_keeps_names_apart(a in ".{0,100}", b in ".{0,100}") {
            let (fitted, other) = (fit(&a, LABEL), fit(&b, LABEL));
            prop_assert!(fitted.len() <= 63 && !fitted.is_empty());
            prop_assert!(fitted.bytes().all(LABEL.allowed));
            prop_assert!((LABEL.allowed_at_ends)(fitted.as_bytes()[0]));
            prop_assert_eq!(a == b, fitted == other);
        }
    }
}
