//! `/healthz`, `/readyz` and `/metrics`, as every daemon answers them: a master beside its API, a worker alone.

use std::{fmt, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Request, State},
    http::{StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use futures::future::BoxFuture;
use robata_api_types::{Health, Need, Ready};
use robata_core::{Error, ErrorKind, access::TokenHash, store::Store};
use tokio::time::timeout;

use crate::{
    access::{Gate, Keyring, Needs, gate},
    config::ApiConfig,
    guard,
    refused::internal,
    routes::{Json, not_found, ok, openapi},
};

/// What is tried for readiness is given up after this time.
pub const CHECK: Duration = Duration::from_secs(2);

/// Tries what a daemon needs, each within [`CHECK`].
pub type TryNeeds = Arc<dyn Fn() -> BoxFuture<'static, Vec<Need>> + Send + Sync>;
/// Writes what a process counts, in Prometheus' text form; an error was told where it happened.
pub type WriteMetrics = Arc<dyn Fn() -> Option<String> + Send + Sync>;

/// What a daemon without the API answers with.
#[derive(Clone)]
pub struct Probes {
    /// What it needs.
    pub needs: TryNeeds,
    /// What it counts.
    pub metrics: WriteMetrics,
    /// Names that a request's `Host` may have besides loopback's, without port.
    pub hosts: Vec<String>,
    /// Whether it may also be any IP address, as [`ApiConfig::any_address`].
    pub any_address: bool,
    /// Where the tokens are: who may read `/metrics`.
    pub store: Arc<dyn Store>,
    /// The hash of the settings' own admin token.
    pub admin_token: Option<TokenHash>,
}

impl fmt::Debug for Probes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Probes")
            .field("hosts", &self.hosts)
            .finish_non_exhaustive()
    }
}

/// The three routes alone. `/metrics` needs what it needs at a master.
pub fn probes(probes: Probes) -> Router {
    let config = ApiConfig {
        hosts: probes.hosts.clone(),
        any_address: probes.any_address,
        ..ApiConfig::default()
    };
    let gate_of = Gate {
        keyring: Keyring::new(Arc::clone(&probes.store), probes.admin_token),
        needs: Needs::of(&openapi()),
    };
    let gated = Router::new()
        .route("/metrics", get(metrics))
        .fallback(|| async { not_found("this is a worker: there are /healthz, /readyz and /metrics") })
        .layer(middleware::from_fn_with_state(Arc::new(gate_of), gate));
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .merge(gated)
        .layer(middleware::from_fn_with_state(Arc::new(config), check))
        .with_state(probes)
}

async fn check(State(config): State<Arc<ApiConfig>>, request: Request, next: Next) -> Response {
    let mut response = match guard::check(&config, request.method(), request.uri(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(refused) => refused.into_response(),
    };
    guard::harden(response.headers_mut());
    response
}

async fn healthz() -> Response {
    ok(alive()).into_response()
}

async fn readyz(State(probes): State<Probes>) -> Response {
    ready((probes.needs)().await).into_response()
}

async fn metrics(State(probes): State<Probes>) -> Response {
    match (probes.metrics)() {
        Some(text) => as_metrics(text),
        None => internal().into_response(),
    }
}

/// The answer of something that is alive.
pub(crate) fn alive() -> Health {
    Health {
        status: "alive".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

/// 200 where every required need serves.
pub(crate) fn ready(needs: Vec<Need>) -> Json<Ready> {
    let ready = needs.iter().all(|need| need.ok || !need.required);
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    Json(status, Ready { ready, needs })
}

/// Metrics in Prometheus' text form.
pub(crate) fn as_metrics(text: String) -> Response {
    let media_type = "text/plain; version=0.0.4; charset=utf-8";
    ([(header::CONTENT_TYPE, media_type)], text).into_response()
}

/// One need, tried within twice [`CHECK`].
pub async fn need<T>(name: &str, required: bool, tried: impl Future<Output = Result<T, Error>>) -> Need {
    let error = match timeout(CHECK * 2, tried).await {
        Ok(Ok(_)) => None,
        Ok(Err(error)) => Some(error),
        Err(_elapsed) => {
            let message = format!("did not answer within {} s", CHECK.as_secs());
            Some(Error::new(ErrorKind::Unavailable, "ready.check", message))
        }
    };
    Need {
        name: name.to_owned(),
        ok: error.is_none(),
        required,
        message: error.map(|error| error.full()),
    }
}
