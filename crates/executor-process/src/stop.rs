//! Waiting for an end: `stop` and `remove` answer only when it is true.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::{
    error::{Fault, Result},
    executor::Engine,
    hub::Ends,
    thing::{Seen, Thing},
};

/// How long a supervisor may take for what needs no grace period. Its machine may be very busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// An end is told by the kernel; to look now and then costs little and misses nothing.
const LOOK: Duration = Duration::from_millis(500);

/// Waits until `is_over`, for at most `grace` and some more.
pub(crate) async fn until(
    engine: &Engine,
    thing: &Thing,
    ends: &mut Ends,
    grace: Duration,
    is_over: fn(&Seen) -> bool,
) -> Result<()> {
    let begun = Instant::now();
    let patience = grace.saturating_add(PATIENCE);
    loop {
        ends.mark_seen();
        let looked = thing.clone();
        if is_over(&engine.blocking(move |_| looked.look()).await?) {
            return Ok(());
        }
        if begun.elapsed() > patience {
            return Err(Fault::Unanswered {
                handle: thing.handle.0.clone(),
                waited: patience,
            });
        }
        // Told or not, the next look decides.
        let _told = timeout(LOOK, ends.next()).await;
    }
}
