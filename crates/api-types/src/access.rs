//! Tokens, and who did what.

use std::fmt;

use robata_core::{
    AppName, JobId, Role, Timestamp, TokenName,
    access::{self, AuditRecord},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{span::Span, word::Word};

/// A request to make a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewTokenRequest {
    /// Its name, under which what its bearer does is recorded.
    #[schema(value_type = String)]
    pub name: TokenName,
    /// What its bearer may do.
    #[schema(value_type = String, example = "deploy")]
    pub role: Role,
    /// The one app that its bearer sees; left out: all of the installation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub app: Option<AppName>,
    /// How long it lasts, as `30d` or in seconds; left out: until it is revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "30d")]
    pub expires_in: Option<Span>,
}

/// A token, without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Token {
    /// Its name.
    #[schema(value_type = String)]
    pub name: TokenName,
    /// What its bearer may do: `enqueue`, `read`, `operate`, `deploy` or `admin`.
    #[schema(value_type = String)]
    pub role: Word<Role>,
    /// The one app that its bearer sees; null: all of the installation.
    #[schema(value_type = Option<String>)]
    pub app: Option<AppName>,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// Who made it.
    pub created_by: String,
    /// When it ends; null: when it is revoked.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
    /// Whether it has ended by the store's clock.
    pub expired: bool,
}

impl Token {
    /// As the store keeps it, at the store's present.
    #[must_use]
    pub fn new(token: access::Token, now: Timestamp) -> Self {
        Self {
            expired: token.expires_at.is_some_and(|end| end <= now),
            name: token.name,
            role: token.role.into(),
            app: token.app,
            created_at: token.created_at,
            created_by: token.created_by,
            expires_at: token.expires_at,
        }
    }
}

/// The tokens that were not revoked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenList {
    /// By name.
    pub tokens: Vec<Token>,
}

/// A token that was just made, with its secret, which is told this once.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenMade {
    /// The token.
    #[serde(flatten)]
    pub of: Token,
    /// What its bearer sends as `Authorization: Bearer TOKEN`.
    pub token: String,
}

impl fmt::Debug for TokenMade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenMade")
            .field("of", &self.of)
            .finish_non_exhaustive()
    }
}

/// A page of what was done, newest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditList {
    /// The records.
    pub records: Vec<AuditEntry>,
    /// What to give as `before` for the next page; null where there is none.
    pub next_before: Option<u64>,
}

/// Something that somebody did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditEntry {
    /// Its number; grows.
    pub seq: u64,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// Who: a token's name, `admin` for the settings' own, `local` where none was needed.
    pub by: String,
    /// What, as `set_definition`, `run`, `cancel`, `pause_queue`, `create_token`.
    pub action: String,
    /// To which app, where it was one's.
    #[schema(value_type = Option<String>)]
    pub app: Option<AppName>,
    /// To what: a definition's, queue's, worker's, realm's or token's name.
    pub name: Option<String>,
    /// To which job.
    #[schema(value_type = Option<String>, format = "uuid")]
    pub job: Option<JobId>,
}

impl From<AuditRecord> for AuditEntry {
    fn from(record: AuditRecord) -> Self {
        let AuditRecord {
            seq,
            at,
            by,
            action,
            app,
            name,
            job,
        } = record;
        Self {
            seq,
            at,
            by,
            action,
            app,
            name,
            job,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_written_as_json_and_never_printed() {
        let token = access::Token {
            name: "ci".parse().unwrap(),
            role: Role::Deploy,
            app: None,
            hash: access::TokenHash::of("rbt_secret"),
            created_at: Timestamp::from_millis(5),
            created_by: "local".to_owned(),
            expires_at: Some(Timestamp::from_millis(7)),
        };
        for (now, expired) in [(6, false), (7, true)] {
            let shown = Token::new(token.clone(), Timestamp::from_millis(now));
            assert_eq!(shown.expired, expired);
        }
        let made = TokenMade {
            of: Token::new(token, Timestamp::from_millis(5)),
            token: "rbt_secret".to_owned(),
        };
        assert!(!format!("{made:?}").contains("secret"), "{made:?}");
        let json = serde_json::to_value(&made).unwrap();
        assert_eq!(
            (&json["token"], &json["name"], &json["role"]),
            (&"rbt_secret".into(), &"ci".into(), &"deploy".into())
        );
        assert_eq!(serde_json::from_value::<TokenMade>(json).unwrap(), made);
    }
}
