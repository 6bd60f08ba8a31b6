#![doc = include_str!("../README.md")]

mod config;
mod error;
mod lines;
mod queue;

pub use config::MemoryConfig;
pub use queue::MemoryQueue;
