#![doc = include_str!("../README.md")]

mod config;
mod connect;
mod error;
mod greet;
mod held;
mod key;
mod lines;
mod link;
mod look;
mod message;
mod names;
mod publish;
mod queue;
mod receive;
mod server;
mod settle;
mod shared;
mod take;

pub use config::{Identity, RabbitMqConfig};
pub use queue::RabbitMqQueue;
pub use server::ServerFacts;
