#![doc = include_str!("../README.md")]

mod cgroup;
mod children;
mod clock;
mod config;
mod error;
mod executor;
mod folder;
mod hub;
mod limits;
mod lock;
mod order;
mod output;
mod prepare;
mod remains;
mod remove;
mod spawn;
mod stop;
mod supervisor;
mod thing;

pub use config::{Cgroups, ProcessConfig};
pub use executor::ProcessExecutor;
pub use supervisor::supervise_if_asked;
