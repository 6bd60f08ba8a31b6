//! What a program tells about itself: the log it writes and the metrics it counts, as settings say.

use robata_api::WriteMetrics;
use robata_settings::{LogForm, Settings};
use robata_telemetry::Metrics;

/// Sets up log and metrics; before any part is opened, since what is opened before counts nothing. `filter` is what the
/// log shows where settings do not say.
pub fn telemetry(settings: &Settings, filter: &str) -> anyhow::Result<WriteMetrics> {
    let form = match settings.telemetry.log {
        LogForm::Text => robata_telemetry::LogForm::Text,
        LogForm::Json => robata_telemetry::LogForm::Json,
    };
    robata_telemetry::log(form, settings.telemetry.filter.as_deref().unwrap_or(filter));
    let metrics = Metrics::install()?;
    Ok(std::sync::Arc::new(move || match metrics.render() {
        Ok(text) => Some(text),
        Err(error) => {
            tracing::error!(%error, "metrics cannot be written");
            None
        }
    }))
}
