//! The client's side: one file for each command, all of them over HTTP.

pub(crate) mod apply;
pub(crate) mod apps;
pub(crate) mod config;
pub(crate) mod enqueue;
pub(crate) mod jobs;
pub(crate) mod queues;
pub(crate) mod run;
pub(crate) mod show;
pub(crate) mod store;
pub(crate) mod workers;
