//! The log: lines on standard error.

use tracing::{Level, Metadata};
use tracing_subscriber::{
    EnvFilter, Layer,
    filter::{FilterExt, filter_fn},
    fmt,
    layer::SubscriberExt,
    registry,
    util::SubscriberInitExt,
};

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
    let chosen = chosen.and(filter_fn(may_be_told));
    let lines = fmt::layer().with_writer(std::io::stderr).with_ansi(false);
    let _already = match form {
        LogForm::Text => registry().with(lines.with_filter(chosen)).try_init(),
        LogForm::Json => {
            let lines = lines.json().flatten_event(true).with_current_span(false);
            registry().with(lines.with_filter(chosen)).try_init()
        }
    };
    if let Some(error) = wrong {
        tracing::warn!(%error, "the log's filter cannot be read; it is info");
    }
}

/// Below `info` the client of Docker's API prints requests and answers whole, and with them what is never logged: payloads,
/// environments, secrets, output. The client of RabbitMQ prints messages that come back, as a warning; whatever else it has to
/// say it answers to its caller. Amazon's SDK prints requests below `info`, too. No filter brings that out.
fn may_be_told(line: &Metadata<'_>) -> bool {
    match line.target().split("::").next() {
        Some("bollard") => *line.level() <= Level::INFO,
        Some("lapin") => false,
        Some(target) if target.starts_with("aws_") => *line.level() <= Level::INFO,
        _ => true,
    }
}
