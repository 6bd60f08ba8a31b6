#![doc = include_str!("../README.md")]

mod adapters;
mod check;
mod error;
mod file;
mod layer;
mod load;
mod provenance;
mod tables;

pub use adapters::{
    DockerSettings, ExecutorSettings, FolderSettings, LogSettings, LostAfter, MaxSettings, MemorySettings, PayloadWay,
    ProcessSettings, QueueSettings, SqliteSettings, StoreSettings,
};
pub use error::{Errors, Place, Problem};
pub use load::{Defaults, Flag, Loaded, Sources};
pub use provenance::Entry;
pub use tables::{
    DataSettings, DefinitionSettings, LimitSettings, SchedulerSettings, ServerSettings, Settings, WorkerSettings,
};
