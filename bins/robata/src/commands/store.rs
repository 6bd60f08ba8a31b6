//! `robata store migrate`: the tables of a store that many daemons share, brought up to date by hand.

use std::{process::ExitCode, time::Duration};

use robata_adapters::probe;
use robata_settings::StoreSettings;
use serde_json::json;

use crate::{
    args::{StoreArgs, StoreCommand},
    exit,
    fault::Coded,
    output::Output,
    settings,
};

/// A database that answers at all does so within this time.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);

pub(crate) async fn store(args: StoreArgs, out: &Output) -> anyhow::Result<ExitCode> {
    let StoreCommand::Migrate { settings: from, check } = args.command;
    let settings = settings::load(&from)?.settings;
    let StoreSettings::Postgres(postgres) = &settings.store else {
        out.print(&json!({"applied": [], "current": true}), || {
            "nothing to do: a store in SQLite is brought up to date whenever it is opened".to_owned()
        })?;
        return Ok(ExitCode::SUCCESS);
    };
    let told = |error: robata_core::Error| Coded {
        code: "store",
        message: error.full(),
    };
    if check {
        let found = probe::database(postgres, ANSWERS_WITHIN).await.map_err(told)?;
        let current = found.schema >= found.needed;
        let data = json!({"current": current, "schema": found.schema, "needed": found.needed});
        out.print(&data, || match current {
            true => format!("up to date (number {})", found.schema),
            false => format!(
                "the tables have number {}, and this release needs {}: run robata store migrate",
                found.schema, found.needed
            ),
        })?;
        return Ok(ExitCode::from(if current { 0 } else { exit::ERROR }));
    }
    let applied = probe::migrate(postgres).await.map_err(told)?;
    let found = probe::database(postgres, ANSWERS_WITHIN).await.map_err(told)?;
    let (schema, needed) = (found.schema, found.needed);
    let data = json!({"applied": applied, "current": true, "schema": schema, "needed": needed});
    out.print(&data, || match applied.len() {
        0 if schema > needed => {
            format!(
                "nothing to do: the tables are a later release's (number {schema}), and this one, which needs {needed}, runs over them"
            )
        }
        0 => "nothing to do: up to date".to_owned(),
        _ => format!("applied {}", applied.join(", ")),
    })?;
    Ok(ExitCode::SUCCESS)
}
