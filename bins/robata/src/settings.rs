//! Settings from this process's environment and this command's flags.

use robata_daemon::{Given, load as load_given};
use robata_settings::Loaded;

use crate::args::SettingsArgs;

/// Loads the settings, or tells every mistake in them.
pub(crate) fn load(args: &SettingsArgs) -> anyhow::Result<Loaded> {
    let given = Given {
        config: args.config.clone(),
        ..Given::default()
    };
    let given = given.flag("--listen", "server.listen", args.listen.as_ref());
    load_given(given.data_dir(args.data_dir.as_deref())?)
}
