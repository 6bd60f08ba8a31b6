//! Durations as people write them: `1h30m`, `15s`, `250ms`.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serializer, de};

/// Reads `1h30m`; an error says what is allowed.
pub fn parse(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no duration (as 30s, 10m, 1h30m, 7d)");
    // Months and years are of no fixed length; the reader would take them.
    if text.contains('M') || text.contains('y') || text.contains("month") {
        return Err(wrong());
    }
    humantime::parse_duration(text).map_err(|_| wrong())
}

/// Writes `1h30m`.
#[must_use]
pub fn format(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let mut text = String::new();
    for (unit, size) in [("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)] {
        let above = match unit {
            "d" => u64::MAX,
            "h" => 86_400,
            "m" => 3_600,
            _ => 60,
        };
        let count = seconds % above / size;
        if count > 0 {
            text.push_str(&format!("{count}{unit}"));
        }
    }
    // All of it, or what is read again would be something else.
    let nanos = duration.subsec_nanos();
    for (unit, count) in [
        ("ms", nanos / 1_000_000),
        ("us", nanos / 1_000 % 1_000),
        ("ns", nanos % 1_000),
    ] {
        if count > 0 {
            text.push_str(&format!("{count}{unit}"));
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// For `#[serde(with)]` on a `Duration`.
pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format(*duration))
}

/// For `#[serde(with)]` on a `Duration`.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    parse(&String::deserialize(deserializer)?).map_err(de::Error::custom)
}

/// For an `Option<Duration>` where `None` is written `none`.
pub mod or_none {
    use super::{Deserialize, Deserializer, Duration, Serializer, de, format, parse};

    /// For `#[serde(with)]`.
    pub fn serialize<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&duration.map_or_else(|| "none".to_owned(), format))
    }

    /// For `#[serde(with)]`.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text == "none" {
            Ok(None)
        } else {
            parse(&text).map(Some).map_err(de::Error::custom)
        }
    }
}

/// For an `Option<Duration>` that is left out where there is none.
pub mod optional {
    use super::{Deserialize, Deserializer, Duration, Serializer, de, format, parse};

    /// For `#[serde(with)]`.
    pub fn serialize<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        match duration {
            Some(duration) => serializer.serialize_str(&format(*duration)),
            None => serializer.serialize_none(),
        }
    }

    /// For `#[serde(with)]`.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| parse(&text)).transpose().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_people_write_them() {
        for (text, seconds) in [("1h30m", 5400), ("15s", 15), ("30d", 2_592_000), ("2h", 7200)] {
            assert_eq!(parse(text), Ok(Duration::from_secs(seconds)));
            assert_eq!(format(Duration::from_secs(seconds)), text);
        }
        assert_eq!(format(Duration::from_millis(1500)), "1s500ms");
        // However fine, it is read again as it was.
        for fine in ["1500us", "7ns", "1h1ns", "2s3ms4us5ns"] {
            let read = parse(fine).unwrap();
            assert_eq!(parse(&format(read)), Ok(read), "{fine}");
        }
        for bad in ["", "10", "1 month", "-1s", "1y", "abc"] {
            parse(bad).unwrap_err();
        }
    }
}
