#![doc = include_str!("../README.md")]

mod chunk;
mod config;
mod cursor;
mod error;
mod log_store;
mod merge;
mod name;
mod objects;
mod open;
mod plan;
mod private;
mod reader;
#[cfg(feature = "s3")]
mod s3;
mod seal;

pub use config::LogsConfig;
pub use log_store::Logs;
#[cfg(feature = "s3")]
pub use s3::S3Config;
