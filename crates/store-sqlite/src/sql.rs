//! The few ways in which statements are run: cached text, many rows at once.

use std::{collections::HashMap, fmt::Write as _, sync::Arc};

use robata_core::{AttemptState, JobId, JobState, Timestamp, job::Line, row::number};
use serde::de::DeserializeOwned;
use sqlx::{
    Arguments, AssertSqlSafe, Decode, Encode, Row, Sqlite, SqliteConnection, Type,
    sqlite::{SqliteArguments, SqliteRow},
};

use crate::error::{Fault, Result};

/// Rows per statement: few texts, so that each is prepared once and kept.
const CHUNKS: [usize; 4] = [128, 32, 8, 1];

/// Texts of `INSERT`s of several rows, by head and number of rows.
#[derive(Debug, Default)]
pub(crate) struct Inserts(HashMap<(&'static str, usize), Arc<str>>);

impl Inserts {
    fn text(&mut self, head: &'static str, columns: usize, rows: usize) -> Arc<str> {
        let text = self.0.entry((head, rows)).or_insert_with(|| {
            let mut row = "(?".to_owned();
            row.push_str(&",?".repeat(columns - 1));
            row.push(')');
            let mut text = format!("{head} VALUES {row}");
            for _ in 1..rows {
                let _ = write!(text, ",{row}");
            }
            text.into()
        });
        Arc::clone(text)
    }

    /// Inserts all `rows`, each with the values that `bind` adds.
    pub(crate) async fn run<R>(
        &mut self,
        conn: &mut SqliteConnection,
        head: &'static str,
        columns: usize,
        rows: &[R],
        bind: impl Fn(&mut Values, &R) + Send,
    ) -> Result<()>
    where
        R: Sync,
    {
        let mut rest = rows;
        for size in CHUNKS {
            while rest.len() >= size {
                let (now, later) = rest.split_at(size);
                rest = later;
                let mut values = Values::default();
                values.0.reserve(size * columns, 0);
                for row in now {
                    bind(&mut values, row);
                }
                let values = values.finish()?;
                let text = self.text(head, columns, size);
                sqlx::query_with(AssertSqlSafe(text), values)
                    .execute(&mut *conn)
                    .await?;
            }
        }
        Ok(())
    }
}

/// Values of a statement, in order.
#[derive(Debug, Default)]
pub(crate) struct Values(SqliteArguments, Option<sqlx::error::BoxDynError>);

impl Values {
    /// Adds one.
    pub(crate) fn add<'t, T: Encode<'t, Sqlite> + Type<Sqlite>>(&mut self, value: T) -> &mut Self {
        if let Err(error) = self.0.add(value) {
            self.1.get_or_insert(error);
        }
        self
    }

    /// All of them.
    pub(crate) fn finish(self) -> Result<SqliteArguments> {
        match self.1 {
            None => Ok(self.0),
            Some(error) => Err(Fault::Sql(sqlx::Error::Encode(error))),
        }
    }
}

/// Ids as a JSON array of hexadecimal text, for `unhex(value)` over `json_each`.
pub(crate) fn hex_ids<'a>(ids: impl IntoIterator<Item = &'a [u8; 16]>) -> String {
    let mut text = "[".to_owned();
    for (at, id) in ids.into_iter().enumerate() {
        text.push_str(if at == 0 { "\"" } else { ",\"" });
        push_hex(&mut text, id);
        text.push('"');
    }
    text.push(']');
    text
}

/// Adds the hexadecimal digits of `id`.
pub(crate) fn push_hex(text: &mut String, id: &[u8; 16]) {
    for byte in id {
        let _ = write!(text, "{byte:02x}");
    }
}

/// Numbers as a JSON array.
pub(crate) fn numbers(numbers: impl IntoIterator<Item = i64>) -> String {
    let numbers: Vec<_> = numbers.into_iter().map(|n| n.to_string()).collect();
    format!("[{}]", numbers.join(","))
}

/// A stored word or name.
pub(crate) fn parse<T: std::str::FromStr<Err = robata_core::Error>>(text: &str) -> Result<T> {
    text.parse().map_err(bad)
}

#[expect(clippy::needless_pass_by_value, reason = "it stands in map_err")]
fn bad(error: robata_core::Error) -> Fault {
    Fault::BadRow(error.full())
}

/// Reading a row's columns.
pub(crate) trait Read {
    /// A column.
    fn col<'r, T: Decode<'r, Sqlite> + Type<Sqlite>>(&'r self, name: &str) -> Result<T>;

    /// A count or number that is never negative.
    fn number(&self, name: &str) -> Result<u32> {
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
        let bytes: &[u8] = self.col(name)?;
        bytes
            .try_into()
            .map_err(|_| Fault::BadRow(format!("{name} has {} bytes", bytes.len())))
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

impl Read for SqliteRow {
    fn col<'r, T: Decode<'r, Sqlite> + Type<Sqlite>>(&'r self, name: &str) -> Result<T> {
        Ok(self.try_get(name)?)
    }
}
