//! The few ways in which statements are run and rows are read.

use robata_core::{AttemptState, JobId, JobState, Timestamp, job::Line, row::number};
use serde::de::DeserializeOwned;
use sqlx::{
    Decode, Postgres, Row as _, SqlSafeStr, Type,
    postgres::{PgArguments, PgRow},
    query::Query,
};
use uuid::Uuid;

use crate::error::{Fault, Result};

/// A statement, prepared without a name: a pooler in transaction mode gives the next transaction another connection, which
/// knows no statement of ours. Only within a transaction: else preparing and running are two, each on a connection of its own.
pub(crate) fn q<'q>(sql: impl SqlSafeStr) -> Query<'q, Postgres, PgArguments> {
    sqlx::query(sql).persistent(false)
}

/// A bound as the database takes it.
pub(crate) fn limit(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// Words for a person: the database keeps no NUL in text.
pub(crate) fn text(words: &str) -> String {
    if words.contains('\0') {
        words.replace('\0', "\u{FFFD}")
    } else {
        words.to_owned()
    }
}

/// A stored word or name.
fn parse<T: std::str::FromStr<Err = robata_core::Error>>(text: &str) -> Result<T> {
    text.parse().map_err(bad)
}

#[expect(clippy::needless_pass_by_value, reason = "it stands in map_err")]
fn bad(error: robata_core::Error) -> Fault {
    Fault::BadRow(error.full())
}

/// Reading a row's columns.
pub(crate) trait Read {
    /// A column.
    fn col<'r, T: Decode<'r, Postgres> + Type<Postgres>>(&'r self, name: &str) -> Result<T>;

    /// A count or number that is never negative.
    fn number(&self, name: &str) -> Result<u32> {
        Ok(u32::try_from(self.col::<i32>(name)?).unwrap_or_default())
    }

    /// The same of 64 bits.
    fn long(&self, name: &str) -> Result<u32> {
        Ok(u32::try_from(self.col::<i64>(name)?).unwrap_or(u32::MAX))
    }

    /// A time.
    fn time(&self, name: &str) -> Result<Timestamp> {
        Ok(Timestamp::from_millis(self.col(name)?))
    }

    /// A time that may be missing.
    fn time_or_none(&self, name: &str) -> Result<Option<Timestamp>> {
        Ok(self.col::<Option<i64>>(name)?.map(Timestamp::from_millis))
    }

    /// An id of 16 bytes.
    fn id_bytes(&self, name: &str) -> Result<[u8; 16]> {
        Ok(*self.col::<Uuid>(name)?.as_bytes())
    }

    /// A job's id.
    fn job_id(&self, name: &str) -> Result<JobId> {
        Ok(JobId::from_bytes(self.id_bytes(name)?))
    }

    /// A word or name.
    fn word<T: std::str::FromStr<Err = robata_core::Error>>(&self, name: &str) -> Result<T> {
        parse(self.col::<&str>(name)?)
    }

    /// A word or name that may be missing.
    fn word_or_none<T: std::str::FromStr<Err = robata_core::Error>>(&self, name: &str) -> Result<Option<T>> {
        self.col::<Option<&str>>(name)?.map(parse).transpose()
    }

    /// A job's state.
    fn job_state(&self, name: &str) -> Result<JobState> {
        number::job(self.col(name)?).map_err(bad)
    }

    /// An attempt's state.
    fn attempt_state(&self, name: &str) -> Result<AttemptState> {
        number::attempt(self.col(name)?).map_err(bad)
    }

    /// A JSON document.
    fn json<T: DeserializeOwned>(&self, name: &str) -> Result<T> {
        Ok(serde_json::from_str(self.col::<&str>(name)?)?)
    }

    /// A JSON document that may be missing.
    fn json_or_none<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        Ok(self.col::<Option<&str>>(name)?.map(serde_json::from_str).transpose()?)
    }

    /// The columns `queue` and `executor`.
    fn line(&self) -> Result<Line> {
        Ok(Line {
            queue: self.word("queue")?,
            executor: self.word("executor")?,
        })
    }
}

impl Read for PgRow {
    fn col<'r, T: Decode<'r, Postgres> + Type<Postgres>>(&'r self, name: &str) -> Result<T> {
        self.try_get(name).map_err(|error| match error {
            sqlx::Error::ColumnDecode { .. } | sqlx::Error::ColumnNotFound(_) | sqlx::Error::Decode(_) => {
                Fault::BadRow(error.to_string())
            }
            other => Fault::Sql(other),
        })
    }
}
