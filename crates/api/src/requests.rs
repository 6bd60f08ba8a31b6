//! How long answers take, by route and status; by the API of OpenTelemetry, read by whom the program chose.

use std::{sync::LazyLock, time::Duration};

use axum::{
    extract::MatchedPath,
    http::{Method, StatusCode},
};
use opentelemetry::{KeyValue, global, metrics::Histogram};

/// From half a millisecond to ten seconds; followed logs and long polls end above.
const SECONDS: [f64; 13] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0,
];

static TIMES: LazyLock<Histogram<f64>> = LazyLock::new(|| {
    global::meter("robata")
        .f64_histogram("robata_http_request")
        .with_description("Requests over HTTP, to the beginning of their answer")
        .with_unit("s")
        .with_boundaries(SECONDS.to_vec())
        .build()
});

/// Counts one answer. What matched no route is counted under `none`: paths of strangers make no labels.
pub(crate) fn answered(method: &Method, route: Option<&MatchedPath>, status: StatusCode, took: Duration) {
    let known = [
        Method::GET,
        Method::POST,
        Method::PUT,
        Method::DELETE,
        Method::HEAD,
        Method::OPTIONS,
    ];
    let method = if known.contains(method) {
        method.as_str()
    } else {
        "other"
    };
    TIMES.record(
        took.as_secs_f64(),
        &[
            KeyValue::new("method", method.to_owned()),
            KeyValue::new("route", route.map_or("none", MatchedPath::as_str).to_owned()),
            KeyValue::new("status", i64::from(status.as_u16())),
        ],
    );
}
