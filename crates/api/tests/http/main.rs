//! The API over a real socket, with the real SQLite store and a real folder of logs.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod audit;
mod batch;
mod bounds;
mod catalog;
mod condition;
mod degraded;
mod degraded_bounds;
mod enqueue;
mod gate;
mod guard;
mod jobs;
mod logs;
mod operate;
mod policy;
mod run;
mod scope;
mod server;
mod status;
mod tokens;
mod walk;
