#![doc = include_str!("../README.md")]

mod adopt;
mod attempt;
mod backoff;
mod clean;
mod clock;
mod config;
mod engine;
mod finalise;
mod follow;
mod held;
mod lease;
mod part;
mod pump;
mod receive;
mod recorder;
mod shared;
mod slots;
mod start;
mod worker;

pub use config::WorkerConfig;
pub use worker::{Left, Worker};
