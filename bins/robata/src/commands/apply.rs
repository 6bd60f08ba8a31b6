//! `robata apply`: a file of definitions; every mistake with its line.

use std::{collections::BTreeMap, io::Read, path::Path, process::ExitCode};

use anyhow::{Context, anyhow};
use robata_client::{
    ApplyAnswer, ApplyOptions, ApplyRequest, ClientError, Place,
    definitions::{self, Format, Source},
};
use robata_core::AppName;

use crate::{
    args::{ApplyArgs, Connection},
    fault::{Coded, Usage},
    output::{Output, Tone},
    table::{Table, cell, maybe},
};

pub(crate) async fn apply(server: &Connection, args: &ApplyArgs, out: &Output) -> anyhow::Result<ExitCode> {
    let client = server.client()?;
    let mut images: BTreeMap<AppName, String> = BTreeMap::new();
    for (app, image) in &args.images {
        if let Some(first) = images.insert(app.clone(), image.clone()) {
            return Err(Usage(format!("--image {app} is given twice: {first} and {image}")).into());
        }
    }
    let how = ApplyOptions {
        dry_run: args.dry_run,
        prune: args.prune,
    };
    let apply = async |mut request: ApplyRequest| {
        request.images = images;
        client.apply(&request, how).await
    };
    let answer = apply_file(&args.file, apply).await?;
    out.print(&answer, || plan(&answer, args.dry_run, out))?;
    Ok(ExitCode::SUCCESS)
}

/// Applies a file by `apply`.
pub(crate) async fn apply_file(
    file: &Path,
    apply: impl AsyncFnOnce(ApplyRequest) -> Result<ApplyAnswer, ClientError>,
) -> anyhow::Result<ApplyAnswer> {
    let (shown, format) = if file == Path::new("-") {
        ("standard input".to_owned(), Format::Toml)
    } else {
        let format = Format::of(file).ok_or_else(|| {
            Usage(format!(
                "{}: a definitions file ends in .toml, .yaml, .yml or .json",
                file.display()
            ))
        })?;
        (file.display().to_string(), format)
    };
    let from = file.to_owned();
    // Whoever writes it may take their time.
    let text = tokio::task::spawn_blocking(move || read(&from)).await?;
    let text = text.with_context(|| format!("cannot read {shown}"))?;
    let source = definitions::read(&text, format).map_err(|error| Coded {
        code: "invalid_definitions",
        message: error.shown(&shown),
    })?;
    apply_source(&shown, &source, apply).await
}

/// The app whose `--image` a mistake is in.
fn of_image(place: &Place) -> Option<&str> {
    match &place.path[..] {
        [first, app, ..] if first == "images" => Some(app),
        _ => None,
    }
}

fn read(file: &Path) -> std::io::Result<String> {
    if file != Path::new("-") {
        return std::fs::read_to_string(file);
    }
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    Ok(text)
}

/// Applies a document by `apply`; its mistakes are told with their places in `name`.
pub(crate) async fn apply_source(
    name: &str,
    source: &Source,
    apply: impl AsyncFnOnce(ApplyRequest) -> Result<ApplyAnswer, ClientError>,
) -> anyhow::Result<ApplyAnswer> {
    let request = ApplyRequest {
        document: source.document.clone(),
        ..ApplyRequest::default()
    };
    match apply(request).await {
        Ok(answer) => Ok(answer),
        Err(ClientError::Problem(problem)) if !problem.problems.is_empty() => {
            let (flags, parts): (Vec<_>, Vec<_>) = problem
                .problems
                .iter()
                .cloned()
                .partition(|place| of_image(place).is_some());
            let mut lines = definitions::locate(name, &parts, &source.places);
            let flag = |place: &Place| Some(format!("--image {}: {}", of_image(place)?, place.message));
            lines.extend(flags.iter().filter_map(flag));
            Err(anyhow!(Coded {
                code: "invalid_definitions",
                message: format!(
                    "nothing was changed; the definitions have mistakes:\n{}",
                    lines.join("\n")
                ),
            }))
        }
        Err(error) => Err(error.into()),
    }
}

fn plan(answer: &ApplyAnswer, dry_run: bool, out: &Output) -> String {
    let mut table = Table::new(&["ACTION", "KIND", "APP", "NAME", "CHANGES"]);
    let mut changed = 0;
    for item in &answer.plan {
        let tone = match item.action.as_str() {
            "create" => Some(Tone::Good),
            "update" => Some(Tone::Busy),
            "delete" => Some(Tone::Bad),
            _ => Some(Tone::Quiet),
        };
        changed += usize::from(!matches!(item.action.as_str(), "unchanged" | "keep"));
        table.row(vec![
            (tone, item.action.clone()),
            cell(&item.kind),
            maybe(item.app.as_ref()),
            cell(&item.name),
            cell(item.changes.join("; ")),
        ]);
    }
    let told = match (changed, dry_run) {
        (0, _) => "nothing changes".to_owned(),
        (count, true) => format!("{count} would change; nothing was changed (--dry-run)"),
        (count, false) => format!("{count} changed"),
    };
    let kept = answer.plan.iter().any(|item| item.action == "keep");
    let kept = if kept {
        "; `keep`: not in the file any more, and still there"
    } else {
        ""
    };
    format!("{}{told}{kept}", table.text(out, ""))
}
