//! Values of the `[….docker]` table that are written in more than one way.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
    ser::SerializeMap,
};

/// What a container gets from outside: text alone is its source, read-only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounted {
    /// A volume's name, or a path on the engine's machine.
    pub source: String,
    /// Whether it cannot be written (default: yes).
    pub read_only: bool,
}

impl Serialize for Mounted {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.read_only {
            return serializer.serialize_str(&self.source);
        }
        let mut table = serializer.serialize_map(Some(2))?;
        table.serialize_entry("source", &self.source)?;
        table.serialize_entry("read_only", &self.read_only)?;
        table.end()
    }
}

impl<'de> Deserialize<'de> for Mounted {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Table {
            source: String,
            #[serde(default = "yes")]
            read_only: bool,
        }
        fn yes() -> bool {
            true
        }
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = Mounted;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a source, or { source = …, read_only = false }")
            }

            fn visit_str<E: de::Error>(self, source: &str) -> Result<Mounted, E> {
                Ok(Mounted {
                    source: source.to_owned(),
                    read_only: true,
                })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Mounted, A::Error> {
                let Table { source, read_only } = Table::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Mounted { source, read_only })
            }
        }

        deserializer.deserialize_any(Either)
    }
}

/// A limit of each process; a single number is both, and -1 is no limit, to the engine as here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ulimit {
    /// What is in force.
    pub soft: i64,
    /// How far a process may raise it.
    pub hard: i64,
}

impl Serialize for Ulimit {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.soft == self.hard {
            return serializer.serialize_i64(self.soft);
        }
        let mut table = serializer.serialize_map(Some(2))?;
        table.serialize_entry("soft", &self.soft)?;
        table.serialize_entry("hard", &self.hard)?;
        table.end()
    }
}

impl<'de> Deserialize<'de> for Ulimit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Table {
            soft: i64,
            hard: i64,
        }
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = Ulimit;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number (-1: no limit), or { soft = …, hard = … }")
            }

            fn visit_i64<E: de::Error>(self, both: i64) -> Result<Ulimit, E> {
                Ok(Ulimit { soft: both, hard: both })
            }

            fn visit_u64<E: de::Error>(self, both: u64) -> Result<Ulimit, E> {
                let both = i64::try_from(both).map_err(|_| E::custom("is too large"))?;
                self.visit_i64(both)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Ulimit, A::Error> {
                let Table { soft, hard } = Table::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Ulimit { soft, hard })
            }
        }

        deserializer.deserialize_any(Either)
    }
}

/// Graphics processors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gpus {
    /// "all".
    All,
    /// So many, whichever they are.
    Count(u32),
    /// These.
    Ids(Vec<String>),
}

impl Serialize for Gpus {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::All => serializer.serialize_str("all"),
            Self::Count(count) => serializer.serialize_u32(*count),
            Self::Ids(ids) => ids.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Gpus {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Ways;

        impl<'de> Visitor<'de> for Ways {
            type Value = Gpus;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"all\", a number from 1 on, or a list of ids")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Gpus, E> {
                match text {
                    "all" => Ok(Gpus::All),
                    _ => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
                }
            }

            fn visit_u64<E: de::Error>(self, count: u64) -> Result<Gpus, E> {
                match u32::try_from(count) {
                    Ok(count @ 1..) => Ok(Gpus::Count(count)),
                    _ => Err(E::invalid_value(de::Unexpected::Unsigned(count), &self)),
                }
            }

            fn visit_i64<E: de::Error>(self, count: i64) -> Result<Gpus, E> {
                match u64::try_from(count) {
                    Ok(count) => self.visit_u64(count),
                    Err(_) => Err(E::invalid_value(de::Unexpected::Signed(count), &self)),
                }
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Gpus, A::Error> {
                let mut ids = Vec::new();
                while let Some(id) = list.next_element()? {
                    ids.push(id);
                }
                if ids.is_empty() {
                    return Err(de::Error::invalid_length(0, &self));
                }
                Ok(Gpus::Ids(ids))
            }
        }

        deserializer.deserialize_any(Ways)
    }
}

#[cfg(test)]
mod tests {
    use serde::de::DeserializeOwned;
    use serde_json::{Value, json};

    use super::*;

    fn same<T: DeserializeOwned + Serialize>(value: &Value) {
        let read: T = serde_json::from_value(value.clone()).unwrap();
        assert_eq!(serde_json::to_value(read).unwrap(), *value);
    }

    #[test]
    fn each_way_of_writing_is_written_again_as_it_was_read() {
        same::<Mounted>(&json!("cache"));
        same::<Mounted>(&json!({"source": "/srv/out", "read_only": false}));
        same::<Ulimit>(&json!(1024));
        same::<Ulimit>(&json!(-1));
        same::<Ulimit>(&json!({"soft": 1, "hard": 2}));
        same::<Gpus>(&json!("all"));
        same::<Gpus>(&json!(2));
        same::<Gpus>(&json!(["GPU-1", "GPU-2"]));
    }

    #[test]
    fn nothing_is_writable_unless_it_says_so() {
        for text in [json!("cache"), json!({"source": "cache"})] {
            let read: Mounted = serde_json::from_value(text).unwrap();
            assert!(read.read_only);
        }
    }

    #[test]
    fn other_values_are_refused_with_what_may_stand_there() {
        fn told<T: DeserializeOwned>(value: Value) -> String {
            serde_json::from_value::<T>(value).err().unwrap().to_string()
        }
        assert!(told::<Gpus>(json!("some")).contains("\"all\", a number"));
        assert!(told::<Gpus>(json!(0)).contains("a number from 1 on"));
        assert!(told::<Gpus>(json!(-1)).contains("a number from 1 on"));
        assert!(told::<Gpus>(json!([])).contains("a list of ids"));
        assert!(told::<Mounted>(json!(3)).contains("read_only = false"));
        assert!(told::<Mounted>(json!({"sorce": "x"})).contains("unknown field `sorce`"));
        assert!(told::<Ulimit>(json!("many")).contains("-1: no limit"));
    }
}
