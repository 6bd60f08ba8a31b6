//! The names of queues in the broker: one prefix per installation, so that one permission covers them all.

use robata_core::job::Line;

/// The longest name of an installation: with it the longest line still fits into AMQP's 255 bytes.
pub(crate) const MAX_INSTALLATION: usize = 64;

/// The names of one installation.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    prefix: String,
}

impl Names {
    pub(crate) fn new(installation: &str) -> Self {
        Self {
            prefix: format!("robata.{installation}"),
        }
    }

    /// The quorum queue of a line. Any name of a queue or an executor fits, and a slash stands in neither (PROTOCOL R3
    /// has nothing to shorten here), so that two lines never have one name.
    pub(crate) fn line(&self, line: &Line) -> String {
        format!("{}.line.{line}", self.prefix)
    }

    /// The stream whose first message is the line's broker key.
    pub(crate) fn key(&self, line: &Line) -> String {
        format!("{}.key.{line}", self.prefix)
    }

    /// The queue by which one process at a time makes the line.
    pub(crate) fn lock(&self, line: &Line) -> String {
        format!("{}.lock.{line}", self.prefix)
    }

    /// A queue that is there for a moment only, to try something; `about` is what is tried.
    pub(crate) fn trial(&self, about: &str) -> String {
        format!("{}.trial.{about}.{}", self.prefix, uuid::Uuid::new_v4().simple())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_an_installation_has_its_prefix_and_fits() {
        let names = Names::new("prod");
        let line = Line {
            queue: "Mails_1".parse().unwrap(),
            executor: "docker".parse().unwrap(),
        };
        assert_eq!(names.line(&line), "robata.prod.line.Mails_1/docker");
        assert_eq!(names.key(&line), "robata.prod.key.Mails_1/docker");
        assert!(names.trial("limit").starts_with("robata.prod.trial.limit."));
        let longest = Line {
            queue: "q".repeat(63).parse().unwrap(),
            executor: "e".repeat(63).parse().unwrap(),
        };
        assert!(Names::new(&"i".repeat(MAX_INSTALLATION)).line(&longest).len() <= 255);
    }
}
