#![doc = include_str!("../README.md")]

mod batch;
mod client;
mod config;
mod desk;
mod error;
mod held;
mod keeper;
mod key;
mod lines;
mod message;
mod names;
mod publish;
mod queue;
mod receive;
mod server;
mod settle;
mod shared;

pub use config::SqsConfig;
pub use queue::SqsQueue;
pub use server::ServerFacts;
