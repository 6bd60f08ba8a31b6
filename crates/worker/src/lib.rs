#![doc = include_str!("../README.md")]

mod adopt;
mod attempt;
mod backoff;
mod clean;
mod clock;
mod config;
mod engine;
mod fence;
mod finalise;
mod follow;
mod held;
mod lease;
mod mask;
mod metrics;
mod net;
mod part;
mod policy;
mod pump;
mod queues;
mod receive;
mod recorder;
mod secrets;
mod shared;
mod slots;
mod start;
mod status;
mod tape;
mod unreadable;
mod worker;

pub use config::WorkerConfig;
pub use queues::Queues;
pub use status::{ExecutorStatus, Status, StatusReader};
pub use worker::{Left, Worker};
