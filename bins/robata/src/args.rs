//! The command line's shape: every command and flag, with the words that `--help` shows.

use std::{path::PathBuf, str::FromStr, time::Duration};

use clap::{
    Args, Parser, Subcommand,
    builder::{PossibleValuesParser, RangedU64ValueParser, TypedValueParser},
};
use robata_core::{
    AppName, ExecutorName, IncarnationId, JobId, JobName, JobState, QueueName, Reason, Role, Timestamp, TokenName,
    definition::duration,
};
use robata_settings::Listen;

use crate::{commands::columns::Column, output::Format, pairs::Pair};

/// Options that stand at every command, below its own.
const GLOBAL: &str = "Global options";

/// Runs jobs in containers.
#[derive(Debug, Parser)]
#[command(name = "robata", version, max_term_width = 100, arg_required_else_help = true)]
pub(crate) struct Cli {
    /// What is printed: text for people, or JSON for programs.
    #[arg(long, global = true, value_enum, default_value_t = Format::Text, value_name = "FORMAT", help_heading = GLOBAL)]
    pub(crate) output: Format,
    #[command(flatten)]
    pub(crate) connection: Connection,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// How the client's side reaches a server.
#[derive(Debug, Args)]
pub(crate) struct Connection {
    /// The server that commands talk to.
    #[arg(
        long,
        global = true,
        env = "ROBATA_SERVER",
        default_value = "http://127.0.0.1:7070",
        value_name = "URL",
        help_heading = GLOBAL
    )]
    pub(crate) server: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run everything in this process: the API, the scheduler and a worker.
    Up(UpArgs),
    /// Apply a file of job definitions: all of it, or nothing.
    Apply(ApplyArgs),
    /// Enqueue a job.
    Enqueue(EnqueueArgs),
    /// Run a one-off with a command of your own; Ctrl-C cancels it.
    Run(RunArgs),
    /// List, show, wait for, cancel and retry jobs, and read their logs.
    Jobs(JobsArgs),
    /// List and show apps and their job definitions.
    Apps(AppsArgs),
    /// List, pause and resume queues; show what could not be taken in.
    Queues(QueuesArgs),
    /// List and drain workers; say that a host is gone.
    Workers(WorkersArgs),
    /// Make, list and revoke tokens; from the first one on every request needs one, in ROBATA_TOKEN.
    Tokens(TokensArgs),
    /// List who changed the catalog and who acted on jobs, newest first.
    Audit(AuditArgs),
    /// Print the settings in force and where each came from.
    Config(SettingsArgs),
    /// Bring the tables of a store up to date that many daemons share.
    Store(StoreArgs),
    /// Try every service that is configured, and say what is wrong and what to do.
    Doctor(DoctorArgs),
    /// Print what a shell needs to complete this program's words, as `source <(robata completion bash)`.
    Completion {
        /// The shell.
        #[arg(value_enum, value_name = "SHELL")]
        shell: clap_complete::Shell,
    },
    /// Write the manual's pages into a folder, one for each command.
    Man {
        /// The folder; made where it is missing.
        #[arg(value_name = "FOLDER")]
        folder: PathBuf,
    },
    /// Measure what this machine does, each figure beside its target and the raw limit.
    Bench(crate::bench::BenchArgs),
}

/// Where settings come from.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct SettingsArgs {
    /// The settings file.
    #[arg(long, env = "ROBATA_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Where to listen: an address (port 0 takes a free one), beyond loopback only with auth.admin_token; or unix:/PATH
    /// [default: 127.0.0.1:7070].
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) listen: Option<Listen>,
    /// Where everything is kept [default: robata in $XDG_DATA_HOME, or in ~/.local/share].
    #[arg(long, value_name = "FOLDER")]
    pub(crate) data_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct UpArgs {
    #[command(flatten)]
    pub(crate) settings: SettingsArgs,
    /// Apply these job definitions (`-`: standard input) before any request is answered and any job is taken.
    #[arg(long, value_name = "FILE")]
    pub(crate) apply: Option<PathBuf>,
    /// Only these executors of the settings.
    #[arg(long = "executor", value_name = "NAME")]
    pub(crate) executors: Vec<ExecutorName>,
    /// Enqueue five jobs that show what can happen to a job, and watch them to their ends.
    #[arg(long)]
    pub(crate) demo: bool,
}

#[derive(Debug, Args)]
pub(crate) struct StoreArgs {
    #[command(subcommand)]
    pub(crate) command: StoreCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum StoreCommand {
    /// Run the migrations that are missing; safe while daemons run, and from many places at once.
    Migrate {
        #[command(flatten)]
        settings: SettingsArgs,
        /// Only say whether one is missing (exit code 1).
        #[arg(long)]
        check: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    pub(crate) settings: SettingsArgs,
    /// Only these executors of the settings.
    #[arg(long = "executor", value_name = "NAME")]
    pub(crate) executors: Vec<ExecutorName>,
}

#[derive(Debug, Args)]
pub(crate) struct ApplyArgs {
    /// The definitions, TOML, YAML or JSON by the file's name; `-`: TOML from standard input.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Only say what would change.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Remove definitions that the file leaves out of an app that it names; without it they are kept and told.
    #[arg(long)]
    pub(crate) prune: bool,
    /// Another image for an app that the file names, in place of the app's own; more than once for more apps.
    #[arg(long = "image", value_name = "APP=REF", value_parser = app_and_image)]
    pub(crate) images: Vec<(AppName, String)>,
}

#[derive(Debug, Args)]
pub(crate) struct WaitArgs {
    /// Wait for the job's end, and exit with its code.
    #[arg(long)]
    pub(crate) wait: bool,
    /// Print the job's own output while it runs; waits, too.
    #[arg(long)]
    pub(crate) follow: bool,
}

impl WaitArgs {
    /// Whether to wait at all.
    pub(crate) fn waits(&self) -> bool {
        self.wait || self.follow
    }
}

#[derive(Debug, Args)]
pub(crate) struct EnqueueArgs {
    /// The job to run.
    #[arg(value_name = "APP/JOB", value_parser = app_and_job)]
    pub(crate) target: (AppName, JobName),
    /// JSON, `@FILE`, or `-` for standard input.
    #[arg(long, value_name = "JSON|@FILE|-", allow_hyphen_values = true)]
    pub(crate) payload: Option<String>,
    /// Not before this time has passed, as 10m.
    #[arg(long, value_parser = duration::parse, value_name = "DURATION", conflicts_with = "run_at")]
    pub(crate) delay: Option<Duration>,
    /// Not before this time, as 2026-11-20T09:30:00Z.
    #[arg(long, value_parser = time, value_name = "TIME")]
    pub(crate) run_at: Option<Timestamp>,
    /// Give up unless it has started this long after it was due.
    #[arg(long, value_parser = duration::parse, value_name = "DURATION")]
    pub(crate) expires_in: Option<Duration>,
    /// Another queue that the app's definitions name.
    #[arg(long, value_name = "QUEUE")]
    pub(crate) queue: Option<QueueName>,
    /// -100 to 100; higher goes first.
    #[arg(long, allow_hyphen_values = true, value_name = "N")]
    pub(crate) priority: Option<i64>,
    /// An idempotency key: the same request with the same key again makes no second job.
    #[arg(long, value_name = "KEY")]
    pub(crate) key: Option<String>,
    /// An environment variable that the definition's env_allow lists.
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) env: Vec<Pair>,
    /// A label.
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) label: Vec<Pair>,
    #[command(flatten)]
    pub(crate) wait: WaitArgs,
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// The app, and the definition whose settings it takes.
    #[arg(value_name = "APP[/JOB]", value_parser = app_or_job)]
    pub(crate) target: (AppName, Option<JobName>),
    /// Another image.
    #[arg(long, value_name = "REF")]
    pub(crate) image: Option<String>,
    /// Replaces the image's ENTRYPOINT; one word of it each time.
    #[arg(long, value_name = "WORD")]
    pub(crate) entrypoint: Vec<String>,
    /// An environment variable.
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) env: Vec<Pair>,
    /// Another executor.
    #[arg(long, value_name = "NAME")]
    pub(crate) executor: Option<ExecutorName>,
    /// Another queue that the app's definitions name.
    #[arg(long, value_name = "QUEUE")]
    pub(crate) queue: Option<QueueName>,
    /// Another time limit, as 10m; or none.
    #[arg(long, value_name = "DURATION")]
    pub(crate) timeout: Option<String>,
    /// Do not wait: print the job's id.
    #[arg(long)]
    pub(crate) detach: bool,
    /// The command; never a shell string.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(crate) command: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct JobsArgs {
    #[command(subcommand)]
    pub(crate) command: JobsCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum JobsCommand {
    /// List jobs, newest first.
    List(ListArgs),
    /// Show a job with its attempts.
    Show {
        /// The job.
        id: JobId,
    },
    /// Print an attempt's output as it was printed.
    Logs(LogsArgs),
    /// Wait for a job's end, and exit with its code.
    Wait {
        /// The job.
        id: JobId,
        /// Print the job's own output while it runs.
        #[arg(long)]
        follow: bool,
        /// Give up after this time, with exit code 1.
        #[arg(long, value_parser = duration::parse, value_name = "DURATION")]
        timeout: Option<Duration>,
    },
    /// Cancel jobs.
    Cancel {
        /// The jobs.
        #[arg(required = true)]
        ids: Vec<JobId>,
    },
    /// Retry failed jobs: one attempt more.
    Retry {
        /// The jobs.
        #[arg(required = true)]
        ids: Vec<JobId>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Of this app.
    #[arg(long)]
    pub(crate) app: Option<AppName>,
    /// Of this definition.
    #[arg(long)]
    pub(crate) job: Option<JobName>,
    /// In this queue.
    #[arg(long)]
    pub(crate) queue: Option<QueueName>,
    /// In one of these states.
    #[arg(long, value_parser = one_of::<JobState>(JobState::ALL.iter().map(|state| state.as_str())))]
    pub(crate) state: Vec<JobState>,
    /// With this reason.
    #[arg(long, value_parser = one_of::<Reason>(Reason::ALL.iter().map(|reason| reason.as_str())))]
    pub(crate) reason: Option<Reason>,
    /// With this label.
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) label: Vec<Pair>,
    /// Stored at or after: a time, or how long ago, as 2h.
    #[arg(long, value_name = "TIME|DURATION")]
    pub(crate) since: Option<crate::clock::Moment>,
    /// Stored before: a time, or how long ago.
    #[arg(long, value_name = "TIME|DURATION")]
    pub(crate) until: Option<crate::clock::Moment>,
    /// At most so many.
    #[arg(long, default_value_t = 50, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
    pub(crate) limit: usize,
    /// The next page: what the last one ended with.
    #[arg(long)]
    pub(crate) cursor: Option<String>,
    /// What is shown of each, in this order [default: id,job,state,attempt,created,took,why].
    #[arg(long, value_enum, value_delimiter = ',', value_name = "COLUMN,…")]
    pub(crate) columns: Vec<Column>,
    /// Go on: each of the newest --limit jobs that is new or has changed is printed again, below.
    #[arg(long, conflicts_with = "cursor")]
    pub(crate) watch: bool,
}

#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// The job.
    pub(crate) id: JobId,
    /// Which attempt [default: the last].
    #[arg(long, value_name = "N")]
    pub(crate) attempt: Option<u32>,
    /// Only this stream [default: both, merged].
    #[arg(long, value_enum)]
    pub(crate) stream: Option<StreamName>,
    /// Go on while it runs.
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// From this byte of the stream on.
    #[arg(long, requires = "stream", value_name = "BYTES")]
    pub(crate) offset: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum StreamName {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

#[derive(Debug, Args)]
pub(crate) struct AppsArgs {
    #[command(subcommand)]
    pub(crate) command: AppsCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AppsCommand {
    /// List apps.
    List,
    /// Show an app's job definitions, or one of them whole.
    Show {
        /// The app, and one of its jobs.
        #[arg(value_name = "APP[/JOB]", value_parser = app_or_job)]
        target: (AppName, Option<JobName>),
    },
}

#[derive(Debug, Args)]
pub(crate) struct QueuesArgs {
    #[command(subcommand)]
    pub(crate) command: QueuesCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum QueuesCommand {
    /// List queues with their counts.
    List,
    /// Pause a queue: no worker takes its jobs from here on; what runs goes on.
    Pause {
        /// The queue.
        #[arg(value_name = "QUEUE")]
        name: QueueName,
        /// Why, for people: its waiting jobs show it.
        #[arg(long, default_value = "", hide_default_value = true, value_name = "TEXT")]
        reason: String,
    },
    /// Resume a queue.
    Resume {
        /// The queue.
        #[arg(value_name = "QUEUE")]
        name: QueueName,
    },
    /// List messages that could not be taken in, newest first, each with its reason.
    SetAside {
        /// At most so many.
        #[arg(long, default_value_t = 50, value_name = "N")]
        limit: usize,
        /// The next page: what the last one ended with.
        #[arg(long, value_name = "NUMBER")]
        before: Option<u64>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct WorkersArgs {
    #[command(subcommand)]
    pub(crate) command: WorkersCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum WorkersCommand {
    /// List workers, live ones first.
    List,
    /// Ask a worker to drain: it takes nothing new, and leaves once what it holds has ended.
    Drain {
        /// The worker, as `workers list` shows it.
        #[arg(value_name = "WORKER")]
        id: IncarnationId,
    },
    /// Say that a realm (a host's engine) is gone for good: what ran there is lost, and its jobs are retried now.
    Lost {
        /// The realm, as `workers list --output json` and a job's attempts show it.
        #[arg(value_name = "REALM")]
        realm: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct TokensArgs {
    #[command(subcommand)]
    pub(crate) command: TokensCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokensCommand {
    /// Make a token, and print it this once.
    Create {
        /// Its name, under which what its bearer does is recorded.
        #[arg(value_name = "NAME")]
        name: TokenName,
        /// enqueue; read; operate (both, and cancel, retry, pause); deploy (and definitions and one-offs); admin.
        #[arg(long, value_name = "ROLE", value_parser = one_of::<Role>(Role::ALL.iter().map(|role| role.as_str())))]
        role: Role,
        /// The one app that its bearer sees [default: all of them].
        #[arg(long, value_name = "APP")]
        app: Option<AppName>,
        /// How long it lasts, as 30d [default: until it is revoked].
        #[arg(long, value_parser = duration::parse, value_name = "DURATION")]
        expires_in: Option<Duration>,
    },
    /// List tokens, without their secrets.
    List,
    /// Revoke a token: it is valid nowhere ten seconds later.
    Revoke {
        /// The token.
        #[arg(value_name = "NAME")]
        name: TokenName,
    },
}

#[derive(Debug, Args)]
pub(crate) struct AuditArgs {
    /// What was done to this app, its definitions and jobs.
    #[arg(long, value_name = "APP")]
    pub(crate) app: Option<AppName>,
    /// What this token did; `local`: who needed none.
    #[arg(long, value_name = "TOKEN")]
    pub(crate) by: Option<String>,
    /// What was done to this job.
    #[arg(long, value_name = "ID")]
    pub(crate) job: Option<JobId>,
    /// At most so many.
    #[arg(long, default_value_t = 50, value_name = "N")]
    pub(crate) limit: usize,
    /// The next page: what the last one ended with.
    #[arg(long, value_name = "NUMBER")]
    pub(crate) before: Option<u64>,
}

/// One of these words, which help and completion tell.
fn one_of<T>(words: impl Iterator<Item = &'static str>) -> impl TypedValueParser<Value = T>
where
    T: FromStr<Err = robata_core::Error> + Clone + Send + Sync + 'static,
{
    PossibleValuesParser::new(words.collect::<Vec<_>>()).try_map(|word| word.parse())
}

fn app_and_image(text: &str) -> Result<(AppName, String), String> {
    let (app, image) = text.split_once('=').ok_or("must be APP=REF")?;
    let app = app
        .parse()
        .map_err(|error: robata_core::Error| error.message().to_owned())?;
    Ok((app, image.to_owned()))
}

fn app_and_job(text: &str) -> Result<(AppName, JobName), String> {
    match app_or_job(text)? {
        (app, Some(job)) => Ok((app, job)),
        (app, None) => Err(format!(
            "which job of {app}? Write APP/JOB; `robata apps show {app}` lists them"
        )),
    }
}

fn app_or_job(text: &str) -> Result<(AppName, Option<JobName>), String> {
    let told = |error: robata_core::Error| error.message().to_owned();
    match text.split_once('/') {
        Some((app, job)) => Ok((app.parse().map_err(told)?, Some(job.parse().map_err(told)?))),
        None => Ok((text.parse().map_err(told)?, None)),
    }
}

fn time(text: &str) -> Result<Timestamp, String> {
    text.parse()
        .map_err(|error: robata_core::Error| error.message().to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_one_offs_command_stands_behind_two_dashes() {
        let cli =
            Cli::try_parse_from(["robata", "run", "demo/hello", "--env", "A=b=c", "--", "sh", "-c", "x"]).unwrap();
        let Command::Run(run) = cli.command else {
            panic!("no run")
        };
        assert_eq!(run.command, ["sh", "-c", "x"]);
        assert_eq!(
            run.env,
            [Pair {
                name: "A".into(),
                value: "b=c".into()
            }]
        );
        assert_eq!(run.target.1.unwrap().as_str(), "hello");
    }

    #[test]
    fn a_negative_payload_and_priority_are_values() {
        let cli = Cli::try_parse_from(["robata", "enqueue", "a/b", "--payload", "-1", "--priority", "-5"]).unwrap();
        let Command::Enqueue(enqueue) = cli.command else {
            panic!("no enqueue")
        };
        assert_eq!((enqueue.payload.as_deref(), enqueue.priority), (Some("-1"), Some(-5)));
    }

    #[test]
    fn words_that_there_are_few_of_are_told_by_help_and_completion() {
        let command = Cli::command();
        let words = |path: [&str; 2], flag: &str| {
            let command = path
                .iter()
                .fold(&command, |command, name| command.find_subcommand(name).unwrap());
            let flag = command
                .get_arguments()
                .find(|arg| arg.get_long() == Some(flag))
                .unwrap();
            flag.get_possible_values().len()
        };
        assert_eq!(words(["jobs", "list"], "state"), JobState::ALL.len());
        assert_eq!(words(["jobs", "list"], "reason"), Reason::ALL.len());
        assert_eq!(words(["tokens", "create"], "role"), Role::ALL.len());
        let wrong = Cli::try_parse_from(["robata", "jobs", "list", "--state", "runing"]).unwrap_err();
        assert!(
            wrong.to_string().contains("a similar value exists: 'running'"),
            "{wrong}"
        );
    }

    #[test]
    fn an_app_without_job_is_told_how_to_find_one() {
        let error = Cli::try_parse_from(["robata", "enqueue", "demo"])
            .unwrap_err()
            .to_string();
        assert!(error.contains("robata apps show demo"), "{error}");
    }
}
