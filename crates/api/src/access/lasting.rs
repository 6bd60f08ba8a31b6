//! What goes on for long ends with the token that it was asked for with.

use std::time::Duration;

use futures::{StreamExt, stream};
use robata_core::{Error, ErrorKind};
use tokio::time::{Instant, sleep_until};

use super::identity::Identity;
use crate::follow::Entries;

/// A stream looks this often whether its token is still valid.
const LOOK: Duration = Duration::from_secs(2);

/// The same entries as long as the token is valid; then an error, as of anything that is cut.
pub(crate) fn while_valid(entries: Entries, who: Identity) -> Entries {
    let begin = (entries, who, Instant::now() + LOOK, false);
    stream::unfold(begin, |(mut entries, who, mut look, ended)| async move {
        if ended {
            return None;
        }
        loop {
            let entry = tokio::select! {
                // A stream that always has something does not put the look off.
                biased;
                () = sleep_until(look) => match who.still() {
                    Ok(()) => {
                        look = Instant::now() + LOOK;
                        continue;
                    }
                    Err(_) => Some(Err(cut())),
                },
                entry = entries.next() => entry,
            };
            let ended = matches!(entry, None | Some(Err(_)));
            return entry.map(|entry| (entry, (entries, who, look, ended)));
        }
    })
    .boxed()
}

fn cut() -> Error {
    let why = "the token is not valid any more";
    Error::new(ErrorKind::Unavailable, "logs.follow", why)
}
