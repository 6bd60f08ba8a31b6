//! Settings from this process's environment and flags; the one place that reads them.

use std::path::PathBuf;

use robata_settings::{Defaults, Flag, Loaded, Sources};

use crate::args::SettingsArgs;

/// Loads the settings, or tells every mistake in them.
pub(crate) fn load(args: &SettingsArgs) -> anyhow::Result<Loaded> {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut flags = Vec::new();
    if let Some(listen) = args.listen {
        flags.push(Flag {
            name: "--listen",
            key: "server.listen",
            value: listen.to_string(),
        });
    }
    if let Some(folder) = &args.data_dir {
        flags.push(Flag {
            name: "--data-dir",
            key: "data.folder",
            value: std::path::absolute(folder)?.display().to_string(),
        });
    }
    let sources = Sources {
        defaults: Defaults {
            data_folder: data_folder(),
            host: host(),
            cores: u32::try_from(cores).unwrap_or(u32::MAX),
        },
        file: args.config.clone(),
        // What is not UTF-8 cannot be a setting.
        variables: std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect(),
        flags,
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
