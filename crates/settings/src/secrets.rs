//! `[executors.NAME.….secrets]`: where an executor's secrets live.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Exactly one of these; the values themselves are no settings, and are read where an attempt starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SecretsSettings {
    /// A folder: the value is the file `APP/NAME` in it, less one newline at its end.
    Folder(PathBuf),
    /// A file of lines `APP/NAME=value`.
    File(PathBuf),
    /// A program and its arguments, to which app and name are added: it prints the value. No shell.
    Command(Vec<String>),
}
