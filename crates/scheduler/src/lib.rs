#![doc = include_str!("../README.md")]

mod accept;
mod config;
mod due;
mod lines;
mod metrics;
mod outbox;
mod part;
mod prune;
mod repair;
mod scheduler;

pub use config::SchedulerConfig;
pub use scheduler::Scheduler;
