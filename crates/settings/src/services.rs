//! The tables of services that many daemons share: `[store.postgres]`, `[queue.redis]`, `[queue.rabbitmq]`,
//! `[queue.sqs]`, `[logs.s3]`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::auth::Secret;

/// `[store.postgres]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PostgresSettings {
    /// The database, as `postgres://user:password@host:5432/name`; a pooler in transaction mode will do.
    pub url: String,
    /// Connections of a master's pool; `robata up` has these and a worker's.
    pub master_connections: u32,
    /// Connections of a worker's pool; one more is the heartbeat's own.
    pub worker_connections: u32,
    /// The address for LISTEN, where it is another one (a pooler in transaction mode cannot listen), or `off`; not set:
    /// as `url`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen_url: Option<String>,
    /// Who brings the tables up to date.
    pub migrate: Migrate,
}

impl Default for PostgresSettings {
    fn default() -> Self {
        Self {
            url: String::new(),
            master_connections: 8,
            worker_connections: 3,
            listen_url: None,
            migrate: Migrate::default(),
        }
    }
}

/// Who brings a store's tables up to date.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Migrate {
    /// Every daemon, as it starts.
    #[default]
    Automatic,
    /// A person, by `robata store migrate`; a daemon only checks, and refuses to start where something is missing.
    Check,
}

/// `[queue.redis]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RedisSettings {
    /// The server, as `redis://user:password@host:6379/0`; `rediss://` for TLS. Of a cluster any node; several addresses,
    /// separated by commas, are nodes of one cluster, or a primary and its replicas.
    pub url: String,
    /// A file with the certificates, in PEM, by which a server with TLS is known; not set: the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// What is done where the server may evict what waits (any `maxmemory-policy` but `noeviction`).
    pub eviction: Eviction,
}

/// What is done where a Redis may evict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Eviction {
    /// Nothing is served until the policy is `noeviction`.
    #[default]
    Refuse,
    /// Warns, and goes on: what is evicted goes out again from the store, late.
    Warn,
}

/// `[queue.rabbitmq]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RabbitMqSettings {
    /// The broker, as `amqp://user:password@host:5672/vhost`; `amqps://` for TLS; without a virtual host, `/`. Several
    /// addresses, separated by commas, are nodes of one cluster.
    pub url: String,
    /// A file with certificates, in PEM, by which a broker with TLS is known besides the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// A file with our own certificate and those that signed it, in PEM, for a broker that asks for one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<PathBuf>,
    /// A file with that certificate's key, in PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
}

/// `[queue.sqs]`: Amazon SQS, or what speaks its protocol.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SqsSettings {
    /// The region; not set: what `AWS_REGION` says, or the profile, or the machine; else `us-east-1`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// The service, as `https://sqs.example.com`; not set: what `AWS_ENDPOINT_URL_SQS` says, else Amazon's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// The access key's id; not set: the credentials are found as Amazon's own tools find them (`AWS_ACCESS_KEY_ID`…, the
    /// profile, a web identity, the role of the container, of the machine).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_key_id: Option<String>,
    /// The access key's secret. Best by a file (`ROBATA_QUEUE__SQS__SECRET_ACCESS_KEY_FILE`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_access_key: Option<Secret>,
    /// A file with the certificates, in PEM, by which the service is known; not set: the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// Whether queues that are missing are made; else they are only looked up.
    pub create: bool,
}

impl Default for SqsSettings {
    fn default() -> Self {
        Self {
            region: None,
            endpoint: None,
            access_key_id: None,
            secret_access_key: None,
            ca: None,
            create: true,
        }
    }
}

impl SqsSettings {
    /// The access key, where it is set: its id and its secret.
    #[must_use]
    pub fn keys(&self) -> Option<(String, String)> {
        keys(self.access_key_id.as_ref(), self.secret_access_key.as_ref())
    }
}

fn keys(id: Option<&String>, secret: Option<&Secret>) -> Option<(String, String)> {
    let Secret(secret) = secret?;
    Some((id?.clone(), secret.clone()))
}

/// `[logs.s3]`: a bucket of S3, or of what speaks its protocol.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct S3Settings {
    /// The bucket; it must be there.
    pub bucket: String,
    /// What the names of all objects begin with, as `robata/logs`; empty: the bucket is Robata's alone.
    pub prefix: String,
    /// The region; not set: what `AWS_REGION` says, else `us-east-1`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// The server, as `https://minio.example.com:9000`; not set: what `AWS_ENDPOINT_URL_S3` says, else Amazon's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// The access key's id; not set: the credentials are found as Amazon's own tools find them (`AWS_ACCESS_KEY_ID`…, a web
    /// identity, the role of the container, of the machine).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_key_id: Option<String>,
    /// The access key's secret. Best by a file (`ROBATA_LOGS__S3__SECRET_ACCESS_KEY_FILE`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_access_key: Option<Secret>,
    /// A file with the certificates, in PEM, by which the server is known; not set: the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
}

impl S3Settings {
    /// The access key, where it is set: its id and its secret.
    #[must_use]
    pub fn keys(&self) -> Option<(String, String)> {
        keys(self.access_key_id.as_ref(), self.secret_access_key.as_ref())
    }
}
