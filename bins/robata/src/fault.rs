//! How an error ends the program: what is wrong, where, what to do, and the exit code.

use std::process::ExitCode;

use robata_client::ClientError;
use serde_json::json;

use crate::{
    exit,
    output::{Output, ReaderGone, complain, complain_json},
};

pub(crate) use robata_daemon::{Coded, Usage};

/// Tells the error on standard error, and answers its exit code.
pub(crate) fn report(error: &anyhow::Error, out: &Output) -> ExitCode {
    if error.is::<ReaderGone>() {
        // As a shell's other programs end when their reader has gone: by SIGPIPE's number.
        return ExitCode::from(141);
    }
    if out.is_json() {
        complain_json(&json!({"error": {"code": code(error), "message": message(error)}}));
    } else {
        complain(&format!("error: {}", message(error)));
    }
    ExitCode::from(if error.is::<Usage>() { 2 } else { exit::ERROR })
}

fn code(error: &anyhow::Error) -> String {
    if error.is::<Usage>() {
        return "usage".to_owned();
    }
    if let Some(coded) = error.downcast_ref::<Coded>() {
        return coded.code.to_owned();
    }
    if error.is::<robata_settings::Errors>() {
        return "invalid_settings".to_owned();
    }
    match error.downcast_ref::<ClientError>() {
        Some(ClientError::Problem(problem)) => problem.code.clone(),
        Some(ClientError::Unauthenticated { problem, .. }) => problem.code.clone(),
        Some(ClientError::Unreachable { .. }) => "unreachable".to_owned(),
        _ => "error".to_owned(),
    }
}

fn message(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    match error.downcast_ref::<ClientError>() {
        Some(ClientError::Unreachable { server, source }) => {
            return format!(
                "no Robata answers at {server} ({}); start one with `robata up`, or name another with --server",
                root(source)
            );
        }
        Some(ClientError::Problem(problem)) => {
            for place in &problem.problems {
                text.push_str(&format!("\n  {}: {}", place.path.join("."), place.message));
            }
            if problem.nearest.len() == 1 && !text.contains(&problem.nearest[0]) {
                text.push_str(&format!("; did you mean {}?", problem.nearest[0]));
            } else if problem.nearest.len() > 1 && !text.contains(&problem.nearest[0]) {
                text.push_str(&format!("; there are {}", problem.nearest.join(", ")));
            }
            return text;
        }
        Some(ClientError::Unauthenticated { with_token, .. }) => {
            text.push_str(match with_token {
                true => "; ROBATA_TOKEN has it",
                false => "; put one into ROBATA_TOKEN (who has an admin's makes one with `robata tokens create`)",
            });
            return text;
        }
        _ => {}
    }
    robata_daemon::message(error)
}

/// The innermost cause: reqwest's own words say only that it could not.
fn root(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(next) = innermost.source() {
        innermost = next;
    }
    innermost.to_string()
}
