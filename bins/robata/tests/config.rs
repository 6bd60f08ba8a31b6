//! The examples in `config/` parse, and `robata config` says what is in force.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, too")]

mod support;

use std::{collections::BTreeSet, fs, path::PathBuf};

use robata_client::definitions::{self, Format};
use robata_core::definition::Document;
use robata_settings::{
    Defaults, Loaded, PostgresSettings, QueueSettings, RedisSettings, Settings, Sources, StoreSettings,
};
use support::{Running, robata};

fn examples() -> Vec<PathBuf> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../config");
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    files.sort();
    assert!(files.len() >= 4, "{files:?}");
    files
}

fn sources(file: Option<PathBuf>) -> Sources {
    Sources {
        defaults: Defaults {
            data_folder: "/var/lib/robata".into(),
            host: "this-machine".into(),
            cores: 2,
        },
        file,
        variables: Vec::new(),
        flags: Vec::new(),
    }
}

#[test]
fn every_example_parses() {
    for file in examples() {
        let text = fs::read_to_string(&file).unwrap();
        // Definitions have apps; all other examples are settings.
        if text.contains("[apps.") {
            let source = definitions::read(&text, Format::Toml).unwrap();
            let document = Document::read(&source.document);
            assert!(document.is_ok(), "{}: {document:?}", file.display());
        } else if let Err(errors) = sources(Some(file)).load() {
            panic!("{errors}");
        }
    }
}

/// docker-compose.yml's own: one file of settings, a broker by a file of variables, secrets in files.
#[test]
fn the_settings_of_the_compose_stack_are_whole_with_each_of_its_brokers() {
    let root = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    let keys = tempfile::tempdir().unwrap();
    for (name, key) in [
        ("admin-token", "0123456789abcdef0123456789abcdef"),
        ("postgres-url", "postgres://robata:secret@postgres:5432/robata"),
        ("redis-url", "redis://:secret@redis:6379/0"),
        ("rabbitmq-url", "amqp://robata:secret@rabbitmq:5672/%2f"),
    ] {
        fs::write(keys.path().join(name), key).unwrap();
    }
    let here = |name: &str, value: &str| {
        let value = value.replace("/keys", keys.path().to_str().unwrap());
        (name.to_owned(), value)
    };
    let compose = fs::read_to_string(root.join("docker-compose.yml")).unwrap();
    let daemons: Vec<_> = compose
        .lines()
        .filter_map(|line| line.trim().split_once(": "))
        .filter(|(name, _)| name.starts_with("ROBATA_") && name.contains("__"))
        .map(|(name, value)| here(name, value))
        .collect();
    assert_eq!(daemons.len(), 2, "{daemons:?}");
    let mut brokers = Vec::new();
    for entry in fs::read_dir(root.join("config/compose")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "env") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let set = text.lines().filter(|line| !line.starts_with('#'));
        let set = set.filter_map(|line| line.split_once('='));
        let mut sources = sources(Some(root.join("config/compose/robata.toml")));
        sources.variables = daemons.clone();
        sources.variables.extend(set.map(|(name, value)| here(name, value)));
        let settings = sources
            .load()
            .unwrap_or_else(|errors| panic!("{}: {errors}", path.display()))
            .settings;
        assert!(matches!(settings.store, StoreSettings::Postgres(_)));
        assert!(settings.server.listen.is_reached_by_others() && !settings.worker.listen.is_reached_by_others());
        brokers.push(path.file_stem().unwrap().to_str().unwrap().to_owned());
        let chosen = serde_json::to_value(&settings.queue).unwrap();
        assert_eq!(chosen.as_object().unwrap().keys().next(), brokers.last());
    }
    // The default, and a profile for each of the others.
    brokers.sort();
    assert!(brokers.contains(&"redis".to_owned()), "{brokers:?}");
    for broker in brokers.iter().filter(|broker| *broker != "redis") {
        assert!(compose.contains(&format!("profiles: [{broker}]")), "{broker}");
    }
}

/// The image that compiles has the workspace's own compiler.
#[test]
fn the_dockerfile_compiles_with_the_toolchain_of_the_workspace() {
    let dockerfile = include_str!("../../../Dockerfile");
    let toolchain = include_str!("../../../rust-toolchain.toml");
    let channel = toolchain
        .lines()
        .find_map(|line| line.strip_prefix("channel = \""))
        .unwrap();
    let (minor, _) = channel.trim_end_matches('"').rsplit_once('.').unwrap();
    let image = format!("rust:{minor}-bookworm");
    assert!(dockerfile.contains(&format!("ARG BUILD={image}\n")), "{image}");
    assert!(include_str!("../../../docker-compose.yml").contains(&format!("${{ROBATA_BUILD:-{image}}}")));
}

/// The example with every setting switched on: each stands there as a comment, `#key = value`. Prose begins with `# `.
fn switched_on(text: &str) -> Loaded {
    let folder = tempfile::tempdir().unwrap();
    let set: String = text
        .lines()
        .map(|line| {
            line.strip_prefix('#')
                .filter(|rest| !rest.starts_with(' '))
                .unwrap_or(line)
        })
        .map(|line| format!("{line}\n"))
        .collect();
    let file = folder.path().join("set.toml");
    fs::write(&file, &set).unwrap();
    sources(Some(file))
        .load()
        .unwrap_or_else(|errors| panic!("{errors}\n{set}"))
}

/// The keys that the example leaves out.
fn left_out(loaded: &Loaded) -> BTreeSet<String> {
    let entries = loaded.provenance().iter();
    entries
        .filter(|entry| entry.place == robata_settings::Place::Default)
        .map(|entry| entry.key.clone())
        .collect()
}

/// The settings with what has no default taken out again.
fn without_examples(loaded: &Loaded) -> Settings {
    let mut settings = loaded.settings.clone();
    settings.definitions.default_executor = None;
    settings.server.tls = None;
    settings.auth.admin_token = None;
    settings.executors = unset(loaded);
    settings.worker.on_sigterm = None;
    settings.telemetry.filter = None;
    if let StoreSettings::Postgres(postgres) = &mut settings.store {
        postgres.url.clear();
        postgres.listen_url = None;
    }
    if let QueueSettings::Redis(redis) = &mut settings.queue {
        redis.url.clear();
        redis.ca = None;
    }
    settings
}

#[test]
fn the_embedded_example_has_every_setting_with_its_default() {
    let loaded = switched_on(include_str!("../../../config/embedded.toml"));
    let defaults = sources(None).load().unwrap().settings;
    assert_eq!(without_examples(&loaded), defaults);
    assert_eq!(left_out(&loaded), BTreeSet::new());
}

#[test]
fn the_daemons_examples_have_every_setting_that_they_read_with_its_default() {
    let defaults = Settings {
        store: StoreSettings::Postgres(PostgresSettings::default()),
        queue: QueueSettings::Redis(RedisSettings::default()),
        ..sources(None).load().unwrap().settings
    };
    for (text, not_read) in [
        (include_str!("../../../config/master.toml"), &["worker."][..]),
        (
            include_str!("../../../config/worker.toml"),
            &["server.listen", "limits.", "scheduler.", "degraded."],
        ),
    ] {
        let loaded = switched_on(text);
        assert_eq!(without_examples(&loaded), defaults);
        let mut told = left_out(&loaded);
        told.retain(|key| !not_read.iter().any(|table| key.starts_with(table)));
        assert_eq!(told, BTreeSet::new());
    }
}

#[test]
fn the_units_start_what_there_is_and_leave_running_jobs_alone() {
    for (name, text) in [
        ("master", include_str!("../../../config/systemd/robata-master.service")),
        ("worker", include_str!("../../../config/systemd/robata-worker.service")),
    ] {
        let start = format!("ExecStart=/usr/local/bin/robata-{name} --config /etc/robata/{name}.toml");
        let mut section = "";
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            if let Some(header) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
                section = header;
            } else {
                assert!(line.contains('=') && !section.is_empty(), "{name}: {line}");
            }
        }
        assert_eq!(section, "Install");
        assert!(text.lines().any(|line| line == start), "{text}");
        assert_eq!(text.contains("\nKillMode=process\n"), name == "worker");
    }
}

/// The executors with what has no default taken out again.
fn unset(loaded: &Loaded) -> std::collections::BTreeMap<robata_core::ExecutorName, robata_settings::ExecutorSettings> {
    let mut executors = loaded.settings.executors.clone();
    for executor in executors.values_mut() {
        match executor {
            robata_settings::ExecutorSettings::Docker(docker) => {
                docker.config_json = None;
                docker.max = robata_settings::MaxSettings::default();
                docker.keep_images = None;
                docker.secrets = None;
            }
            robata_settings::ExecutorSettings::Process(process) => {
                process.max = robata_settings::MaxSettings::default();
                process.secrets = None;
            }
        }
    }
    executors
}

#[test]
fn config_prints_each_value_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("robata.toml");
    fs::write(&file, "[limits]\nlabels = 7\n").unwrap();
    let mut command = robata();
    command
        .args(["config", "--listen", "127.0.0.1:9"])
        .env("ROBATA_CONFIG", &file);
    command
        .env("ROBATA_WORKER__HOST", "elsewhere")
        .env("XDG_DATA_HOME", "/data")
        .env("DOCKER_HOST", "unix:///run/user/1000/docker.sock");
    let ran = Running::start(command).end();
    assert_eq!(ran.code, Some(0), "{ran:?}");
    for part in [
        "server.listen = \"127.0.0.1:9\"  # flag --listen",
        &format!("limits.labels = 7  # {}:2", file.display()),
        "worker.host = \"elsewhere\"  # variable ROBATA_WORKER__HOST",
        "data.folder = \"/data/robata\"  # default",
        "executors.docker.docker.host = \"unix:///run/user/1000/docker.sock\"  # variable DOCKER_HOST",
    ] {
        assert!(ran.stdout.contains(part), "{part} is not in\n{}", ran.stdout);
    }
}
