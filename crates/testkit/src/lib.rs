#![doc = include_str!("../README.md")]

pub mod case;
pub mod checker;
pub mod engine;
pub mod executor;
pub mod faulty_queue;
pub mod faulty_store;
pub mod gate;
mod http;
pub mod log_store;
pub mod program;
pub mod queue;
pub mod rabbitmq;
pub mod store;

pub use http::http;
