//! What a statement costs, for tests: the steps of SQLite's virtual machine, which no busy machine changes.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use sqlx::SqliteConnection;

/// Counts from here until [`Steps::end`].
pub(crate) struct Steps(Arc<AtomicU64>);

impl Steps {
    pub(crate) async fn begin(conn: &mut SqliteConnection) -> Self {
        let count = Arc::new(AtomicU64::new(0));
        let ours = Arc::clone(&count);
        let step = move || {
            ours.fetch_add(1, Ordering::Relaxed);
            true
        };
        conn.lock_handle().await.unwrap().set_progress_handler(10, step);
        Self(count)
    }

    /// Tens of steps.
    pub(crate) async fn end(self, conn: &mut SqliteConnection) -> u64 {
        conn.lock_handle().await.unwrap().remove_progress_handler();
        self.0.load(Ordering::Relaxed)
    }
}

/// A job of `app`, its queue chosen, that runs a definition of its own.
pub(crate) fn job(app: &str, name: &str, queue: &str, key: Option<String>) -> robata_core::job::NewJob {
    robata_core::job::NewJob {
        id: robata_core::JobId::new(),
        app: app.parse().unwrap(),
        job: name.parse().unwrap(),
        line: robata_core::job::Line {
            queue: queue.parse().unwrap(),
            executor: "process".parse().unwrap(),
        },
        queue_chosen: true,
        payload: robata_core::Payload::null(),
        labels: Default::default(),
        env: Default::default(),
        priority: 0,
        when: robata_core::job::When::Now,
        expires_in: None,
        key: key.map(|key| robata_core::job::Key { key, request: [0; 32] }),
        max_attempts: 1,
        definition: Some(Box::default()),
        traceparent: None,
    }
}
