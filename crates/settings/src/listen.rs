//! Where a daemon listens: an address of this machine, a Unix socket, or nowhere.

use std::{fmt, net::SocketAddr, path::PathBuf, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A place to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// `127.0.0.1:7070`; port 0: any free port.
    Tcp(SocketAddr),
    /// `unix:/run/robata/master.sock`.
    Unix(PathBuf),
    /// `off`.
    Off,
}

impl Listen {
    /// Why nobody may listen there in this version, which has no tokens; `None` where it is fine.
    #[must_use]
    pub fn refused(&self) -> Option<String> {
        match self {
            Self::Tcp(address) if !address.ip().is_loopback() => Some(format!(
                "{address} is reached by others, and this version has no tokens yet: use 127.0.0.1, [::1] or unix:/PATH"
            )),
            Self::Unix(path) if !path.is_absolute() => {
                Some(format!("unix:{} needs a whole path, from /", path.display()))
            }
            _ => None,
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Off => f.write_str("off"),
        }
    }
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self::Off);
        }
        if let Some(path) = text.strip_prefix("unix:") {
            return Ok(Self::Unix(PathBuf::from(path)));
        }
        text.parse()
            .map(Self::Tcp)
            .map_err(|_| format!("{text:?} is no place to listen (as 127.0.0.1:7070, [::1]:7070 or unix:/PATH)"))
    }
}

impl Serialize for Listen {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Listen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_reads_as_it_is_written() {
        for text in ["127.0.0.1:7070", "[::1]:0", "unix:/run/robata.sock", "off"] {
            let listen: Listen = text.parse().unwrap();
            assert_eq!(listen.to_string(), text);
            assert_eq!(listen.refused(), None, "{text}");
        }
    }

    #[test]
    fn a_place_that_others_reach_is_refused() {
        for text in ["0.0.0.0:7070", "10.0.0.7:1", "[::]:1", "unix:here"] {
            assert!(text.parse::<Listen>().unwrap().refused().is_some(), "{text}");
        }
        assert!("here".parse::<Listen>().is_err());
    }
}
