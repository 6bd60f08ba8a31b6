//! The names of objects: an attempt's folder, and in it chunks and seals. All that a reader must know to plan stands in
//! the names, so that one listing is enough.

use object_store::path::Path;
use robata_core::{AttemptId, Epoch, executor::Stream};

/// Where everything of an attempt is: `SHARD/JOB/NUMBER`. The shard keeps folders small: 256 of them, by the random end
/// of the job's id (its beginning is a time, and would put all jobs of a day into one).
pub(crate) fn folder(attempt: AttemptId) -> Path {
    let job = attempt.job.to_string();
    Path::from_iter([&job[job.len() - 2..], &job, &attempt.number.to_string()])
}

/// A chunk, by its name. The derived order is the one of a stream's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ChunkName {
    pub(crate) stream: Stream,
    /// Its first byte's place in the stream.
    pub(crate) offset: u64,
    /// The place after its last byte.
    pub(crate) end: u64,
    /// The writer's epoch.
    pub(crate) epoch: Epoch,
    /// Counts an attempt's chunks in the order they were written, over both streams.
    pub(crate) sequence: u64,
}

impl ChunkName {
    /// Of two chunks with the same byte the one of higher rank counts.
    pub(crate) fn rank(&self) -> (Epoch, u64) {
        (self.epoch, self.sequence)
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.end - self.offset
    }

    pub(crate) fn file_name(&self) -> String {
        let Self {
            offset,
            end,
            epoch,
            sequence,
            ..
        } = self;
        format!(
            "{}-{offset:020}-{end:020}-{epoch:010}-{sequence:010}.chunk",
            self.stream.as_str()
        )
    }

    pub(crate) fn path(&self, attempt: AttemptId) -> Path {
        folder(attempt).join(self.file_name())
    }

    /// Reads a name; `None` where it is not one of ours.
    pub(crate) fn parse(file_name: &str) -> Option<Self> {
        let mut parts = file_name.strip_suffix(".chunk")?.split('-');
        let word = parts.next()?;
        let name = Self {
            stream: Stream::ALL.into_iter().find(|stream| stream.as_str() == word)?,
            offset: parts.next()?.parse().ok()?,
            end: parts.next()?.parse().ok()?,
            epoch: parts.next()?.parse().ok()?,
            sequence: parts.next()?.parse().ok()?,
        };
        (parts.next().is_none() && name.offset < name.end).then_some(name)
    }
}

/// The name of a seal.
pub(crate) fn seal_file_name(epoch: Epoch) -> String {
    format!("seal-{epoch:010}.json")
}

pub(crate) fn seal_path(attempt: AttemptId, epoch: Epoch) -> Path {
    folder(attempt).join(seal_file_name(epoch))
}

/// The epoch of a seal's name.
pub(crate) fn parse_seal(file_name: &str) -> Option<Epoch> {
    file_name.strip_prefix("seal-")?.strip_suffix(".json")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_name_comes_back_as_it_was() {
        let name = ChunkName {
            stream: Stream::Stderr,
            offset: 7,
            end: u64::MAX,
            epoch: 3,
            sequence: 12,
        };
        assert_eq!(ChunkName::parse(&name.file_name()), Some(name));
        for other in [
            "stdout-1-1-1-1.chunk",
            "stdout-1-2-1.chunk",
            "seal-0000000001.json",
            "x-1-2-1-1.chunk",
        ] {
            assert_eq!(ChunkName::parse(other), None, "{other}");
        }
        assert_eq!(parse_seal(&seal_file_name(4)), Some(4));
        assert_eq!(parse_seal("seal-x.json"), None);
    }

    #[test]
    fn attempts_of_one_job_share_a_folder_and_jobs_are_spread_by_their_random_end() {
        let attempt = AttemptId {
            job: "01920000-0000-7000-8000-0000000000af".parse().unwrap(),
            number: 12,
        };
        assert_eq!(folder(attempt).as_ref(), "af/01920000-0000-7000-8000-0000000000af/12");
    }
}
