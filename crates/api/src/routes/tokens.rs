//! Making, listing and revoking tokens.

use std::{sync::Arc, time::Duration};

use axum::{extract::State, http::StatusCode};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use robata_api_types::{NewTokenRequest, Problem, TokenList, TokenMade};
use robata_core::{
    ErrorKind, Role, TokenName,
    access::{NewToken, Token, TokenHash, Tokens},
};

use super::{Json, ok};
use crate::{
    access::{Identity, LOCAL, SETTINGS},
    body::JsonBody,
    path::Path,
    refused::{Refused, Result, internal, nearest},
    shared::Shared,
};

/// What a token begins with, so that people and scanners of secrets know one when they see it.
const PREFIX: &str = "rbt_";
/// Random bytes of a token.
const SECRET_BYTES: usize = 32;
/// A token lasts at least and at most so long, where it ends at all.
const LASTS: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(10 * 366 * 24 * 3600);

/// All tokens that were not revoked, also those that expired in the last 30 days. Their secrets are kept nowhere.
#[utoipa::path(
    operation_id = "list_tokens",
    get, path = "/api/v1/tokens", tag = "access",
    security(("token" = ["admin", "installation"])),
    responses(
        (status = 200, description = "By name.", body = TokenList),
        (status = "default", description = "Refused.", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn list(State(shared): State<Arc<Shared>>) -> Result<Json<TokenList>> {
    let Tokens { tokens, now, .. } = shared.store.tokens().await?;
    let tokens = tokens.into_iter();
    Ok(ok(TokenList {
        tokens: tokens.map(|token| robata_api_types::Token::new(token, now)).collect(),
    }))
}

/// Makes a token. From the first one on every request needs one, so that must be an admin's, unless the settings have one.
#[utoipa::path(
    operation_id = "create_token",
    post, path = "/api/v1/tokens", tag = "access", request_body = NewTokenRequest,
    security(("token" = ["admin", "installation"])),
    responses(
        (status = 201, description = "Made. Its secret is told this once.", body = TokenMade),
        (status = 409, description = "There is one of this name; or `first_token_must_be_admin`.", body = Problem,
         content_type = "application/problem+json"),
        (status = "default", description = "Refused.", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn create(
    who: Identity,
    State(shared): State<Arc<Shared>>,
    body: JsonBody,
) -> Result<Json<TokenMade>> {
    let NewTokenRequest {
        name,
        role,
        app,
        expires_in,
    } = body.parse().await?.value;
    if [LOCAL, SETTINGS]
        .iter()
        .any(|own| own.eq_ignore_ascii_case(name.as_str()))
    {
        let detail = format!(
            "records call the settings' own token {SETTINGS}, and who needed none {LOCAL}; choose a name that tells them apart"
        );
        return Err(Refused::invalid("reserved_name", detail));
    }
    let lasts = expires_in.map(|span| span.0);
    if lasts.is_some_and(|lasts| !LASTS.contains(&lasts)) {
        return Err(Refused::invalid("invalid", "expires_in must be from 1s to ten years"));
    }
    // One after the other, so that no two take each other's rights away.
    let _one = shared.tokens_change.lock().await;
    let is_lasting_admin = role == Role::Admin && app.is_none() && lasts.is_none();
    if !is_lasting_admin && !shared.keyring.has_settings_token() && !shared.store.tokens().await?.ever {
        return Err(Refused::new(
            StatusCode::CONFLICT,
            "first_token_must_be_admin",
            "from the first token on every request needs one: make one with the role admin first, without app and expiry, or \
             set auth.admin_token in the settings; else nobody could make another",
        ));
    }
    let secret = secret()?;
    let new = NewToken {
        name: name.clone(),
        role,
        app,
        hash: TokenHash::of(&secret),
        lasts,
    };
    let made = shared.store.create_token(new, &who.name).await.map_err(|error| {
        if error.kind() == ErrorKind::Conflict {
            let detail = format!("there is a token {name}; revoke it first, or choose another name");
            Refused::new(StatusCode::CONFLICT, "conflict", detail)
        } else {
            error.into()
        }
    })?;
    // In force here before it is told.
    shared.keyring.look().await;
    let now = made.created_at;
    let body = TokenMade {
        of: robata_api_types::Token::new(made, now),
        token: secret,
    };
    Ok(Json(StatusCode::CREATED, body))
}

/// Revokes a token: it is valid nowhere ten seconds later, and what it follows ends.
#[utoipa::path(
    operation_id = "revoke_token",
    delete, path = "/api/v1/tokens/{name}", tag = "access", params(("name" = String, Path, description = "The token's name")),
    security(("token" = ["admin", "installation"])),
    responses(
        (status = 204, description = "Revoked."),
        (status = 409, description = "`last_admin_token`: nobody could make another.", body = Problem,
         content_type = "application/problem+json"),
        (status = "default", description = "Refused.", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn revoke(
    who: Identity,
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
) -> Result<StatusCode> {
    let _one = shared.tokens_change.lock().await;
    let Tokens { tokens, .. } = shared.store.tokens().await?;
    let unknown = || {
        let near = nearest(&name, tokens.iter().map(|token| token.name.as_str()));
        Refused::not_found("unknown_token", format!("there is no token {name:?}")).near(near)
    };
    let named = TokenName::new(&name).map_err(|_| unknown())?;
    let found = tokens.iter().find(|token| token.name == named).ok_or_else(unknown)?;
    let others = || tokens.iter().filter(|token| token.name != named);
    if is_lasting_admin(found) && !shared.keyring.has_settings_token() && !others().any(is_lasting_admin) {
        return Err(Refused::new(
            StatusCode::CONFLICT,
            "last_admin_token",
            format!(
                "{named} is the last admin token without app and expiry; make another first, or set auth.admin_token in the \
                 settings; else nobody could make one"
            ),
        ));
    }
    shared
        .store
        .revoke_token(&named, &who.name)
        .await
        .map_err(|error| match error.kind() {
            ErrorKind::NotFound => unknown(),
            _ => error.into(),
        })?;
    shared.keyring.look().await;
    Ok(StatusCode::NO_CONTENT)
}

fn is_lasting_admin(token: &Token) -> bool {
    token.role == Role::Admin && token.app.is_none() && token.expires_at.is_none()
}

/// A new token, of the system's own random bytes.
fn secret() -> Result<String> {
    let mut bytes = [0; SECRET_BYTES];
    getrandom::fill(&mut bytes).map_err(|error| {
        tracing::error!(%error, "the system gives no random bytes");
        internal()
    })?;
    Ok(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_long_and_no_two_are_alike() {
        let (one, other) = (secret().unwrap(), secret().unwrap());
        assert_ne!(one, other);
        assert_eq!(one.len(), PREFIX.len() + 43);
        let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        assert!(one.starts_with(PREFIX) && one.bytes().all(word), "{one}");
    }
}
