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
    /// Whether requests may come from other machines.
    #[must_use]
    pub fn is_reached_by_others(&self) -> bool {
        matches!(self, Self::Tcp(address) if !address.ip().to_canonical().is_loopback())
    }

    /// Why nobody may listen there; `None` where it is fine. With an admin token others may reach it.
    #[must_use]
    pub fn refused(&self, has_admin_token: bool) -> Option<String> {
        match self {
            Self::Tcp(_) if self.is_reached_by_others() && !has_admin_token => Some(format!(
                "{self} is reached by others, who need a token: set [auth] admin_token (a file: ROBATA_AUTH__ADMIN_TOKEN_FILE), or use 127.0.0.1, [::1] or unix:/PATH"
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
            assert_eq!(listen.refused(false), None, "{text}");
        }
    }

    #[test]
    fn a_place_that_others_reach_needs_a_token() {
        for text in ["0.0.0.0:7070", "10.0.0.7:1", "[::]:1"] {
            let listen: Listen = text.parse().unwrap();
            assert!(listen.refused(false).unwrap().contains("admin_token"), "{text}");
            assert_eq!(listen.refused(true), None, "{text}");
        }
        assert!("unix:here".parse::<Listen>().unwrap().refused(true).is_some());
        assert!("here".parse::<Listen>().is_err());
    }
}
