#![doc = include_str!("../README.md")]

mod executor;
mod log_store;
#[cfg(feature = "postgres")]
mod postgres;
mod queue;
#[cfg(feature = "rabbitmq")]
mod rabbitmq;
#[cfg(feature = "redis")]
mod redis;
mod role;
mod secrets;
#[cfg(feature = "sqs")]
mod sqs;
mod store;

pub mod probe;

pub use executor::{executor, executors, import_image};
pub use log_store::log_store;
pub use queue::queue;
pub use role::Role;
pub use secrets::{secrets, source as secret_source};
pub use store::store;

/// Becomes the supervisor of a process where this program was started as one; else returns at once. MUST be the first
/// line of `main`, before any thread.
pub fn supervise_if_asked() {
    #[cfg(feature = "process")]
    robata_executor_process::supervise_if_asked();
}

/// The error for an adapter that this build does not have.
#[cfg_attr(
    all(
        feature = "sqlite",
        feature = "memory",
        feature = "process",
        feature = "docker",
        feature = "postgres",
        feature = "redis",
        feature = "rabbitmq",
        feature = "sqs",
        feature = "s3"
    ),
    expect(dead_code, reason = "a build with everything leaves nothing out")
)]
fn left_out(table: &str, feature: &str) -> robata_core::Error {
    robata_core::Error::new(
        robata_core::ErrorKind::Unsupported,
        "adapters.open",
        format!(
            "[{table}] needs the feature `{feature}`, which this build leaves out: build with `--features {feature}` or `--features full`"
        ),
    )
}
