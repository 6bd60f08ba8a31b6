//! The log: lines on standard error.

use tracing_subscriber::EnvFilter;

/// The form of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogForm {
    /// For people.
    #[default]
    Text,
    /// One JSON document a line, with `timestamp`, `level`, `target`, `message` and the line's own fields.
    Json,
}

/// Sends the log to standard error: the lines that RUST_LOG asks for, else those of `filter`.
///
/// A filter that cannot be read is `info`, and said so. Where a log is set up already, as by a test that starts two
/// programs in one process, that one stays.
pub fn log(form: LogForm, filter: &str) {
    let (chosen, wrong) = match EnvFilter::try_from_default_env() {
        Ok(chosen) => (chosen, None),
        Err(_) => match EnvFilter::try_new(filter) {
            Ok(chosen) => (chosen, None),
            Err(error) => (EnvFilter::new("info"), Some(error)),
        },
    };
    let lines = tracing_subscriber::fmt()
        .with_env_filter(chosen)
        .with_writer(std::io::stderr)
        .with_ansi(false);
    let _already = match form {
        LogForm::Text => lines.try_init(),
        LogForm::Json => lines.json().flatten_event(true).with_current_span(false).try_init(),
    };
    if let Some(error) = wrong {
        tracing::warn!(%error, "the log's filter cannot be read; it is info");
    }
}
