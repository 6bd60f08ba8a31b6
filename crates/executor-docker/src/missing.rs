//! What is known to be missing from a log: carried in the position, so that it is still known after a restart.

/// Output that is not there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Missing {
    /// The engine has thrown it away before it was read.
    pub(crate) thrown_away: bool,
    /// The engine was started anew while the container ran: it may have lost what it held.
    pub(crate) restarted: bool,
}

impl Missing {
    /// As it stands in a position.
    pub(crate) fn number(self) -> u8 {
        u8::from(self.thrown_away) | u8::from(self.restarted) << 1
    }

    /// From a position.
    pub(crate) fn read(number: u8) -> Option<Self> {
        (number <= 3).then_some(Self {
            thrown_away: number & 1 != 0,
            restarted: number & 2 != 0,
        })
    }

    /// The words for a person; none where nothing is missing.
    pub(crate) fn words(self) -> Option<&'static str> {
        match (self.thrown_away, self.restarted) {
            (true, _) => Some("the engine has thrown away output before it was read (setting `log_max_bytes`)"),
            (false, true) => Some(
                "the engine was started anew while the container ran, and loses what it holds at that moment: some \
                 output may be missing",
            ),
            (false, false) => None,
        }
    }
}
