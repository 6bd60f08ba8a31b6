#![doc = include_str!("../README.md")]

pub mod access;
pub mod catalog;
pub mod enqueue;
pub mod job;
pub mod logs;
pub mod operate;
pub mod problem;
pub mod span;
pub mod status;
pub mod strict;
pub mod word;

pub use self::{
    access::{AuditEntry, AuditList, NewTokenRequest, Token, TokenList, TokenMade},
    catalog::{App, AppList, ApplyAnswer, ApplyRequest, Definition, DefinitionList, PlanItem, RunRequest},
    enqueue::{BatchAnswer, BatchItem, BatchRequest, EnqueueRequest},
    job::{Attempt, AttemptLog, Job, JobList, Waiting},
    logs::{Gap, LogEntry, LogLine},
    operate::{LoseRequest, LostAttempt, LostList, Pause, PauseRequest, SetAside, SetAsideList},
    problem::{Place, Problem},
    span::Span,
    status::{Health, Need, Queue, QueueLine, QueueList, Ready, Worker, WorkerExecutor, WorkerList},
    word::Word,
};
