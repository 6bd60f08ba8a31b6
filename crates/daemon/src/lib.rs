#![doc = include_str!("../README.md")]

mod apart;
mod container;
mod fault;
mod folder;
mod listener;
mod load;
mod local;
mod needs;
mod parts;
mod patience;
mod program;
mod running;
mod serve;
mod signals;
mod tls;
mod told;
mod waiting;

pub use apart::{apart, only_executors, only_queues};
pub use container::{end_ends_jobs, on_sigterm};
pub use fault::{Coded, Usage, message};
pub use listener::{Listener, bind};
pub use load::{Given, load};
pub use local::LocalApi;
pub use parts::{Parts, Unreached};
pub use program::run;
pub use robata_adapters::{Role, supervise_if_asked};
pub use running::{Ended, Running};
pub use signals::{Came, Signals};
pub use told::telemetry;
