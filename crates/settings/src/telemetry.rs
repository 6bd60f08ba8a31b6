//! `[telemetry]`: what a daemon tells about itself, and where.

use serde::{Deserialize, Serialize};

/// `[telemetry]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TelemetrySettings {
    /// The form of the log on standard error.
    pub log: LogForm,
    /// Which lines it has, as `info,robata_worker=debug`; not set: `info` for daemons, `warn` for `robata up`. The
    /// variable RUST_LOG wins over it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
}

/// The form of a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogForm {
    /// For people.
    #[default]
    Text,
    /// One JSON document a line.
    Json,
}
