#![doc = include_str!("../README.md")]

mod config;
mod entry;
mod error;
mod held;
mod keeper;
mod keys;
mod link;
mod main_link;
mod nodes;
mod queue;
mod reader;
mod receive;
mod script;
mod server;
mod shared;

pub use config::{Eviction, Persistence, RedisConfig};
pub use queue::RedisQueue;
pub use server::{ServerFacts, WholeJobs};
