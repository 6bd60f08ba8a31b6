#![doc = include_str!("../README.md")]

pub mod accept;
pub mod access;
pub mod attempt;
pub mod clock;
pub mod definition;
pub mod error;
pub mod executor;
pub mod file_system;
pub mod finish;
pub mod format;
pub mod id;
pub mod job;
pub mod log_store;
pub mod name;
pub mod part;
pub mod payload;
pub mod policy;
pub mod queue;
pub mod request;
pub mod retry;
pub mod row;
pub mod secret;
pub mod state;
pub mod store;

pub use access::Role;
pub use clock::Timestamp;
pub use error::{Error, ErrorKind, Result, Retry};
pub use format::Format;
pub use id::{AttemptId, ClaimId, Epoch, IncarnationId, InstallationId, JobId};
pub use name::{AppName, ExecutorName, JobName, QueueName, SecretName, TokenName};
pub use payload::Payload;
pub use policy::Policy;
pub use secret::Secret;
pub use state::{AttemptState, JobState, Reason, WaitingReason};
