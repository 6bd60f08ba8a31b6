//! The scripts that the server runs: each does in one step what must not be half done.

use std::sync::LazyLock;

use redis::Script;

macro_rules! script {
    ($(#[$doc:meta])* $name:ident, $($file:literal),+) => {
        $(#[$doc])*
        pub(crate) static $name: LazyLock<Script> =
            LazyLock::new(|| Script::new(concat!($(include_str!(concat!("lua/", $file, ".lua"))),+)));
    };
}

script!(
    /// Takes what there is from many lines, each by its share.
    TAKE, "take"
);
script!(
    /// Acknowledges and deletes entries.
    SETTLE, "settle"
);
script!(
    /// Says that a process lives.
    SAY_ALIVE, "say_alive"
);
script!(
    /// Publishes entries again and settles them.
    GIVE_BACK, "republish", "give_back"
);
script!(
    /// Publishes again what a dead consumer held.
    BURY, "republish", "bury"
);
script!(
    /// Deletes a consumer that holds nothing.
    FORGET, "forget"
);
script!(
    /// The broker key, made where there is none.
    BROKER_KEY, "broker_key"
);
script!(
    /// How much is in a line.
    DEPTH, "depth"
);
