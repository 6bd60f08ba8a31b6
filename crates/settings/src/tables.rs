//! Every setting, in its table.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use robata_core::{ExecutorName, definition::Memory, definition::duration};
use serde::{Deserialize, Serialize};

use crate::{
    adapters::{
        DockerSettings, ExecutorSettings, FolderSettings, LogSettings, MemorySettings, ProcessSettings, QueueSettings,
        SqliteSettings, StoreSettings,
    },
    auth::{AuthSettings, TlsSettings},
    degraded::DegradedSettings,
    listen::Listen,
    services::{PostgresSettings, RabbitMqSettings, RedisSettings, S3Settings, SqsSettings},
    telemetry::TelemetrySettings,
    worker::WorkerSettings,
};

/// All settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// `[data]`.
    pub data: DataSettings,
    /// `[server]`.
    pub server: ServerSettings,
    /// `[auth]`.
    pub auth: AuthSettings,
    /// `[definitions]`.
    pub definitions: DefinitionSettings,
    /// `[limits]`.
    pub limits: LimitSettings,
    /// `[store.…]`.
    pub store: StoreSettings,
    /// `[queue.…]`.
    pub queue: QueueSettings,
    /// `[logs.…]`.
    pub logs: LogSettings,
    /// `[executors.NAME.…]`.
    pub executors: BTreeMap<ExecutorName, ExecutorSettings>,
    /// `[worker]`.
    pub worker: WorkerSettings,
    /// `[scheduler]`.
    pub scheduler: SchedulerSettings,
    /// `[degraded]`.
    pub degraded: DegradedSettings,
    /// `[telemetry]`.
    pub telemetry: TelemetrySettings,
}

/// `[data]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DataSettings {
    /// Where everything is kept that has no folder of its own.
    pub folder: PathBuf,
}

/// `[server]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServerSettings {
    /// Where the API of `robata up` and robata-master listens.
    pub listen: Listen,
    /// Names besides loopback's own under which requests may come (`Host`); where others reach the port, any IP address may
    /// stand there, too.
    pub hosts: Vec<String>,
    /// `[server.tls]`; not set: plain HTTP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsSettings>,
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self {
            listen: Listen::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 7070))),
            hosts: Vec::new(),
            tls: None,
        }
    }
}

/// `[definitions]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DefinitionSettings {
    /// The executor of definitions that name none; default: the only one there is, else `docker`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_executor: Option<ExecutorName>,
}

/// `[limits]`: what a request may have at most.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitSettings {
    /// A payload.
    pub payload_bytes: Memory,
    /// A request's body.
    pub body_bytes: Memory,
    /// How deep JSON may be nested.
    pub json_depth: usize,
    /// Labels of a job.
    pub labels: usize,
    /// Jobs of one batch.
    pub batch_jobs: usize,
}

impl Default for LimitSettings {
    fn default() -> Self {
        Self {
            payload_bytes: Memory { bytes: 1 << 20 },
            body_bytes: Memory { bytes: 64 << 20 },
            json_depth: 128,
            labels: 64,
            batch_jobs: 10_000,
        }
    }
}

/// `[scheduler]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SchedulerSettings {
    /// How often what is past its retention is removed.
    #[serde(with = "duration")]
    pub prune_every: Duration,
}

impl Default for SchedulerSettings {
    fn default() -> Self {
        Self {
            prune_every: Duration::from_secs(60),
        }
    }
}

impl Default for Settings {
    /// Complete but for what the machine decides; see [`Settings::on`].
    fn default() -> Self {
        Self {
            data: DataSettings::default(),
            server: ServerSettings::default(),
            auth: AuthSettings::default(),
            definitions: DefinitionSettings::default(),
            limits: LimitSettings::default(),
            store: StoreSettings::Sqlite(SqliteSettings::default()),
            queue: QueueSettings::Memory(MemorySettings::default()),
            logs: LogSettings::Folder(FolderSettings::default()),
            executors: BTreeMap::new(),
            worker: WorkerSettings::default(),
            scheduler: SchedulerSettings::default(),
            degraded: DegradedSettings::default(),
            telemetry: TelemetrySettings::default(),
        }
    }
}

impl Settings {
    /// The defaults where the data is in `folder`, on a machine of this name with so many cores.
    #[must_use]
    pub fn on(folder: &Path, host: &str, cores: u32) -> Self {
        Self {
            data: DataSettings {
                folder: folder.to_owned(),
            },
            store: StoreSettings::Sqlite(SqliteSettings {
                folder: folder.to_owned(),
            }),
            logs: LogSettings::Folder(FolderSettings {
                path: folder.join("logs"),
            }),
            worker: WorkerSettings {
                host: host.to_owned(),
                ..WorkerSettings::default()
            },
            executors: ["docker", "process"]
                .into_iter()
                .filter_map(|kind| {
                    let name = ExecutorName::new(kind).ok()?;
                    let settings = executor(&name, kind, folder, cores)?;
                    Some((name, settings))
                })
                .collect(),
            ..Self::default()
        }
    }

    /// The executor of definitions that name none: as set, else the only one there is, else `docker`.
    #[must_use]
    pub fn default_executor(&self) -> Option<ExecutorName> {
        let only = || {
            let mut names = self.executors.keys();
            names.next().filter(|_| names.next().is_none()).cloned()
        };
        self.definitions
            .default_executor
            .clone()
            .or_else(only)
            .or_else(|| ExecutorName::new("docker").ok())
    }
}

/// Where a Docker engine listens, where neither a setting nor the environment's `DOCKER_HOST` says so.
pub const DOCKER_HOST: &str = "unix:///var/run/docker.sock";

/// The defaults of a store of this kind, where it is not the default one.
pub(crate) fn store(kind: &str) -> Option<StoreSettings> {
    (kind == "postgres").then(|| StoreSettings::Postgres(PostgresSettings::default()))
}

/// The defaults of a queue of this kind, where it is not the default one.
pub(crate) fn queue(kind: &str) -> Option<QueueSettings> {
    match kind {
        "redis" => Some(QueueSettings::Redis(RedisSettings::default())),
        "rabbitmq" => Some(QueueSettings::Rabbitmq(RabbitMqSettings::default())),
        "sqs" => Some(QueueSettings::Sqs(SqsSettings::default())),
        _ => None,
    }
}

/// The defaults of a log store of this kind, where it is not the default one.
pub(crate) fn logs(kind: &str) -> Option<LogSettings> {
    (kind == "s3").then(|| LogSettings::S3(S3Settings::default()))
}

/// The defaults of an executor of this kind.
pub(crate) fn executor(name: &ExecutorName, kind: &str, folder: &Path, cores: u32) -> Option<ExecutorSettings> {
    let slots = cores.saturating_mul(2).max(1);
    match kind {
        "docker" => Some(ExecutorSettings::Docker(DockerSettings {
            host: DOCKER_HOST.to_owned(),
            slots,
            parallel_starts: 4,
            ..DockerSettings::default()
        })),
        "process" => Some(ExecutorSettings::Process(ProcessSettings {
            folder: folder.join("executors").join(name.as_str()),
            slots,
            ..ProcessSettings::default()
        })),
        _ => None,
    }
}
