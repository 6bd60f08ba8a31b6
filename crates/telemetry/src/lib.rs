#![doc = include_str!("../README.md")]

mod log;
mod metrics;

pub use log::{LogForm, log};
pub use metrics::{Error, Metrics};
