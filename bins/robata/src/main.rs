#![doc = include_str!("../README.md")]

mod args;
mod bench;
mod clock;
mod commands;
mod connect;
mod demo;
mod doctor;
mod exit;
mod fault;
mod output;
mod pairs;
mod settings;
mod table;
mod up;
mod watch;

use std::process::ExitCode;

use args::{Cli, Command};
use clap::Parser;

fn main() -> ExitCode {
    // Before any thread: this program is also the supervisor of its processes.
    robata_adapters::supervise_if_asked();
    let cli = Cli::parse();
    let out = output::Output::new(cli.output);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fault::report(&error.into(), &out),
    };
    let ended = runtime.block_on(run(cli, &out));
    // What still reads a terminal or waits for an engine does not hold the program back.
    runtime.shutdown_background();
    ended.unwrap_or_else(|error| fault::report(&error, &out))
}

async fn run(cli: Cli, out: &output::Output) -> anyhow::Result<ExitCode> {
    let server = &cli.connection;
    match cli.command {
        Command::Up(args) => Box::pin(up::up(args, out)).await,
        Command::Apply(args) => commands::apply::apply(server, &args, out).await,
        Command::Enqueue(args) => commands::enqueue::enqueue(server, args, out).await,
        Command::Run(args) => commands::run::run(server, args, out).await,
        Command::Jobs(args) => commands::jobs::jobs(server, args, out).await,
        Command::Apps(args) => commands::apps::apps(server, args, out).await,
        Command::Queues(args) => commands::queues::queues(server, args, out).await,
        Command::Workers(args) => commands::workers::workers(server, args, out).await,
        Command::Tokens(args) => commands::tokens::tokens(server, args, out).await,
        Command::Audit(args) => commands::audit::audit(server, args, out).await,
        Command::Config(args) => commands::config::config(&args, out),
        Command::Store(args) => commands::store::store(args, out).await,
        Command::Doctor(args) => Box::pin(doctor::doctor(args, out)).await,
        Command::Completion { shell } => commands::shell::completion(shell),
        Command::Man { folder } => commands::shell::man(&folder, out),
        Command::Bench(args) => Box::pin(bench::bench(args, out)).await,
    }
}
