//! A length of time in a body: text as people write it (`1h30m`), or a number of seconds.

use std::{fmt, time::Duration};

use robata_core::definition::duration;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A length of time; written as text, read from text or from a number of seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        duration::serialize(&self.0, serializer)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = Span;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration as text (\"1h30m\") or a number of seconds")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Span, E> {
                duration::parse(text).map(Span).map_err(E::custom)
            }

            fn visit_u64<E: de::Error>(self, seconds: u64) -> Result<Span, E> {
                Ok(Span(Duration::from_secs(seconds)))
            }

            fn visit_i64<E: de::Error>(self, seconds: i64) -> Result<Span, E> {
                u64::try_from(seconds)
                    .map(|seconds| Span(Duration::from_secs(seconds)))
                    .map_err(|_| E::custom("a duration cannot be negative"))
            }

            fn visit_f64<E: de::Error>(self, seconds: f64) -> Result<Span, E> {
                Duration::try_from_secs_f64(seconds).map(Span).map_err(E::custom)
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_text_or_seconds() {
        for (json, millis) in [("\"1h30m\"", 5_400_000), ("90", 90_000), ("0.5", 500)] {
            let span: Span = serde_json::from_str(json).unwrap();
            assert_eq!(span.0, Duration::from_millis(millis));
        }
        for bad in ["-1", "\"soon\"", "null", "-0.5", "1e300"] {
            serde_json::from_str::<Span>(bad).unwrap_err();
        }
        assert_eq!(
            serde_json::to_string(&Span(Duration::from_secs(5400))).unwrap(),
            "\"1h30m\""
        );
    }
}
