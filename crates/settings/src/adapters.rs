//! The tables of adapters: one table per adapter chosen, named after it (`[queue.memory]`).

use std::{path::PathBuf, time::Duration};

use robata_core::{
    ExecutorName, Policy,
    definition::{Cpu, Memory, duration},
    policy::{Allowed, Containers, Max},
};
use serde::{Deserialize, Serialize};

use crate::{
    secrets::SecretsSettings,
    services::{PostgresSettings, RabbitMqSettings, RedisSettings, S3Settings, SqsSettings},
};

/// `[store.…]`: the system of record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoreSettings {
    /// `[store.sqlite]`.
    Sqlite(SqliteSettings),
    /// `[store.postgres]`.
    Postgres(PostgresSettings),
}

/// `[store.sqlite]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SqliteSettings {
    /// The folder of the database; default: the data folder.
    pub folder: PathBuf,
}

/// `[queue.…]`: what carries references to jobs to workers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QueueSettings {
    /// `[queue.memory]`.
    Memory(MemorySettings),
    /// `[queue.redis]`.
    Redis(RedisSettings),
    /// `[queue.rabbitmq]`.
    Rabbitmq(RabbitMqSettings),
    /// `[queue.sqs]`.
    Sqs(SqsSettings),
}

/// `[queue.memory]`: nothing to set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MemorySettings {}

/// `[logs.…]`: where the output of attempts is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogSettings {
    /// `[logs.folder]`.
    Folder(FolderSettings),
    /// `[logs.s3]`.
    S3(S3Settings),
}

/// `[logs.folder]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FolderSettings {
    /// The folder; default: `logs` in the data folder.
    pub path: PathBuf,
}

/// `[executors.NAME.…]`: a place where attempts run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExecutorSettings {
    /// `[executors.NAME.docker]`.
    Docker(DockerSettings),
    /// `[executors.NAME.process]`.
    Process(ProcessSettings),
}

impl ExecutorSettings {
    /// Attempts at once.
    #[must_use]
    pub fn slots(&self) -> u32 {
        match self {
            Self::Docker(docker) => docker.slots,
            Self::Process(process) => process.slots,
        }
    }

    /// The time after which an attempt that nobody came for is lost; `None`: never.
    #[must_use]
    pub fn lost_after(&self) -> Option<Duration> {
        match self {
            Self::Docker(docker) => docker.lost_after.0,
            Self::Process(process) => process.lost_after.0,
        }
    }

    /// The operator's policy of the executor that has this name.
    #[must_use]
    pub fn policy(&self, name: &ExecutorName) -> Policy {
        let (kind, apps, max, containers) = match self {
            Self::Docker(docker) => ("docker", &docker.apps, &docker.max, Some(docker.containers())),
            Self::Process(process) => ("process", &process.apps, &process.max, None),
        };
        let mut policy = Policy::of(format!("executors.{name}.{kind}"));
        policy.apps.clone_from(apps);
        policy.max = Max {
            cpu: max.cpu,
            memory: max.memory,
            timeout: max.timeout,
        };
        policy.containers = containers;
        policy
    }

    /// Where its secrets live.
    #[must_use]
    pub fn secrets(&self) -> Option<&SecretsSettings> {
        match self {
            Self::Docker(docker) => docker.secrets.as_ref(),
            Self::Process(process) => process.secrets.as_ref(),
        }
    }

    /// So long after its lease's end a worker that cannot renew it stops what it runs there; `None`: it leaves it running.
    #[must_use]
    pub fn fence(&self) -> Option<Duration> {
        let fence = match self {
            Self::Docker(docker) => docker.fence,
            Self::Process(process) => process.fence,
        };
        let after = self.lost_after().filter(|_| fence)?;
        Some(after.saturating_sub(FENCED_BEFORE))
    }
}

/// So long before an attempt may be called lost it is stopped by its own worker, where the executor has a fence.
pub(crate) const FENCED_BEFORE: Duration = Duration::from_secs(60);

/// `[executors.NAME.docker]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DockerSettings {
    /// Where the engine listens, as `unix:///var/run/docker.sock` or `tcp://host:2375` (without TLS); default: what the
    /// variable `DOCKER_HOST` says, else [`DOCKER_HOST`](crate::DOCKER_HOST).
    pub host: String,
    /// Docker's `config.json`, for the credentials of registries (its `auths`, `credHelpers` and `credsStore`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config_json: Option<PathBuf>,
    /// Attempts at once; default: twice the cores.
    pub slots: u32,
    /// How a payload gets into a container.
    pub payload: PayloadWay,
    /// Starts under way at once; 0: no limit.
    pub parallel_starts: usize,
    /// Images that only jobs have used are removed when so long no job has used them; `None`: never.
    #[serde(with = "duration::optional", skip_serializing_if = "Option::is_none")]
    pub keep_images: Option<Duration>,
    /// The operator's policy: apps whose jobs may run there, `*` standing for any text.
    pub apps: Vec<String>,
    /// The operator's policy: images that may run, `*` standing for any text of the registry, the name or the tag.
    pub images: Vec<String>,
    /// The operator's policy: networks that may be joined besides `none` and the engine's default one.
    pub networks: Vec<String>,
    /// The operator's policy: named volumes, as `shop-*:rw`.
    pub volumes: Vec<Allowed>,
    /// The operator's policy: paths of the engine's machine, as `/srv/data:ro`; what may only be read with what is below it.
    pub mounts: Vec<Allowed>,
    /// The operator's policy: devices of the engine's machine.
    pub devices: Vec<String>,
    /// The operator's policy: capabilities that definitions may add.
    pub cap_add: Vec<String>,
    /// The operator's policy: whether graphics processors may be asked for.
    pub gpus: bool,
    /// The operator's policy: whether `security = "privileged"` is allowed.
    pub privileged: bool,
    /// The operator's policy: what a job may use at most.
    pub max: MaxSettings,
    /// The time after which an attempt that nobody came for is lost (PROTOCOL H6).
    pub lost_after: LostAfter,
    /// Whether a worker that cannot renew its lease stops what it runs one minute before `lost_after`, so that no second
    /// attempt runs beside the first. For engines that one worker alone reaches: another one may have adopted what runs.
    pub fence: bool,
    /// Where its secrets live; `None`: it has none, and what asks for some is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secrets: Option<SecretsSettings>,
}

impl Default for DockerSettings {
    fn default() -> Self {
        let allowed = Containers::default();
        Self {
            host: String::new(),
            config_json: None,
            slots: 0,
            payload: PayloadWay::default(),
            parallel_starts: 0,
            keep_images: None,
            apps: Policy::default().apps,
            images: allowed.images,
            networks: allowed.networks,
            volumes: allowed.volumes,
            mounts: allowed.mounts,
            devices: allowed.devices,
            cap_add: allowed.cap_add,
            gpus: allowed.gpus,
            privileged: allowed.privileged,
            max: MaxSettings::default(),
            lost_after: LostAfter::default(),
            fence: false,
            secrets: None,
        }
    }
}

impl DockerSettings {
    fn containers(&self) -> Containers {
        Containers {
            images: self.images.clone(),
            networks: self.networks.clone(),
            volumes: self.volumes.clone(),
            mounts: self.mounts.clone(),
            devices: self.devices.clone(),
            cap_add: self.cap_add.clone(),
            gpus: self.gpus,
            privileged: self.privileged,
        }
    }
}

/// `[executors.NAME.….max]`; what is not set has no bound.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MaxSettings {
    /// CPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Cpu>,
    /// Memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Memory>,
    /// The longest run.
    #[serde(with = "duration::optional", skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
}

/// How a payload gets into a container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PayloadWay {
    /// Mounted as a read-only file where the engine sees the files that we see, else by a volume.
    #[default]
    Auto,
    /// By an anonymous volume that is filled before the start.
    Volume,
}

/// `[executors.NAME.process]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProcessSettings {
    /// The folder in which its attempts' supervisors keep what they know; on a local disk.
    pub folder: PathBuf,
    /// Attempts at once; default: twice the cores.
    pub slots: u32,
    /// The operator's policy: apps whose jobs may run there, `*` standing for any text.
    pub apps: Vec<String>,
    /// The operator's policy: what a job may use at most.
    pub max: MaxSettings,
    /// The time after which an attempt that nobody came for is lost (PROTOCOL H6).
    pub lost_after: LostAfter,
    /// Whether a worker that cannot renew its lease stops what it runs one minute before `lost_after`, so that no second
    /// attempt runs beside the first. For engines that one worker alone reaches: another one may have adopted what runs.
    pub fence: bool,
    /// Where its secrets live; `None`: it has none, and what asks for some is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secrets: Option<SecretsSettings>,
}

impl Default for ProcessSettings {
    fn default() -> Self {
        Self {
            folder: PathBuf::new(),
            slots: 0,
            apps: Policy::default().apps,
            max: MaxSettings::default(),
            lost_after: LostAfter::default(),
            fence: false,
            secrets: None,
        }
    }
}

/// A time, or `never`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LostAfter(pub Option<Duration>);

impl Default for LostAfter {
    fn default() -> Self {
        Self(Some(Duration::from_secs(600)))
    }
}

impl Serialize for LostAfter {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Some(time) => duration::serialize(&time, serializer),
            None => serializer.serialize_str("never"),
        }
    }
}

impl<'de> Deserialize<'de> for LostAfter {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text == "never" {
            return Ok(Self(None));
        }
        duration::parse(&text)
            .map(|time| Self(Some(time)))
            .map_err(|error| serde::de::Error::custom(format!("{error}, nor \"never\"")))
    }
}
