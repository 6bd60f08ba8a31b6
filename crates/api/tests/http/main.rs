//! The API over a real socket, with the real SQLite store and a real folder of logs.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod batch;
mod bounds;
mod catalog;
mod enqueue;
mod guard;
mod jobs;
mod logs;
mod operate;
mod run;
mod server;
mod status;
