//! The gate: who asks, and whether they may. It denies by default; bounds are checked before it, bodies read after it.

use std::sync::Arc;

use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::{
    bearer,
    identity::Identity,
    keyring::Keyring,
    needs::{Need, Needed, Needs},
};
use crate::{
    refused::{Refused, Result},
    routes::{method_not_allowed, unknown_route},
};

/// What the gate decides by.
#[derive(Debug)]
pub(crate) struct Gate {
    pub(crate) keyring: Arc<Keyring>,
    pub(crate) needs: Needs,
}

/// Lets pass who may, with their identity.
pub(crate) async fn gate(State(gate): State<Arc<Gate>>, mut request: Request, next: Next) -> Response {
    let who = match Identity::in_process(request.extensions()) {
        Some(local) => Ok(local),
        None => gate.keyring.identify(bearer::shown(request.headers())).await,
    };
    let who = match who {
        Ok(who) => who,
        Err(refused) => return refused.into_response(),
    };
    // What matches no route has no path, and is told so by the router; but only to whom it may be told.
    if let Some(route) = request.extensions().get::<MatchedPath>() {
        match gate.needs.of_request(request.method(), route.as_str()) {
            Needed::Need(need) => {
                if let Err(refused) = may(&who, need, &request) {
                    return refused.into_response();
                }
            }
            Needed::OtherMethods(allowed) => {
                let mut response = method_not_allowed().await.into_response();
                // Made of methods' names alone.
                if let Ok(allowed) = HeaderValue::try_from(allowed) {
                    response.headers_mut().insert(header::ALLOW, allowed);
                }
                return response;
            }
            Needed::Undeclared => {
                tracing::error!(route = route.as_str(), "a route says nothing of who may use it");
                return forbidden("nobody may use this").into_response();
            }
        }
    }
    request.extensions_mut().insert(who);
    next.run(request).await
}

fn may(who: &Identity, need: Need, request: &Request) -> Result<()> {
    if need.installation && who.app.is_some() {
        // As what is not there.
        return Err(unknown_route(request.uri()));
    }
    match need.role {
        Some(role) if !who.role.may(role) => Err(forbidden(&format!(
            "this needs the role {role}, and the token {} has {}",
            who.name, who.role
        ))),
        _ => Ok(()),
    }
}

fn forbidden(detail: &str) -> Refused {
    Refused::new(StatusCode::FORBIDDEN, "forbidden", detail)
}
