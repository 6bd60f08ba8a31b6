//! The names of what an installation has at SQS (PROTOCOL R2, R3), and the tags beside them.

use robata_core::{
    job::Line,
    name::{NameRule, fit},
};

/// What the names of all queues of all installations begin with.
pub(crate) const PREFIX: &str = "robata-";
/// Longer names of an installation would leave no room for a line's.
pub(crate) const MAX_INSTALLATION: usize = 48;

/// The tag with the broker key.
pub(crate) const KEY_TAG: &str = "robata:key";
/// The tag with a line's full name, of which the queue's name shows only the beginning.
pub(crate) const LINE_TAG: &str = "robata:line";
/// The tag with the installation.
pub(crate) const INSTALLATION_TAG: &str = "robata:installation";

/// At most 80 of these (<https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-queues.html>).
const RULE: NameRule = NameRule {
    max_bytes: 80,
    allowed: |byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'),
    allowed_at_ends: |byte| byte.is_ascii_alphanumeric(),
    lower_case: false,
};

/// The names of one installation.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    installation: String,
}

impl Names {
    pub(crate) fn new(installation: &str) -> Self {
        Self {
            installation: installation.to_owned(),
        }
    }

    pub(crate) fn installation(&self) -> &str {
        &self.installation
    }

    /// The queue of a line. The slash may not stand in it, so that every name ends in digits of the whole of it.
    pub(crate) fn line(&self, line: &Line) -> String {
        fit(&format!("{PREFIX}{}-{line}", self.installation), RULE)
    }

    /// A queue to try things with; nobody ever had one of this name.
    pub(crate) fn trial(&self) -> String {
        let unique = uuid::Uuid::new_v4().simple().to_string();
        fit(&format!("{PREFIX}{}/trial/{unique}", self.installation), RULE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(queue: &str, executor: &str) -> Line {
        Line {
            queue: queue.parse().unwrap(),
            executor: executor.parse().unwrap(),
        }
    }

    #[test]
    fn like_names_of_lines_have_queues_of_their_own() {
        let names = Names::new("0199f0a2-7d1c-7bd3-9d5e-1c2b3a4d5e6f");
        let long = "q".repeat(63);
        let lines = [
            line("a-b", "c"),
            line("a", "b-c"),
            line("A", "b-c"),
            line("a_b", "c"),
            line(&long, "e1"),
            line(&long, "e2"),
            Line::accept(),
        ];
        let all: std::collections::BTreeSet<_> = lines.iter().map(|line| names.line(line)).collect();
        assert_eq!(all.len(), lines.len(), "{all:?}");
        for name in &all {
            assert!(name.len() <= 80 && name.starts_with("robata-0199f0a2-"), "{name}");
            assert!(name.bytes().all(RULE.allowed), "{name}");
        }
        assert!(names.line(&lines[0]).contains("-a-b-c-"), "{}", names.line(&lines[0]));
    }

    #[test]
    fn installations_do_not_share_queues() {
        let line = line("mails", "docker");
        assert_ne!(Names::new("a").line(&line), Names::new("b").line(&line));
        assert_ne!(Names::new("a").trial(), Names::new("a").trial());
    }
}
