#![doc = include_str!("../README.md")]

mod adapters;
mod auth;
mod check;
mod degraded;
mod error;
mod file;
mod layer;
mod listen;
mod load;
mod provenance;
mod secrets;
mod services;
mod tables;
mod telemetry;
mod whole;
mod worker;

pub use adapters::{
    DockerSettings, ExecutorSettings, FolderSettings, LogSettings, LostAfter, MaxSettings, MemorySettings, PayloadWay,
    ProcessSettings, QueueSettings, SqliteSettings, StoreSettings,
};
pub use auth::{AuthSettings, Secret, TlsSettings};
pub use degraded::DegradedSettings;
pub use error::{Errors, Place, Problem};
pub use listen::Listen;
pub use load::{Defaults, Flag, Loaded, Sources};
pub use provenance::Entry;
pub use secrets::SecretsSettings;
pub use services::{Eviction, Migrate, PostgresSettings, RabbitMqSettings, RedisSettings, S3Settings, SqsSettings};
pub use tables::{
    DOCKER_HOST, DataSettings, DefinitionSettings, LimitSettings, SchedulerSettings, ServerSettings, Settings,
};
pub use telemetry::{LogForm, TelemetrySettings};
pub use worker::{OnSigterm, WorkerSettings};
