//! `robata tokens`: who may do what.

use std::process::ExitCode;

use robata_client::{
    NewTokenRequest, Span,
    types::{Token, TokenList},
};
use serde_json::json;

use crate::{
    args::{Connection, TokensArgs, TokensCommand},
    clock,
    output::{Output, Tone},
    table::{Table, cell},
};

pub(crate) async fn tokens(server: &Connection, args: TokensArgs, out: &Output) -> anyhow::Result<ExitCode> {
    let client = server.client()?;
    match args.command {
        TokensCommand::Create {
            name,
            role,
            app,
            expires_in,
        } => {
            let request = NewTokenRequest {
                name,
                role,
                app,
                expires_in: expires_in.map(Span),
            };
            let made = client.create_token(&request).await?;
            // The token alone is the data, for `$(…)`; the rest is for who looks on.
            out.print(&made, || made.token.clone())?;
            let whose = match &made.of.app {
                Some(app) => format!("{} of the app {app}", made.of.role),
                None => made.of.role.to_string(),
            };
            out.note(&format!(
                "{} may {whose}, {}. It is shown this once; commands take it from ROBATA_TOKEN.",
                made.of.name,
                until(&made.of)
            ));
        }
        TokensCommand::List => list(
            &TokenList {
                tokens: client.tokens().await?,
            },
            out,
        )?,
        TokensCommand::Revoke { name } => {
            client.revoke_token(&name).await?;
            out.print(&json!({"revoked": name}), || {
                format!("{name} is revoked; it is valid nowhere in ten seconds")
            })?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn list(list: &TokenList, out: &Output) -> anyhow::Result<()> {
    out.print(list, || {
        let mut table = Table::new(&["TOKEN", "ROLE", "APP", "VALID", "MADE", "BY"]);
        for token in &list.tokens {
            let valid = match token.expired {
                true => (Some(Tone::Bad), "expired".to_owned()),
                false => cell(until(token)),
            };
            table.row(vec![
                cell(token.name.as_str()),
                cell(token.role.as_str()),
                cell(token.app.as_ref().map_or("all", |app| app.as_str())),
                valid,
                cell(clock::ago(token.created_at, clock::now())),
                cell(&token.created_by),
            ]);
        }
        table.text(
            out,
            "no token; every request on this machine acts as admin, unless the settings have one",
        )
    })
}

fn until(token: &Token) -> String {
    match token.expires_at {
        Some(end) => format!("until {end}"),
        None => "until it is revoked".to_owned(),
    }
}
