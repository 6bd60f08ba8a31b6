//! A definitions document, checked whole: every mistake is reported with its path.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;
use serde_json::{Map, Value};

use super::{Definition, PayloadEnv, QueueSettings, Retention, Security, docker, variables};
use crate::name::{AppName, JobName, QueueName};

/// A JSON object as it was written: one layer of a definition.
pub type Options = Map<String, Value>;

/// The longest duration that a definition may name.
const LONGEST: Duration = Duration::from_secs(3650 * 24 * 3600);

/// The longest description, in characters.
const LONGEST_DESCRIPTION: usize = 1_000;

/// One mistake in a document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Where, as keys and positions from the document's root.
    pub path: Vec<String>,
    /// A stable word.
    pub code: &'static str,
    /// What is wrong, and what to do.
    pub message: String,
}

/// What a document says, each part checked by itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Document {
    /// `[queues.X]`.
    pub queues: BTreeMap<QueueName, QueueSettings>,
    /// `[defaults]`, if it is there.
    pub defaults: Option<Options>,
    /// `[apps.X]`.
    pub apps: BTreeMap<AppName, AppDocument>,
}

/// `[apps.X]`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AppDocument {
    /// What it is, for people.
    pub description: Option<String>,
    /// A job's keys, for all jobs of the app.
    pub options: Options,
    /// At most so many attempts of the app at once.
    pub max_running: Option<u32>,
    /// How long ended jobs and logs are kept.
    pub retention: Retention,
    /// `[apps.X.jobs.Y]`.
    pub jobs: BTreeMap<JobName, Options>,
}

impl Document {
    /// Reads a document, or reports every mistake in it.
    pub fn read(document: &Value) -> Result<Self, Vec<Problem>> {
        let mut reader = Reader::default();
        let read = reader.document(document);
        if reader.problems.is_empty() {
            Ok(read)
        } else {
            Err(reader.problems)
        }
    }
}

/// Checks one layer of a job's keys; paths are below `path`.
pub fn check_options(options: &Options, path: &[&str]) -> Vec<Problem> {
    let mut reader = Reader {
        problems: Vec::new(),
        path: path.iter().map(|&key| key.to_owned()).collect(),
    };
    for (key, value) in options {
        reader.at(key, |reader| reader.option(key, value));
    }
    reader.problems
}

/// Merges layers from the outermost in: tables key by key, everything else replaces.
#[must_use]
pub fn merge(layers: &[&Options]) -> Options {
    let mut merged = Options::new();
    for layer in layers {
        merge_into(&mut merged, layer);
    }
    merged
}

fn merge_into(below: &mut Options, above: &Options) {
    for (key, value) in above {
        match (below.get_mut(key), value) {
            (Some(Value::Object(below)), Value::Object(above)) => merge_into(below, above),
            _ => {
                below.insert(key.clone(), value.clone());
            }
        }
    }
}

/// The whole definition of merged layers, checked across its keys; paths are below `path`.
pub fn definition(merged: Options, path: &[&str]) -> Result<Definition, Vec<Problem>> {
    let problem = |keys: &[String], code, message: String| {
        let path = path
            .iter()
            .map(|&key| key.to_owned())
            .chain(keys.iter().cloned())
            .collect();
        vec![Problem { path, code, message }]
    };
    let read: Definition =
        serde_json::from_value(Value::Object(merged)).map_err(|error| problem(&[], "invalid", error.to_string()))?;
    if read.image.is_none() && read.command.as_ref().is_none_or(Vec::is_empty) && read.entrypoint.is_none() {
        return Err(problem(
            &[],
            "nothing_to_run",
            "neither an image nor a command: set `image`, or `command` for a process".into(),
        ));
    }
    let is_root = read
        .user
        .as_deref()
        .is_some_and(|user| matches!(user.split(':').next(), Some("root" | "0")));
    if read.security == Security::Restricted && is_root {
        return Err(problem(
            &["user".to_owned()],
            "policy",
            "security = \"restricted\" does not run as root".into(),
        ));
    }
    let wrong: Vec<_> = variables::set_twice(&read)
        .into_iter()
        .chain(docker::across(&read))
        .flat_map(|(keys, code, message)| problem(&keys, code, message))
        .collect();
    if wrong.is_empty() { Ok(read) } else { Err(wrong) }
}

#[derive(Default)]
struct Reader {
    problems: Vec<Problem>,
    path: Vec<String>,
}

impl Reader {
    fn problem(&mut self, code: &'static str, message: impl Into<String>) {
        self.problems.push(Problem {
            path: self.path.clone(),
            code,
            message: message.into(),
        });
    }

    fn at<T>(&mut self, key: &str, read: impl FnOnce(&mut Self) -> T) -> T {
        self.path.push(key.to_owned());
        let read = read(self);
        self.path.pop();
        read
    }

    fn table<'v>(&mut self, value: &'v Value) -> Option<&'v Options> {
        let table = value.as_object();
        if table.is_none() {
            self.problem("wrong_type", format!("must be a table, not {}", kind_of(value)));
        }
        table
    }

    fn unknown(&mut self, key: &str, known: &[&str]) {
        self.problem("unknown_key", unknown_key(key, known));
    }

    fn document(&mut self, value: &Value) -> Document {
        let mut document = Document::default();
        for (key, value) in self.table(value).into_iter().flatten() {
            self.at(key, |reader| match key.as_str() {
                "queues" => document.queues = reader.named(value, Self::queue),
                "defaults" => {
                    if let Some(options) = reader.table(value) {
                        for (key, value) in options {
                            reader.at(key, |reader| match key.as_str() {
                                "description" => {
                                    reader.problem("unknown_key", "a description is of one app or one job")
                                }
                                _ => reader.option(key, value),
                            });
                        }
                        document.defaults = Some(options.clone());
                    }
                }
                "apps" => document.apps = reader.named(value, Self::app),
                _ => reader.unknown(key, &["queues", "defaults", "apps"]),
            });
        }
        document
    }

    /// A table of named things.
    fn named<N: Ord + std::str::FromStr<Err = crate::Error>, T>(
        &mut self,
        value: &Value,
        read: impl Fn(&mut Self, &Value) -> T,
    ) -> BTreeMap<N, T> {
        let mut things = BTreeMap::new();
        for (key, value) in self.table(value).into_iter().flatten() {
            self.at(key, |reader| match key.parse::<N>() {
                Ok(name) => {
                    things.insert(name, read(reader, value));
                }
                Err(error) => reader.problem("invalid_name", error.message()),
            });
        }
        things
    }

    fn queue(&mut self, value: &Value) -> QueueSettings {
        let mut queue = QueueSettings::default();
        for (key, value) in self.table(value).into_iter().flatten() {
            self.at(key, |reader| match key.as_str() {
                "max_running" => queue.max_running = reader.max_running(value),
                _ => reader.unknown(key, &["max_running"]),
            });
        }
        queue
    }

    fn app(&mut self, value: &Value) -> AppDocument {
        let mut app = AppDocument::default();
        for (key, value) in self.table(value).into_iter().flatten() {
            self.at(key, |reader| match key.as_str() {
                "jobs" => {
                    app.jobs = reader.named(value, |reader, value| {
                        let options = reader.table(value).cloned().unwrap_or_default();
                        for (key, value) in &options {
                            reader.at(key, |reader| reader.option(key, value));
                        }
                        options
                    });
                }
                "description" => {
                    reader.option(key, value);
                    app.description = value.as_str().map(str::to_owned);
                }
                "max_running" => app.max_running = reader.max_running(value),
                "retention" => app.retention = reader.retention(value),
                _ => {
                    reader.option(key, value);
                    app.options.insert(key.clone(), value.clone());
                }
            });
        }
        app
    }

    fn max_running(&mut self, value: &Value) -> Option<u32> {
        let limit = value
            .as_u64()
            .and_then(|limit| u32::try_from(limit).ok())
            .filter(|&limit| limit > 0);
        if limit.is_none() {
            self.problem("invalid", "must be a whole number from 1 on");
        }
        limit
    }

    fn retention(&mut self, value: &Value) -> Retention {
        let mut merged = Options::new();
        for (key, value) in self.table(value).into_iter().flatten() {
            self.at(key, |reader| {
                let alone = Options::from_iter([(key.clone(), value.clone())]);
                match serde_json::from_value::<Retention>(Value::Object(alone)) {
                    Ok(read) => {
                        // Only the key that is there can be beyond it.
                        for kept in [read.jobs, read.failed, read.logs] {
                            reader.duration(Some(kept));
                        }
                        merged.insert(key.clone(), value.clone());
                    }
                    Err(error) => reader.serde_problem(key, &error),
                }
            });
        }
        serde_json::from_value(Value::Object(merged)).unwrap_or_default()
    }

    /// Checks one key of a job, the parts of a table each by itself, so that one mistake does not hide the next.
    fn option(&mut self, key: &str, value: &Value) {
        let wrap = |value: Value| Value::Object(Options::from_iter([(key.to_owned(), value)]));
        let whole = match serde_json::from_value::<Definition>(wrap(value.clone())) {
            Ok(definition) => return self.rules(key, &definition),
            Err(error) => error,
        };
        let before = self.problems.len();
        if let Value::Object(table) = value {
            for (inner, value) in table {
                let alone = wrap(Value::Object(Options::from_iter([(inner.clone(), value.clone())])));
                if let Err(error) = serde_json::from_value::<Definition>(alone) {
                    self.at(inner, |reader| reader.serde_problem(inner, &error));
                }
            }
        }
        if self.problems.len() == before {
            self.serde_problem(key, &whole);
        }
    }

    /// What serde cannot say about one key.
    fn rules(&mut self, key: &str, definition: &Definition) {
        match key {
            "description" => self.description(definition.description.as_deref().unwrap_or_default()),
            "secrets" => self.below(variables::secrets(definition)),
            "docker" => self.below(docker::mistakes(&definition.docker)),
            "payload_env" => {
                if let PayloadEnv::Names(names) = &definition.payload_env {
                    self.env_names(names);
                }
            }
            "env_allow" => self.env_names(&definition.env_allow),
            "timeout" => self.duration(definition.timeout),
            "start_within" => self.duration(Some(definition.start_within)),
            "grace_period" => self.duration(Some(definition.grace_period)),
            "process" => self.at("cpu_time", |reader| reader.duration(definition.process.cpu_time)),
            "env" => {
                for (name, value) in &definition.env {
                    self.at(name, |reader| {
                        if let Err(message) = check_env_name(name) {
                            reader.problem("invalid_name", message);
                        } else if value.contains('\0') {
                            reader.problem("invalid", "the value has a NUL byte, which no environment can hold");
                        }
                    });
                }
            }
            "retry" => {
                if definition.retry.max_attempts == 0 {
                    self.at("max_attempts", |reader| reader.problem("invalid", "must be at least 1"));
                }
                self.at("base", |reader| reader.duration(Some(definition.retry.base)));
                self.at("max", |reader| reader.duration(Some(definition.retry.max)));
            }
            "max_running" if definition.max_running == Some(0) => {
                self.problem("invalid", "must be a whole number from 1 on")
            }
            "image"
                if definition
                    .image
                    .as_deref()
                    .is_some_and(|image| image.trim() != image || image.is_empty()) =>
            {
                self.problem("invalid", "is no image reference");
            }
            "command" | "entrypoint" => {
                let words = definition.command.iter().chain(&definition.entrypoint).flatten();
                if words.into_iter().any(|word| word.contains('\0')) {
                    self.problem("invalid", "has a NUL byte, which no argument can hold");
                }
            }
            _ => {}
        }
    }

    fn below(&mut self, wrong: Vec<variables::Wrong>) {
        for (path, code, message) in wrong {
            self.path.extend(path.iter().cloned());
            self.problem(code, message);
            self.path.truncate(self.path.len() - path.len());
        }
    }

    /// Terminals show it: nothing in it may move the cursor.
    fn description(&mut self, text: &str) {
        let length = text.chars().count();
        if length > LONGEST_DESCRIPTION {
            let message = format!("has {length} characters; at most {LONGEST_DESCRIPTION}");
            self.problem("invalid", message);
        }
        if text.chars().any(|c| c.is_control() && c != '\n' && c != '\t') {
            self.problem(
                "invalid",
                "has a control character; only new lines and tabs may be in it",
            );
        }
    }

    /// None may be so long that a clock cannot count it.
    fn duration(&mut self, duration: Option<Duration>) {
        if duration.is_some_and(|duration| duration > LONGEST) {
            self.problem("invalid", "is too long: at most 3650d (ten years)");
        }
    }

    fn env_names(&mut self, names: &[String]) {
        for name in names {
            if let Err(message) = check_env_name(name) {
                self.problem("invalid_name", message);
            }
        }
    }

    fn serde_problem(&mut self, key: &str, error: &serde_json::Error) {
        let text = error.to_string();
        if let Some(rest) = text.strip_prefix("unknown field `") {
            let known: Vec<&str> = rest.split('`').skip(2).step_by(2).collect();
            return self.unknown(rest.split('`').next().unwrap_or(key), &known);
        }
        // serde_json ends with a place in text that nobody wrote.
        let message = text.split(" at line ").next().unwrap_or(&text);
        let code = if message.starts_with("invalid type") {
            "wrong_type"
        } else {
            "invalid"
        };
        self.problem(code, message);
    }
}

/// "unknown key" with the nearest one that there is.
#[must_use]
pub fn unknown_key(key: &str, known: &[&str]) -> String {
    let nearest = known
        .iter()
        .map(|candidate| (strsim::damerau_levenshtein(key, candidate), *candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.len() / 3).max(2))
        .min();
    match nearest {
        Some((_, nearest)) => format!("unknown key {key:?}; did you mean {nearest:?}?"),
        None => format!("unknown key {key:?}; known are {}", known.join(", ")),
    }
}

/// An environment variable's name, and none of ours.
pub fn check_env_name(name: &str) -> Result<(), String> {
    if name.is_empty() || name.contains(['=', '\0']) {
        return Err(format!("{name:?} is no name of an environment variable"));
    }
    if name.starts_with("ROBATA_") || name == "TRACEPARENT" {
        return Err(format!("{name} is set by the platform and cannot be set here"));
    }
    Ok(())
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a table",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_mistake_is_reported_with_its_path() {
        let problems = Document::read(&json!({
            "apps": {"shop": {"image": 3, "jobs": {
                "a": {"tiemout": "1s", "retry": {"max_attempts": "x", "base": "soon"}, "resources": {"memory": "1X"}},
                "b/c": {},
            }}},
            "queue": {},
        }))
        .unwrap_err();
        let told: Vec<String> = problems
            .iter()
            .map(|p| format!("{} {} {}", p.path.join("."), p.code, p.message))
            .collect();
        for part in [
            "apps.shop.image wrong_type",
            "apps.shop.jobs.a.tiemout unknown_key",
            "did you mean \"timeout\"",
            "apps.shop.jobs.a.retry.max_attempts wrong_type",
            "apps.shop.jobs.a.retry.base invalid",
            "apps.shop.jobs.a.resources.memory invalid",
            "apps.shop.jobs.b/c invalid_name",
            "did you mean \"queues\"",
        ] {
            assert!(
                told.iter().any(|line| line.contains(part)),
                "{part} is not in {told:#?}"
            );
        }
        assert_eq!(told.len(), 7, "{told:#?}");
    }

    #[test]
    fn tables_merge_key_by_key_and_the_rest_replaces() {
        let (a, b) = (
            json!({"env": {"A": "1", "B": "1"}, "command": ["x", "y"]}),
            json!({"env": {"B": "2"}, "command": ["z"]}),
        );
        let merged = merge(&[a.as_object().unwrap(), b.as_object().unwrap()]);
        assert_eq!(
            Value::Object(merged),
            json!({"env": {"A": "1", "B": "2"}, "command": ["z"]})
        );
    }

    fn problems(options: Value) -> Vec<String> {
        let problems = check_options(options.as_object().unwrap(), &[]);
        problems
            .iter()
            .map(|problem| format!("{} {}", problem.path.join("."), problem.code))
            .collect()
    }

    #[test]
    fn a_duration_that_no_clock_can_count_is_a_problem() {
        let long = "200000000000d";
        for (options, path) in [
            (json!({"timeout": long}), "timeout"),
            (json!({"start_within": long}), "start_within"),
            (json!({"grace_period": "3651d"}), "grace_period"),
            (json!({"retry": {"base": long}}), "retry.base"),
            (json!({"retry": {"max": long}}), "retry.max"),
            (json!({"process": {"cpu_time": long}}), "process.cpu_time"),
        ] {
            assert_eq!(problems(options), [format!("{path} invalid")]);
        }
        for fine in [
            json!({"timeout": "none"}),
            json!({"timeout": "3650d"}),
            json!({"retry": {}}),
        ] {
            assert!(problems(fine).is_empty());
        }
        let kept = json!({"apps": {"shop": {"retention": {"logs": long}}}});
        let told = Document::read(&kept).unwrap_err();
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!(told[0].path, ["apps", "shop", "retention", "logs"]);
    }

    #[test]
    fn neither_the_payload_nor_an_enqueuer_may_set_what_is_ours() {
        for ours in ["ROBATA_ATTEMPT", "ROBATA_JOB_ID", "TRACEPARENT", "", "A=B"] {
            assert_eq!(
                problems(json!({"payload_env": ["FINE", ours]})),
                ["payload_env invalid_name"],
                "{ours:?}"
            );
            assert_eq!(
                problems(json!({"env_allow": ["FINE", ours]})),
                ["env_allow invalid_name"],
                "{ours:?}"
            );
        }
        for fine in [
            json!({"payload_env": ["BARBEQUE_MESSAGE"]}),
            json!({"payload_env": false}),
        ] {
            assert!(problems(fine).is_empty());
        }
    }

    #[test]
    fn the_designs_own_example_is_read() {
        let document = json!({
            "queues": {"images": {"max_running": 20}},
            "apps": {"shop": {
                "image": "registry.example.com/shop:1", "env": {"RAILS_ENV": "production"},
                "secrets": {"DATABASE_URL": "database-url"},
                "retention": {"jobs": "30d", "failed": "90d", "logs": "30d"},
                "jobs": {"resize-image": {
                    "command": ["bin/resize", "--strict"], "entrypoint": ["/bin/tini", "--"], "queue": "images",
                    "executor": "docker", "timeout": "10m", "start_within": "24h", "grace_period": "30s",
                    "resources": {"cpu": "500m", "memory": "256Mi"},
                    "retry": {"max_attempts": 5, "backoff": "exponential", "base": "15s", "max": "1h", "jitter": "full",
                              "not_on_exit_codes": [2], "platform": 5},
                    "env_allow": ["LOCALE"], "security": "baseline", "docker": {"network": "none"},
                }},
            }},
        });
        let read = Document::read(&document).unwrap();
        let app = read.apps.values().next().unwrap();
        let merged = merge(&[&app.options, app.jobs.values().next().unwrap()]);
        let definition = definition(merged, &[]).unwrap();
        assert_eq!(definition.retry.max_attempts, 5);
        assert_eq!(definition.env["RAILS_ENV"], "production");
        assert_eq!(definition.secrets["DATABASE_URL"].as_str(), "database-url");
        assert_eq!(definition.resources.memory_at_most().unwrap().bytes, 256 << 20);
    }
}
