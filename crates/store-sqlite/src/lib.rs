#![doc = include_str!("../README.md")]

mod accept;
mod access;
mod act;
mod aside;
mod attempt_row;
mod catalog;
mod claim;
pub mod clock;
mod config;
mod detail;
mod due;
mod enqueue;
mod error;
mod folder;
mod format;
mod hold;
mod job_row;
mod lease;
mod limit;
mod list;
mod lost;
mod next;
mod open;
mod outbox;
mod pause;
mod prune;
mod record;
mod replay;
mod save;
mod shared;
mod sql;
#[cfg(test)]
mod steps;
mod store;
mod tx;
mod waiting;
mod writer;

pub use config::SqliteConfig;
pub use store::SqliteStore;
