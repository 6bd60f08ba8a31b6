//! Amounts of CPU and memory as Kubernetes writes them: `500m`, `2`, `256Mi`.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// CPU in thousandths of a core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cpu {
    /// Thousandths of a core.
    pub millis: u32,
}

/// Memory in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Memory {
    /// Bytes.
    pub bytes: u64,
}

/// A limit that may follow another value, be lifted, or stand by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Limit<T> {
    /// Not said: follows the reservation.
    #[default]
    Unset,
    /// "none": no limit.
    None,
    /// This much.
    At(T),
}

impl<T: Copy> Limit<T> {
    /// Whether nothing was said.
    #[must_use]
    pub fn is_unset(&self) -> bool {
        matches!(self, Self::Unset)
    }

    /// The limit in force where `reserved` is what it follows.
    #[must_use]
    pub fn or_default(&self, reserved: Option<T>) -> Option<T> {
        match *self {
            Self::Unset => reserved,
            Self::None => None,
            Self::At(value) => Some(value),
        }
    }
}

/// A million cores, however they are written: what is written back must be read again.
const MOST_MILLIS: u32 = 1_000_000_000;

impl FromStr for Cpu {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no amount of CPU (as 500m, 0.5 or 2)");
        let millis = match text.strip_suffix('m') {
            Some(millis) => millis
                .parse::<u32>()
                .ok()
                .filter(|&millis| millis <= MOST_MILLIS)
                .ok_or_else(wrong)?,
            None => {
                let cores = text.parse::<f64>().map_err(|_| wrong())?;
                if !(0.001..=f64::from(MOST_MILLIS / 1000)).contains(&cores) {
                    return Err(wrong());
                }
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "bounded above and below just before"
                )]
                let millis = (cores * 1000.0).round() as u32;
                millis
            }
        };
        if millis == 0 { Err(wrong()) } else { Ok(Self { millis }) }
    }
}

impl fmt::Display for Cpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.millis.is_multiple_of(1000) {
            write!(f, "{}", self.millis / 1000)
        } else {
            write!(f, "{}m", self.millis)
        }
    }
}

const UNITS: [(&str, u64); 8] = [
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
    ("Ti", 1 << 40),
    ("k", 1_000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
    ("T", 1_000_000_000_000),
];

impl FromStr for Memory {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no amount of memory (as 256Mi, 2Gi or 1000000)");
        let (digits, factor) = UNITS
            .iter()
            .find_map(|(unit, factor)| text.strip_suffix(unit).map(|digits| (digits, *factor)))
            .unwrap_or((text, 1));
        let bytes = digits
            .parse::<u64>()
            .ok()
            .and_then(|count| count.checked_mul(factor))
            .ok_or_else(wrong)?;
        if bytes == 0 { Err(wrong()) } else { Ok(Self { bytes }) }
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = UNITS[..4]
            .iter()
            .rev()
            .find(|(_, factor)| self.bytes.is_multiple_of(*factor));
        match unit {
            Some((unit, factor)) => write!(f, "{}{unit}", self.bytes / factor),
            None => write!(f, "{}", self.bytes),
        }
    }
}

macro_rules! as_text {
    ($name:ident) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                TextOrNumber::deserialize(deserializer)?
                    .0
                    .parse()
                    .map_err(de::Error::custom)
            }
        }
    };
}

as_text!(Cpu);
as_text!(Memory);

impl<T: Serialize> Serialize for Limit<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Unset => serializer.serialize_none(),
            Self::None => serializer.serialize_str("none"),
            Self::At(value) => value.serialize(serializer),
        }
    }
}

impl<'de, T: FromStr<Err = String>> Deserialize<'de> for Limit<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = TextOrNumber::deserialize(deserializer)?.0;
        if text == "none" {
            Ok(Self::None)
        } else {
            text.parse().map(Self::At).map_err(de::Error::custom)
        }
    }
}

/// For an `Option<Memory>` where `None` is written `none`.
pub mod or_none {
    use super::{Deserialize, Deserializer, Limit, Memory, Serialize, Serializer};

    /// For `#[serde(with)]`.
    pub fn serialize<S: Serializer>(memory: &Option<Memory>, serializer: S) -> Result<S::Ok, S::Error> {
        memory.map_or(Limit::None, Limit::At).serialize(serializer)
    }

    /// For `#[serde(with)]`.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Memory>, D::Error> {
        Ok(Limit::<Memory>::deserialize(deserializer)?.or_default(None))
    }
}

/// TOML writes `cpu = 2` and `cpu = "2"`; both are meant.
struct TextOrNumber(String);

impl<'de> Deserialize<'de> for TextOrNumber {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = TextOrNumber;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an amount, as text or number")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<TextOrNumber, E> {
                Ok(TextOrNumber(text.to_owned()))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<TextOrNumber, E> {
                Ok(TextOrNumber(number.to_string()))
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<TextOrNumber, E> {
                Ok(TextOrNumber(number.to_string()))
            }

            fn visit_f64<E: de::Error>(self, number: f64) -> Result<TextOrNumber, E> {
                Ok(TextOrNumber(number.to_string()))
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_read_as_kubernetes_writes_them() {
        assert_eq!("500m".parse::<Cpu>().unwrap().millis, 500);
        assert_eq!("1.5".parse::<Cpu>().unwrap().to_string(), "1500m");
        assert_eq!("256Mi".parse::<Memory>().unwrap().bytes, 256 << 20);
        assert_eq!("256Mi".parse::<Memory>().unwrap().to_string(), "256Mi");
        assert_eq!("1G".parse::<Memory>().unwrap().bytes, 1_000_000_000);
        for bad in ["", "0", "-1", "1x", "1.5Gi", "99999999999Ti"] {
            bad.parse::<Memory>().unwrap_err();
        }
        for bad in ["", "0m", "x", "-1", "nan", "inf", "1000001", "1000000001m"] {
            bad.parse::<Cpu>().unwrap_err();
        }
        let most = "1000000000m".parse::<Cpu>().unwrap();
        assert_eq!(most.to_string().parse(), Ok(most));
    }
}
