//! The forms in which an operator writes what is allowed.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A volume or a path, and whether it may be written: `shop-*:rw`, `/srv/data:ro`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowed {
    /// A pattern of volumes' names, or a path.
    pub what: String,
    /// Whether it may be written, too.
    pub write: bool,
}

impl FromStr for Allowed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (what, write) = match text.rsplit_once(':') {
            Some((what, "ro")) => (what, false),
            Some((what, "rw")) => (what, true),
            _ => return Err(format!("{text:?} must end in :ro or :rw")),
        };
        if what.is_empty() {
            return Err(format!("{text:?} names nothing"));
        }
        Ok(Self {
            what: what.to_owned(),
            write,
        })
    }
}

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.what, if self.write { "rw" } else { "ro" })
    }
}

impl Serialize for Allowed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Allowed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl Allowed {
    /// Whether `path` is this path itself.
    #[must_use]
    pub fn is(&self, path: &str) -> bool {
        self.what.trim_end_matches('/') == path.trim_end_matches('/')
    }

    /// Whether `path` is this path or below it. Neither is read for more than it says: see
    /// [`is_path`](crate::definition::docker::is_path).
    #[must_use]
    pub fn holds(&self, path: &str) -> bool {
        let above = self.what.trim_end_matches('/');
        path.strip_prefix(above)
            .is_some_and(|below| below.is_empty() || below.starts_with('/'))
    }
}

/// Whether `text` is of this pattern; `*` stands for any text.
#[must_use]
pub fn glob(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let mut parts: Vec<_> = parts.collect();
    let Some(last) = parts.pop() else {
        return rest.is_empty();
    };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn allowed(text: &str) -> Allowed {
        text.parse().unwrap()
    }

    #[test]
    fn a_star_stands_for_any_text() {
        assert!(glob("a*c*e", "abcde") && glob("*", "") && glob("a", "a"));
        assert!(!glob("a*c", "abcd") && !glob("a", "ab") && !glob("a*a", "a"));
    }

    #[test]
    fn a_path_allows_what_is_below_it_and_no_other_that_begins_like_it() {
        for path in ["/data", "/data/x", "/data/x/y"] {
            assert!(allowed("/data:ro").holds(path), "{path}");
            assert!(allowed("/data/:ro").holds(path), "{path}");
            assert!(allowed("/:ro").holds(path), "{path}");
        }
        for path in ["/database", "/dat", "/", "/srv/data"] {
            assert!(!allowed("/data:ro").holds(path), "{path}");
        }
        assert!(allowed("/:ro").holds("/"));
    }

    #[test]
    fn what_may_be_written_must_be_said() {
        assert!(allowed("shop-*:rw").write && !allowed("/srv:ro").write);
        for bad in ["/srv", "/srv:", "/srv:RW", ":ro", "/srv:rox"] {
            bad.parse::<Allowed>().unwrap_err();
        }
        assert_eq!(allowed("/a:b:ro").to_string(), "/a:b:ro");
    }

    proptest! {
        /// By the definition of a pattern, tried out: some way to fill in its stars gives the text.
        #[test]
        fn a_pattern_holds_exactly_what_its_stars_can_be_filled_in_to(pattern in "[ab*]{0,6}", text in "[ab]{0,6}") {
            fn filled(pattern: &[u8], text: &[u8]) -> bool {
                match pattern.split_first() {
                    None => text.is_empty(),
                    Some((b'*', rest)) => (0..=text.len()).any(|skip| filled(rest, &text[skip..])),
                    Some((byte, rest)) => text.first() == Some(byte) && filled(rest, &text[1..]),
                }
            }
            prop_assert_eq!(glob(&pattern, &text), filled(pattern.as_bytes(), text.as_bytes()));
        }

        #[test]
        fn a_path_is_held_by_exactly_itself_and_the_folders_above_it(parts in prop::collection::vec("[ab]{1,2}", 1..5), other in prop::collection::vec("[ab]{1,2}", 1..5)) {
            let (path, above) = (format!("/{}", parts.join("/")), format!("/{}", other.join("/")));
            let expected = parts.len() >= other.len() && parts[..other.len()] == other[..];
            prop_assert_eq!(allowed(&format!("{above}:ro")).holds(&path), expected);
        }
    }
}
