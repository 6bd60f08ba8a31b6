//! What a process is for.

/// What a process is for: it decides how many connections a store takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Everything in one process.
    All,
    /// A master.
    Master,
    /// A worker.
    Worker,
}
