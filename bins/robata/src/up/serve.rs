//! The API on its listener.

use std::{io, net::SocketAddr};

use axum::Router;
use robata_api::{Api, ApiConfig};
use robata_settings::Settings;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{LAST_ANSWERS, parts::Parts};
use crate::fault::Coded;

/// Takes the port, or says what to do.
pub(crate) async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        let message = if error.kind() == io::ErrorKind::AddrInUse {
            format!(
                "{address} is taken by another program (another `robata up`?); end it, or use --listen 127.0.0.1:PORT (port 0: any free one)"
            )
        } else {
            format!("cannot listen on {address}: {error}; use --listen 127.0.0.1:PORT")
        };
        Coded {
            code: "listen",
            message,
        }
        .into()
    })
}

/// The API over these parts; `stop` ends what is being followed.
pub(crate) fn router(parts: &Parts, settings: &Settings, stop: CancellationToken) -> Router {
    let limits = &settings.limits;
    let bytes = |size: robata_core::definition::Memory| usize::try_from(size.bytes).unwrap_or(usize::MAX);
    let mut config = ApiConfig::default();
    if let Some(name) = settings.default_executor() {
        config.default_executor = name;
    }
    config.executors = settings.executors.keys().cloned().collect();
    config.hosts.clone_from(&settings.server.hosts);
    config.max_body_bytes = bytes(limits.body_bytes);
    config.max_bodies_bytes = config.max_bodies_bytes.max(config.max_body_bytes);
    config.max_payload_bytes = bytes(limits.payload_bytes);
    config.max_depth = limits.json_depth;
    config.max_labels = limits.labels;
    config.max_batch = limits.batch_jobs;
    let mut api = Api::new(parts.store(), parts.logs(), config);
    api.shutdown = stop;
    robata_api::router(api)
}

/// Serves until told to stop; what is still being answered then has a moment to end.
pub(crate) async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) -> anyhow::Result<usize> {
    let graceful = axum::serve(listener, router).with_graceful_shutdown(stop.clone().cancelled_owned());
    tokio::select! {
        served = graceful => served?,
        () = async {
            stop.cancelled().await;
            tokio::time::sleep(LAST_ANSWERS).await;
        } => {}
    }
    Ok(0)
}
