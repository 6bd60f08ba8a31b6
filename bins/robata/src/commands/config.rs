//! `robata config`: what is in force, and where each value came from.

use std::process::ExitCode;

use serde_json::json;

use crate::{args::SettingsArgs, output::Output, settings};

pub(crate) fn config(args: &SettingsArgs, out: &Output) -> anyhow::Result<ExitCode> {
    let loaded = settings::load(args)?;
    let entries: Vec<_> = loaded
        .provenance()
        .iter()
        .map(|entry| json!({"key": entry.key, "value": entry.value, "from": entry.place.to_string()}))
        .collect();
    out.print(&json!({"settings": entries}), || {
        loaded.provenance().iter().map(|entry| format!("{entry}\n")).collect()
    })?;
    Ok(ExitCode::SUCCESS)
}
