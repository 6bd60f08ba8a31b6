//! The metrics of this process: OpenTelemetry's instruments, read in Prometheus' text form.

use opentelemetry::global;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use prometheus::{Registry, TextEncoder};

/// Metrics cannot be set up or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The exporter cannot be made.
    #[error("metrics cannot be set up")]
    SetUp(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// What was counted cannot be written as text.
    #[error("metrics cannot be written")]
    Write(#[from] prometheus::Error),
}

/// What this process counts.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
}

impl Metrics {
    /// Makes every instrument that is made from now on, anywhere in the process, count here.
    pub fn install() -> Result<Self, Error> {
        let registry = Registry::new();
        let reader = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            .scope_info_enabled(false)
            .without_target_info()
            .build()
            .map_err(|error| Error::SetUp(error.into()))?;
        global::set_meter_provider(SdkMeterProvider::builder().with_reader(reader).build());
        Ok(Self { registry })
    }

    /// All of it in Prometheus' text form, version 0.0.4.
    pub fn render(&self) -> Result<String, Error> {
        Ok(TextEncoder::new().encode_to_string(&self.registry.gather())?)
    }
}
