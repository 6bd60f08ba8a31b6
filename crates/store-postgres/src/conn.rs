//! A transaction's connection: the one place that knows whether its statements have names.

use std::time::Duration;

use futures::{future::BoxFuture, stream::BoxStream};
use sqlx::{
    Describe, Either, Execute, Executor, PgConnection, Postgres, SqlStr,
    error::BoxDynError,
    pool::PoolConnection,
    postgres::{PgArguments, PgQueryResult, PgRow, PgStatement, PgTypeInfo},
};
use tokio::{runtime::Handle, time::timeout};

/// How long a connection that is given back may take to say that it is well.
const WELL: Duration = Duration::from_secs(2);

/// A connection of the pool. Where it leads to one server process, a statement is prepared by name at its first use, and
/// takes one round trip and no planning from then on; else (see [`crate::sql::q`]) it has no name.
#[derive(Debug)]
pub(crate) struct Conn {
    inner: PoolConnection<Postgres>,
    named: bool,
    closes: bool,
}

impl Drop for Conn {
    /// The pool asks a connection that comes back whether it is well, keeps its place until the answer, and waits for that
    /// without end: of a server that is gone without a word, until the kernel gives up, a quarter of an hour later.
    fn drop(&mut self) {
        // One that is closed has its own limit; without a runtime there is nobody to wait.
        if let (false, Ok(runtime)) = (self.closes, Handle::try_current()) {
            let returning = self.inner.return_to_pool();
            runtime.spawn(async move {
                // Dropped when the time is over: closed, and its place is free.
                let _ = timeout(WELL, returning).await;
            });
        }
    }
}

impl Conn {
    pub(crate) fn new(inner: PoolConnection<Postgres>) -> Self {
        Self {
            inner,
            named: false,
            closes: false,
        }
    }

    /// From here on statements have names.
    pub(crate) fn name_statements(&mut self) {
        self.named = true;
    }

    /// It is not to be used by anybody else.
    pub(crate) fn close_on_drop(&mut self) {
        self.closes = true;
        self.inner.close_on_drop();
    }

    pub(crate) fn inner(&mut self) -> &mut PgConnection {
        &mut self.inner
    }
}

/// A query, prepared by name or not.
struct Prepared<E> {
    query: E,
    named: bool,
}

impl<'q, E: Execute<'q, Postgres>> Execute<'q, Postgres> for Prepared<E> {
    fn sql(self) -> SqlStr {
        self.query.sql()
    }

    fn statement(&self) -> Option<&PgStatement> {
        self.query.statement()
    }

    fn take_arguments(&mut self) -> Result<Option<PgArguments>, BoxDynError> {
        self.query.take_arguments()
    }

    fn persistent(&self) -> bool {
        self.named
    }
}

impl<'c> Executor<'c> for &'c mut Conn {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, sqlx::Result<Either<PgQueryResult, PgRow>>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let named = self.named;
        self.inner().fetch_many(Prepared { query, named })
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, sqlx::Result<Option<PgRow>>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let named = self.named;
        self.inner().fetch_optional(Prepared { query, named })
    }

    fn prepare_with<'e>(self, sql: SqlStr, parameters: &'e [PgTypeInfo]) -> BoxFuture<'e, sqlx::Result<PgStatement>>
    where
        'c: 'e,
    {
        self.inner().prepare_with(sql, parameters)
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, sqlx::Result<Describe<Postgres>>>
    where
        'c: 'e,
    {
        self.inner().describe(sql)
    }
}
