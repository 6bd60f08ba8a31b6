//! The engine's own clock: the machine's, as a real engine on it would stamp.

use robata_core::Timestamp;

/// The wall's time.
pub(crate) fn now() -> Timestamp {
    #[expect(clippy::disallowed_methods, reason = "this is the scripted engine's clock module")]
    Timestamp::from_millis(jiff::Timestamp::now().as_millisecond())
}
