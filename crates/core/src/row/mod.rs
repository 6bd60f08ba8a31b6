//! What a store keeps of a job and of an attempt, and the steps that change them: pure, so that every store takes the same
//! ones. In one transaction a store reads the rows under their locks, takes a step, and saves the rows that changed; a step
//! that is refused leaves them as they were.

mod act;
mod attempt;
mod audit;
mod claim;
mod job;
mod limit;
pub mod number;
mod tally;
mod write;

pub use attempt::AttemptRow;
pub use audit::Deed;
pub use claim::{Candidate, Effective, Fit};
pub use job::JobRow;
pub use limit::{Scope, limits};
pub use tally::{Counts, Tally};
pub use write::{Touched, end};

use crate::{ExecutorName, Format, Timestamp, definition::Catalog};

/// What a step needs of a store's transaction, and what it leaves to be told after the commit.
pub trait Transaction {
    /// The store's time at the transaction's begin.
    fn now(&self) -> Timestamp;

    /// The catalog as this transaction sees it.
    fn catalog(&self) -> &Catalog;

    /// The executor of definitions that name none.
    fn default_executor(&self) -> Option<&ExecutorName>;

    /// The format in use, in which a request is frozen (PROTOCOL V1).
    fn format(&self) -> Format;

    /// What follows from its steps.
    fn tally(&mut self) -> &mut Tally;

    /// A stamp for a row that has an earlier one: never before it (PROTOCOL T1).
    fn stamp(&self, earlier: Timestamp) -> Timestamp {
        self.now().max(earlier)
    }
}
