#![doc = include_str!("../README.md")]

mod access;
mod catalog;
pub mod definitions;
mod error;
mod http;
mod jobs;
mod logs;
mod status;

pub use robata_api_types::{
    self as types, App, ApplyAnswer, ApplyRequest, Attempt, BatchAnswer, BatchItem, BatchRequest, Definition,
    EnqueueRequest, Health, Job, JobList, LogEntry, Need, NewTokenRequest, Place, PlanItem, Problem, Queue, Ready,
    RunRequest, Span, Word, Worker,
};

pub use self::{
    access::AuditFilter,
    catalog::{ApplyOptions, Tagged},
    error::ClientError,
    http::Client,
    jobs::{Acted, Enqueued, JobFilter, PATIENCE},
    logs::LogsRequest,
};
