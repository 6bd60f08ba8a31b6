//! Who a request acts as.

use std::sync::Arc;

use axum::{
    extract::FromRequestParts,
    http::{Extensions, StatusCode, request::Parts},
};
use robata_core::{AppName, Role, access::Token};

use super::{LOCAL, SETTINGS, bearer::Shown, keyring::Keyring};
use crate::refused::{Refused, Result, internal};

/// Who asks. A handler that takes it knows that the gate has let the request pass.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    /// Under which what is done is recorded.
    pub(crate) name: Arc<str>,
    pub(crate) role: Role,
    /// The one app that is seen; `None`: all of the installation.
    pub(crate) app: Option<AppName>,
    basis: Basis,
}

/// What it rests on, to be looked at again.
#[derive(Clone, Debug)]
enum Basis {
    /// This process itself.
    InProcess,
    /// What was shown, as these tokens say.
    Shown(Shown, Arc<Keyring>),
}

/// Marks a request that this process asks itself. A request over a connection never has it: it is no header but a value
/// in memory, of a type that only this crate can make.
#[derive(Clone, Copy)]
struct InProcess;

/// Lets a request act as the admin `local`, whatever tokens there are: one that this process makes and gives to its own
/// router, past every connection.
pub fn as_local(extensions: &mut Extensions) {
    extensions.insert(InProcess);
}

impl Identity {
    /// This process itself, if it asks.
    pub(super) fn in_process(extensions: &Extensions) -> Option<Self> {
        extensions.get::<InProcess>().map(|_| Self {
            name: LOCAL.into(),
            role: Role::Admin,
            app: None,
            basis: Basis::InProcess,
        })
    }

    /// Whoever asks where no token is needed.
    pub(super) fn local(shown: Shown, keyring: Arc<Keyring>) -> Self {
        Self::admin(LOCAL, shown, keyring)
    }

    /// The bearer of the settings' own token.
    pub(super) fn settings(shown: Shown, keyring: Arc<Keyring>) -> Self {
        Self::admin(SETTINGS, shown, keyring)
    }

    fn admin(name: &str, shown: Shown, keyring: Arc<Keyring>) -> Self {
        Self {
            name: name.into(),
            role: Role::Admin,
            app: None,
            basis: Basis::Shown(shown, keyring),
        }
    }

    /// The bearer of a stored token.
    pub(super) fn bearer(token: &Token, shown: Shown, keyring: Arc<Keyring>) -> Self {
        Self {
            name: token.name.as_str().into(),
            role: token.role,
            app: token.app.clone(),
            basis: Basis::Shown(shown, keyring),
        }
    }

    /// Whether it is let in for want of any token.
    pub(super) fn needs_no_token(&self) -> bool {
        &*self.name == LOCAL
    }

    /// Refuses what a token revoked or expired meanwhile would no longer be let in with; for what takes long.
    pub(crate) fn still(&self) -> Result<()> {
        match &self.basis {
            Basis::InProcess => Ok(()),
            Basis::Shown(shown, keyring) => keyring.remembered(*shown).map(drop),
        }
    }
}

impl<S: Sync> FromRequestParts<S> for Identity {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        parts.extensions.get::<Self>().cloned().ok_or_else(|| {
            tracing::error!(
                path = parts.uri.path(),
                "a route that asks who it is lies before the gate"
            );
            internal()
        })
    }
}

/// 401, always the same: whether a token is malformed, unknown, revoked or has expired is nobody's who has none.
pub(super) fn unauthenticated() -> Refused {
    Refused::new(
        StatusCode::UNAUTHORIZED,
        "unauthenticated",
        "a valid token is needed, in the header `Authorization: Bearer TOKEN`",
    )
}
