//! `[executors.NAME.….secrets]`: exactly one place, and its mistakes.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, too")]

use std::path::PathBuf;

use robata_core::ExecutorName;
use robata_settings::{Defaults, Errors, Loaded, SecretsSettings, Sources};

fn load(text: &str, variables: &[(&str, &str)]) -> Result<Loaded, Errors> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("robata.toml");
    std::fs::write(&file, text).unwrap();
    let sources = Sources {
        defaults: Defaults {
            data_folder: PathBuf::from("/data"),
            host: "here".to_owned(),
            cores: 2,
        },
        file: Some(file),
        variables: variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        flags: Vec::new(),
    };
    sources.load()
}

fn of(text: &str, executor: &str) -> Option<SecretsSettings> {
    let loaded = load(text, &[]).unwrap();
    let name = ExecutorName::new(executor).unwrap();
    loaded.settings.executors[&name].secrets().cloned()
}

#[test]
fn every_executor_has_one_place_or_none() {
    let text = r#"
        [executors.a.docker.secrets]
        folder = "/run/secrets"
        [executors.b.process]
        secrets = { file = "/etc/robata/secrets.env" }
        [executors.c.docker]
        secrets.command = ["/usr/local/bin/get-secret", "--quiet"]
        [executors.d.process]
        slots = 1
    "#;
    assert_eq!(of(text, "a"), Some(SecretsSettings::Folder("/run/secrets".into())));
    assert_eq!(
        of(text, "b"),
        Some(SecretsSettings::File("/etc/robata/secrets.env".into()))
    );
    let argv = ["/usr/local/bin/get-secret", "--quiet"].map(str::to_owned);
    assert_eq!(of(text, "c"), Some(SecretsSettings::Command(argv.into())));
    assert_eq!(of(text, "d"), None);
}

#[test]
fn a_mistake_is_told_with_what_there_is() {
    for (text, part) in [
        (
            "[executors.a.docker.secrets]\nfolder = \"/a\"\nfile = \"/b\"\n",
            "executors.a.docker.secrets: takes one place, not",
        ),
        (
            "[executors.a.docker.secrets]\nfoldr = \"/a\"\n",
            "did you mean `executors.a.docker.secrets.folder`?",
        ),
        (
            "[executors.a.docker.secrets]\nvault = \"x\"\n",
            "[executors.a.docker.secrets] has one of folder, file, command",
        ),
        (
            "[executors.a.docker.secrets]\ncommand = []\n",
            "executors.a.docker.secrets.command: must name a program",
        ),
        (
            "[executors.a.docker.secrets]\ncommand = \"get-secret\"\n",
            "executors.a.docker.secrets.command: ",
        ),
        (
            "[executors.a.docker]\nsecrets = \"/run/secrets\"\n",
            "executors.a.docker.secrets: ",
        ),
    ] {
        let told = load(text, &[]).unwrap_err().to_string();
        assert!(told.contains(part), "{part}\nis not in\n{told}");
    }
}

#[test]
fn a_variable_names_the_place_and_the_provenance_says_so() {
    let loaded = load(
        "[executors.a.docker]\n",
        &[("ROBATA_EXECUTORS__A__DOCKER__SECRETS__FOLDER", "/run/secrets")],
    )
    .unwrap();
    let told: Vec<_> = loaded.provenance().iter().map(ToString::to_string).collect();
    let line =
        "executors.a.docker.secrets.folder = \"/run/secrets\"  # variable ROBATA_EXECUTORS__A__DOCKER__SECRETS__FOLDER";
    assert!(told.iter().any(|entry| entry == line), "{told:#?}");
    // `…_FILE` names a file that holds a value; `…__FILE` is the key `file`.
    let file = [("ROBATA_EXECUTORS__A__DOCKER__SECRETS__FILE", "/etc/robata/secrets.env")];
    let loaded = load("[executors.a.docker]\n", &file).unwrap();
    let (_, executor) = loaded.settings.executors.first_key_value().unwrap();
    assert_eq!(
        executor.secrets(),
        Some(&SecretsSettings::File("/etc/robata/secrets.env".into()))
    );
}
