//! What only processes can show: killed supervisors and workers, limits of the system, other users, a full disk.
//! Some tests need root and control groups that can be written; they say so where they fail for want of them.

mod faults;
mod limits;
mod place;
