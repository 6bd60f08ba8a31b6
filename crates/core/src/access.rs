//! Who may do what (DESIGN.md §7): roles, tokens, and the record of who did it.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    Timestamp,
    error::{Error, ErrorKind},
    id::JobId,
    name::{AppName, TokenName},
};

/// What the bearer of a token may do. Each but `enqueue` includes `read`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Enqueue, and nothing else.
    Enqueue,
    /// Look at everything but tokens.
    Read,
    /// Read, enqueue, cancel, retry, pause and resume.
    Operate,
    /// Operate, and change definitions and run other commands, within the operator's policy.
    Deploy,
    /// Everything.
    Admin,
}

impl Role {
    /// All roles.
    pub const ALL: [Self; 5] = [Self::Enqueue, Self::Read, Self::Operate, Self::Deploy, Self::Admin];

    /// The word used in the API, the command line and the store.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Enqueue => "enqueue",
            Self::Read => "read",
            Self::Operate => "operate",
            Self::Deploy => "deploy",
            Self::Admin => "admin",
        }
    }

    /// The role of this word.
    #[must_use]
    pub fn of(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == word)
    }

    /// Whether the role allows what needs `needed`.
    #[must_use]
    pub fn may(self, needed: Self) -> bool {
        // The roles grow in their order, but that `enqueue` and `read` are two ends.
        self == needed || (self >= Self::Operate && self > needed)
    }
}

impl FromStr for Role {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::of(text).ok_or_else(|| {
            let words = Self::ALL.map(Self::as_str).join(", ");
            Error::new(ErrorKind::Invalid, "role.parse", format!("{text:?} is none of {words}"))
        })
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What is kept of a token's secret: its SHA-256. A secret has 256 random bits, so that no slow hash is needed.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenHash(pub [u8; 32]);

impl TokenHash {
    /// The hash of a token as its bearer sends it.
    #[must_use]
    pub fn of(secret: &str) -> Self {
        Self(Sha256::digest(secret.as_bytes()).into())
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHash")
    }
}

/// A token as the store keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Its name, under which what its bearer does is recorded.
    pub name: TokenName,
    /// What its bearer may do.
    pub role: Role,
    /// The one app that its bearer sees; `None`: all of the installation.
    pub app: Option<AppName>,
    /// Its secret's hash.
    pub hash: TokenHash,
    /// When it was made.
    pub created_at: Timestamp,
    /// Who made it.
    pub created_by: String,
    /// When it ends, where it does.
    pub expires_at: Option<Timestamp>,
}

/// A token to make.
#[derive(Clone, Debug)]
pub struct NewToken {
    /// As in [`Token`].
    pub name: TokenName,
    /// As in [`Token`].
    pub role: Role,
    /// As in [`Token`].
    pub app: Option<AppName>,
    /// As in [`Token`].
    pub hash: TokenHash,
    /// How long it lasts by the store's clock; `None`: until it is revoked.
    pub lasts: Option<Duration>,
}

/// The tokens of an installation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    /// Those that were not revoked, by name; expired ones are among them until they are revoked.
    pub tokens: Vec<Token>,
    /// Whether there ever was one, be it revoked since: from the first one on every request needs one.
    pub ever: bool,
    /// The store's present, against which `expires_at` counts.
    pub now: Timestamp,
}

/// A filter and a page of the audit, newest first.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ListAudit {
    /// What was done to this app, its definitions and jobs.
    pub app: Option<AppName>,
    /// What this token did.
    pub by: Option<String>,
    /// What was done to this job.
    pub job: Option<JobId>,
    /// Only numbers below this one (keyset pagination).
    pub before: Option<u64>,
    /// At most so many.
    pub limit: usize,
}

/// Something that somebody did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditRecord {
    /// Its number; grows.
    pub seq: u64,
    /// When.
    pub at: Timestamp,
    /// Who: a token's name, or `local` where none was needed.
    pub by: String,
    /// What, as `set_definition`, `cancel`, `pause_queue`, `create_token`.
    pub action: String,
    /// To which app, where it was one's.
    pub app: Option<AppName>,
    /// To what: a definition's, queue's, worker's, realm's or token's name.
    pub name: Option<String>,
    /// To which job.
    pub job: Option<JobId>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_allow_what_they_include_and_nothing_else() {
        use Role::{Admin, Deploy, Enqueue, Operate, Read};
        let allowed = |role: Role| {
            Role::ALL
                .into_iter()
                .filter(|needed| role.may(*needed))
                .collect::<Vec<_>>()
        };
        assert_eq!(allowed(Enqueue), [Enqueue]);
        assert_eq!(allowed(Read), [Read]);
        assert_eq!(allowed(Operate), [Enqueue, Read, Operate]);
        assert_eq!(allowed(Deploy), [Enqueue, Read, Operate, Deploy]);
        assert_eq!(allowed(Admin), Role::ALL);
    }

    #[test]
    fn a_role_reads_as_it_is_written() {
        for role in Role::ALL {
            assert_eq!(Role::of(role.as_str()), Some(role));
            assert_eq!(serde_json::to_value(role).unwrap(), role.as_str());
        }
        assert_eq!(Role::of("root"), None);
        let error = "root".parse::<Role>().unwrap_err();
        assert!(
            error.message().contains("enqueue, read, operate, deploy, admin"),
            "{error}"
        );
    }

    #[test]
    fn a_hash_is_never_printed() {
        assert_eq!(format!("{:?}", TokenHash::of("secret")), "TokenHash");
    }
}
