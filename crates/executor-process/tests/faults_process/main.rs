//! What only processes can show: killed supervisors and workers, limits of the system, other users, a full disk.
//! Some tests need root and control groups that can be written; they say so where they fail for want of them.

#![expect(clippy::unwrap_used, reason = "a test's helpers are part of the test")]

mod faults;
mod limits;
mod place;
