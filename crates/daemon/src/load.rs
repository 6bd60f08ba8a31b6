//! Settings from this process's environment and flags; the one place that reads them.

use std::path::{Path, PathBuf};

use robata_settings::{Defaults, Flag, Loaded, Sources};

/// What the command line gives.
#[derive(Clone, Debug, Default)]
pub struct Given {
    /// The settings file.
    pub config: Option<PathBuf>,
    /// Settings that were given as flags.
    pub flags: Vec<Flag>,
}

impl Given {
    /// With the setting `key` as the flag `name` gives it.
    #[must_use]
    pub fn flag(mut self, name: &'static str, key: impl Into<String>, value: Option<impl ToString>) -> Self {
        self.flags.extend(value.map(|value| Flag {
            name,
            key: key.into(),
            value: value.to_string(),
        }));
        self
    }

    /// With the data folder as `--data-dir` gives it.
    pub fn data_dir(self, folder: Option<&Path>) -> std::io::Result<Self> {
        let folder = folder.map(std::path::absolute).transpose()?;
        Ok(self.flag(
            "--data-dir",
            "data.folder",
            folder.map(|folder| folder.display().to_string()),
        ))
    }
}

/// Loads the settings, or tells every mistake in them.
pub fn load(given: Given) -> anyhow::Result<Loaded> {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let sources = Sources {
        defaults: Defaults {
            data_folder: data_folder(),
            host: host(),
            cores: u32::try_from(cores).unwrap_or(u32::MAX),
        },
        file: given.config,
        // What is not UTF-8 cannot be a setting.
        variables: std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect(),
        flags: given.flags,
    };
    Ok(sources.load()?)
}

/// `robata` in `$XDG_DATA_HOME`, else in `~/.local/share`; without a home, in the system's own place.
fn data_folder() -> PathBuf {
    let folder = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    folder("XDG_DATA_HOME")
        .or_else(|| folder("HOME").map(|home| home.join(".local/share")))
        .unwrap_or_else(|| PathBuf::from("/var/lib"))
        .join("robata")
}

fn host() -> String {
    nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok())
        .unwrap_or_else(|| "localhost".to_owned())
}
