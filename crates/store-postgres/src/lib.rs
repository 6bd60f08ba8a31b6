#![doc = include_str!("../README.md")]

mod accept;
mod access;
mod act;
mod adopt;
mod aside;
mod attempt_row;
mod catalog;
mod claim;
mod config;
mod conn;
#[cfg(test)]
mod connection_tests;
mod db;
mod detail;
mod direct;
mod due;
mod enqueue;
mod error;
mod facts;
mod format;
mod group;
mod insert;
mod job_row;
mod lease;
mod limit;
mod list;
mod lost;
mod migrate;
mod next;
mod notify;
mod open;
mod outbox;
mod pause;
mod prune;
mod record;
mod replay;
mod save;
mod shared;
mod sql;
mod store;
mod tx;
mod waiting;

pub use config::{Listen, Migrate, PostgresConfig};
pub use facts::{Facts, facts};
pub use migrate::{Migrated, migrate};
pub use store::PostgresStore;
