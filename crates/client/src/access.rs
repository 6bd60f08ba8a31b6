//! Tokens, and who did what.

use reqwest::Method;
use robata_api_types::{AuditList, NewTokenRequest, Token, TokenList, TokenMade};
use robata_core::TokenName;

use crate::{
    error::ClientError,
    http::{Client, with_json},
};

/// Which records of the audit. Words and names go to the server as they are; it says what is wrong with them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditFilter {
    /// What was done to this app, its definitions and jobs.
    pub app: Option<String>,
    /// What this token did.
    pub by: Option<String>,
    /// What was done to the job of this id.
    pub job: Option<String>,
    /// Where the page before ended.
    pub before: Option<u64>,
    /// Records a page.
    pub limit: Option<usize>,
}

impl Client {
    /// All tokens that were not revoked, without their secrets.
    pub async fn tokens(&self) -> Result<Vec<Token>, ClientError> {
        let list: TokenList = self.json(self.api(Method::GET, &["tokens"])).await?;
        Ok(list.tokens)
    }

    /// Makes a token. Its secret is in the answer, and nowhere else.
    pub async fn create_token(&self, request: &NewTokenRequest) -> Result<TokenMade, ClientError> {
        self.json(with_json(self.api(Method::POST, &["tokens"]), request)).await
    }

    /// Revokes a token.
    pub async fn revoke_token(&self, name: &TokenName) -> Result<(), ClientError> {
        let request = self.api(Method::DELETE, &["tokens", name.as_str()]);
        self.send(request).await.map(drop)
    }

    /// A page of what was done, newest first.
    pub async fn audit(&self, filter: &AuditFilter) -> Result<AuditList, ClientError> {
        let one = |name, value: &Option<String>| value.clone().map(|value| (name, value));
        let query: Vec<_> = [
            one("app", &filter.app),
            one("by", &filter.by),
            one("job", &filter.job),
            filter.before.map(|before| ("before", before.to_string())),
            filter.limit.map(|limit| ("limit", limit.to_string())),
        ]
        .into_iter()
        .flatten()
        .collect();
        self.json(self.api(Method::GET, &["audit"]).query(&query)).await
    }
}
