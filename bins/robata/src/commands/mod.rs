//! The client's side: one file for each command, all of them over HTTP.

pub(crate) mod apply;
pub(crate) mod apps;
pub(crate) mod audit;
pub(crate) mod columns;
pub(crate) mod config;
pub(crate) mod enqueue;
pub(crate) mod jobs;
pub(crate) mod list;
pub(crate) mod queues;
pub(crate) mod run;
pub(crate) mod shell;
pub(crate) mod show;
pub(crate) mod store;
pub(crate) mod tokens;
pub(crate) mod workers;
