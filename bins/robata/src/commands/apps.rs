//! `robata apps`: the catalog.

use std::process::ExitCode;

use robata_client::{App, Definition, types::AppList};
use serde::Serialize;

use crate::{
    args::{AppsArgs, AppsCommand, Connection},
    clock,
    output::Output,
    table::{Table, cell},
};

/// An app with its job definitions.
#[derive(Serialize)]
struct Whole {
    app: App,
    definitions: Vec<Definition>,
}

pub(crate) async fn apps(server: &Connection, args: AppsArgs, out: &Output) -> anyhow::Result<ExitCode> {
    let client = server.client()?;
    match args.command {
        AppsCommand::List => {
            let list = AppList {
                apps: client.apps().await?,
            };
            out.print(&list, || {
                let mut table = Table::new(&["APP", "JOBS", "IMAGE"]);
                for app in &list.apps {
                    let jobs: Vec<_> = app.jobs.iter().map(|job| job.as_str()).collect();
                    table.row(vec![
                        cell(app.app.as_str()),
                        cell(jobs.join(", ")),
                        cell(text(app.settings.get("image"))),
                    ]);
                }
                table.text(out, "no app yet; `robata apply -f jobs.toml` makes them")
            })?;
        }
        AppsCommand::Show { target: (app, None) } => {
            let whole = Whole {
                app: client.app(&app).await?,
                definitions: client.definitions(&app).await?,
            };
            out.print(&whole, || {
                let description = whole.app.settings.get("description").and_then(|text| text.as_str());
                let description = description.map_or_else(String::new, |text| format!("{}\n\n", text.trim_end()));
                let mut table = Table::new(&["JOB", "VERSION", "EXECUTOR", "RUNS", "TIMEOUT", "ATTEMPTS", "CHANGED"]);
                for definition in &whole.definitions {
                    let of = |key: &str| definition.definition.get(key);
                    table.row(vec![
                        cell(definition.job.as_str()),
                        cell(definition.version.to_string()),
                        cell(text(of("executor"))),
                        cell(runs(definition)),
                        cell(text(of("timeout"))),
                        cell(text(of("retry").and_then(|retry| retry.get("max_attempts")))),
                        cell(clock::ago(definition.updated_at, clock::now())),
                    ]);
                }
                format!("{description}{}", table.text(out, "this app has no job definitions"))
            })?;
        }
        AppsCommand::Show {
            target: (app, Some(job)),
        } => {
            let definition = client.definition(&app, &job).await?;
            out.print(&definition, || {
                let mut text = format!(
                    "{}/{}, version {}, changed {}\n",
                    definition.app,
                    definition.job,
                    definition.version,
                    clock::ago(definition.updated_at, clock::now())
                );
                for (key, value) in &definition.definition {
                    let own = if definition.settings.contains_key(key) {
                        ""
                    } else {
                        "  # default, or the app's"
                    };
                    text.push_str(&format!("  {key} = {value}{own}\n"));
                }
                text
            })?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Image and command in one cell.
fn runs(definition: &Definition) -> String {
    let mut parts = Vec::new();
    for key in ["image", "entrypoint", "command"] {
        match definition.definition.get(key) {
            Some(serde_json::Value::Array(words)) => {
                parts.extend(words.iter().filter_map(|word| word.as_str()).map(str::to_owned));
            }
            Some(serde_json::Value::String(word)) => parts.push(word.clone()),
            _ => {}
        }
    }
    let whole = parts.join(" ").replace('\n', " ");
    if whole.chars().count() > 60 {
        format!("{}…", whole.chars().take(59).collect::<String>())
    } else {
        whole
    }
}

fn text(value: Option<&serde_json::Value>) -> String {
    match value {
        None | Some(serde_json::Value::Null) => "-".to_owned(),
        Some(serde_json::Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}
