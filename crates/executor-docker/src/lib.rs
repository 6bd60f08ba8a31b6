#![doc = include_str!("../README.md")]

mod boot;
mod config;
mod container;
mod create;
mod credential_helper;
mod credentials;
mod engine;
mod error;
mod events;
mod executor;
mod image;
mod import;
mod init;
mod keep;
mod killed;
mod lifecycle;
mod log_lines;
mod missing;
mod output;
mod outside;
mod payload;
mod realm;
mod restart;
mod state;

pub use config::{DockerConfig, PayloadWay};
pub use executor::DockerExecutor;
pub use import::import_image;
