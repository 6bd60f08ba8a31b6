//! `robata audit`: who did what.

use std::process::ExitCode;

use robata_client::AuditFilter;

use crate::{
    args::{AuditArgs, Connection},
    clock,
    output::Output,
    table::{Table, cell, maybe},
};

pub(crate) async fn audit(server: &Connection, args: AuditArgs, out: &Output) -> anyhow::Result<ExitCode> {
    let filter = AuditFilter {
        app: args.app.map(|app| app.to_string()),
        by: args.by,
        job: args.job.map(|job| job.to_string()),
        before: args.before,
        limit: Some(args.limit),
    };
    let page = server.client()?.audit(&filter).await?;
    out.print(&page, || {
        let now = clock::now();
        let mut table = Table::new(&["NUMBER", "WHEN", "BY", "ACTION", "APP", "NAME", "JOB"]);
        for record in &page.records {
            table.row(vec![
                cell(record.seq.to_string()),
                cell(clock::ago(record.at, now)),
                cell(&record.by),
                cell(&record.action),
                maybe(record.app.as_ref()),
                maybe(record.name.as_ref()),
                maybe(record.job),
            ]);
        }
        let mut text = table.text(out, "nothing was done");
        if let Some(next) = page.next_before {
            text.push_str(&format!("more: --before {next}\n"));
        }
        text
    })?;
    Ok(ExitCode::SUCCESS)
}
