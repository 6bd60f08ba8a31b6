//! What a shell and `man` want to know of this program, both made from its own description of itself.

use std::{fs, path::Path, process::ExitCode};

use anyhow::Context as _;
use clap::CommandFactory as _;

use crate::{
    args::Cli,
    output::{self, Output},
};

/// Prints a shell's completions.
pub(crate) fn completion(shell: clap_complete::Shell) -> anyhow::Result<ExitCode> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "robata", &mut text);
    output::bytes(false, &text)?;
    Ok(ExitCode::SUCCESS)
}

/// Writes a page for each command.
pub(crate) fn man(folder: &Path, out: &Output) -> anyhow::Result<ExitCode> {
    fs::create_dir_all(folder)
        .and_then(|()| clap_mangen::generate_to(Cli::command(), folder))
        .with_context(|| format!("cannot write the manual into {}", folder.display()))?;
    out.note(&format!("read it with `man {}`", folder.join("robata.1").display()));
    Ok(ExitCode::SUCCESS)
}
