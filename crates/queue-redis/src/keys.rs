//! The keys: one hash tag per installation, so that every script may touch several keys on a cluster, too.

use robata_core::job::Line;

/// The consumer group that delivers a line's messages.
pub(crate) const GROUP: &str = "robata";

/// The keys of one installation.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    tag: String,
}

impl Keys {
    pub(crate) fn new(installation: &str) -> Self {
        Self {
            tag: format!("{{robata:{installation}}}"),
        }
    }

    /// The stream of a line. Any name of a queue or an executor fits, and a slash stands in neither (PROTOCOL R3 has
    /// nothing to shorten here), so that two lines never have one key.
    pub(crate) fn stream(&self, line: &Line) -> String {
        format!("{}:line:{line}", self.tag)
    }

    /// A key under which nothing ever is.
    pub(crate) fn probe(&self) -> String {
        format!("{}:probe", self.tag)
    }

    /// The key that stands while a consumer's process lives. All consumers of one [`RedisQueue`](crate::RedisQueue)
    /// share it: a consumer's name is `RUN.NUMBER`.
    pub(crate) fn alive(&self, run: &str) -> String {
        format!("{}:alive:{run}", self.tag)
    }
}

/// The run in a consumer's name; `None` where it is not one of our names.
pub(crate) fn run_of(consumer: &str) -> Option<&str> {
    let (run, number) = consumer.rsplit_once('.')?;
    (!run.is_empty() && number.parse::<u64>().is_ok()).then_some(run)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_of_an_installation_has_its_hash_tag() {
        let keys = Keys::new("prod");
        let line = Line {
            queue: "Mails_1".parse().unwrap(),
            executor: "docker".parse().unwrap(),
        };
        assert_eq!(keys.stream(&line), "{robata:prod}:line:Mails_1/docker");
        assert_eq!(keys.alive("ab"), "{robata:prod}:alive:ab");
        assert_eq!(keys.probe(), "{robata:prod}:probe");
    }

    #[test]
    fn a_run_is_read_from_our_consumers_names_only() {
        assert_eq!(run_of("abc.12"), Some("abc"));
        for other in ["abc", "abc.", ".1", "abc.x", ""] {
            assert_eq!(run_of(other), None, "{other}");
        }
    }
}
