//! `[auth]` and `[server.tls]`: who is let in, and how what they say is kept from others on the way.

use std::{fmt, path::PathBuf};

use serde::{Deserialize, Serialize};

/// An admin token has at least so many characters: it can be tried from afar.
const SHORTEST_TOKEN: usize = 20;

/// A value that is never shown.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// `[auth]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuthSettings {
    /// The first token: it may do everything, and is valid without the store. Where it is set every request needs a token;
    /// without it no daemon listens beyond loopback. Best by a file (`ROBATA_AUTH__ADMIN_TOKEN_FILE`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin_token: Option<Secret>,
}

impl AuthSettings {
    /// What is wrong with the token; `None` where it is fine or not set.
    pub(crate) fn mistake(&self) -> Option<String> {
        let Secret(token) = self.admin_token.as_ref()?;
        if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Some("must be of visible ASCII characters, without spaces: it is sent in a header".to_owned());
        }
        (token.len() < SHORTEST_TOKEN).then(|| {
            format!("must have at least {SHORTEST_TOKEN} characters, as `openssl rand -hex 32` makes them, since it may be guessed otherwise")
        })
    }
}

/// `[server.tls]`: where it is set, every port of the daemon speaks TLS (and no Unix socket does).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TlsSettings {
    /// The certificate and those that it was signed with, in PEM. Read again when the file changes.
    pub certificate: PathBuf,
    /// Its key, in PEM.
    pub key: PathBuf,
}

impl TlsSettings {
    /// The keys that are missing.
    pub(crate) fn missing(&self) -> Vec<&'static str> {
        [("certificate", &self.certificate), ("key", &self.key)]
            .into_iter()
            .filter(|(_, path)| path.as_os_str().is_empty())
            .map(|(key, _)| key)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_that_could_be_guessed_or_not_be_sent_is_refused() {
        let mistake = |token: &str| {
            let admin_token = Some(Secret(token.to_owned()));
            AuthSettings { admin_token }.mistake()
        };
        assert_eq!(mistake("0123456789abcdef0123"), None);
        assert_eq!(AuthSettings::default().mistake(), None);
        for bad in [
            "",
            "short",
            "0123456789abcdef 0123",
            "0123456789abcdef\n0123",
            "0123456789äöü0123456789",
        ] {
            assert!(mistake(bad).is_some(), "{bad:?}");
        }
        assert!(!format!("{:?}", Secret("precious".to_owned())).contains("precious"));
    }
}
