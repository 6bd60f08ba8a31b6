//! A private registry through the real binary: its credentials right, wrong and missing, from the file and from helpers that
//! work, fail and are not there; what the user reads then, and that no credential is found anywhere.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, too")]

#[path = "support/secrecy.rs"]
mod secrecy;
mod support;

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use base64::{Engine, engine::general_purpose::STANDARD};
use secrecy::{VALUE, found_below, found_in};
use serde_json::{Value, json};
use support::{Options, Server, eventually};

fn variable(name: &str) -> String {
    std::env::var(name)
        .unwrap_or_else(|_| panic!("{name} is not set: `tests/run --services` starts what these tests need"))
}

/// A server whose Docker executor reads credentials from a file of the test's.
struct Registry {
    server: Server,
    address: String,
    /// Of the file, and of the helpers.
    folder: tempfile::TempDir,
}

impl Registry {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (user, password) = right();
        let answer = |user: &str, secret: &str| format!(r#"printf '{{"Username":"{user}","Secret":"{secret}"}}'"#);
        for (name, script) in [
            ("right", answer(&user, &password)),
            ("wrong", answer(&user, VALUE)),
            (
                "failing",
                format!("{}; echo 'the vault is sealed' >&2; exit 3", answer(&user, VALUE)),
            ),
            ("garbage", format!("echo {VALUE}")),
            (
                "spying",
                "echo \"settings: $(env | grep -c ^ROBATA_)\" >&2; exit 4".to_owned(),
            ),
        ] {
            let file = folder.path().join(format!("docker-credential-{name}"));
            fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let address = variable("ROBATA_TEST_REGISTRY_AUTH");
        let mut options = Options::docker();
        let config = folder.path().join("config.json").display().to_string();
        options.env.extend([
            ("ROBATA_EXECUTORS__DOCKER__DOCKER__CONFIG_JSON".to_owned(), config),
            (
                "PATH".to_owned(),
                format!("{}:{}", folder.path().display(), variable("PATH")),
            ),
            // As much as anybody can have it say.
            ("RUST_LOG".to_owned(), "trace".to_owned()),
        ]);
        let server = Server::with(options);
        server.apply(&format!(
            "[apps.t]\nexecutor = \"docker\"\nimage = \"{address}/robata-test/busybox:1\"\n\
             docker = {{ network = \"none\", pull = \"always\" }}\n\
             [apps.t.jobs.pulls]\ncommand = [\"/bin/true\"]\n\
             [apps.t.jobs.soon]\ncommand = [\"/bin/true\"]\nstart_within = \"3s\"\nretry = {{ platform = 0 }}\n"
        ));
        Self {
            server,
            address,
            folder,
        }
    }

    /// What Docker's config.json says from now on.
    fn says(&self, config: &str) {
        let (file, aside) = (self.folder.path().join("config.json"), self.folder.path().join("aside"));
        fs::write(&aside, config).unwrap();
        fs::rename(aside, file).unwrap();
    }

    fn auth(&self, user: &str, password: &str) -> Value {
        json!({"auths": {&self.address: {"auth": STANDARD.encode(format!("{user}:{password}"))}}})
    }

    fn helper(&self, name: &str) -> Value {
        json!({"credHelpers": {&self.address: name}})
    }

    fn enqueued(&self, config: &Value) -> String {
        self.says(&config.to_string());
        self.server.enqueue(&["t/pulls"])
    }

    /// Waits until the job says that it waits for this.
    fn waits_for(&self, id: &str, words: &[&str]) {
        eventually(&format!("{id} waits and says {words:?}"), || {
            let waiting = self.server.job(id)["waiting"].clone();
            let message = waiting["message"].as_str()?;
            (waiting["reason"] == "engine_unreachable" && words.iter().all(|words| message.contains(words)))
                .then_some(())
        });
    }

    /// Fails where a credential is in any file, answer or line of the log.
    fn nowhere(&self) {
        let (user, password) = right();
        let own = [
            STANDARD.encode(format!("{user}:{password}")),
            format!("{user}:{password}"),
            format!("\"Secret\":\"{password}\""),
            format!("\"password\":\"{password}\""),
        ];
        let mut told = self.server.stderr() + &format!("{:?}", self.server.events());
        for args in [&["jobs", "list"][..], &["apps", "show", "t"], &["workers", "list"]] {
            told += &self.server.run(&[&["--output", "json"], args].concat()).ok().stdout;
        }
        for job in self.server.json(&["jobs", "list"])["jobs"].as_array().unwrap() {
            told += &self.server.job(job["id"].as_str().unwrap()).to_string();
        }
        assert_eq!(found_in(told.as_bytes()), None, "{told}");
        for own in own {
            assert!(!told.contains(&own), "{own}: {told}");
            assert!(!has(self.server.data(), own.as_bytes()), "{own}");
        }
        assert_eq!(found_below(self.server.data()), []);
    }
}

fn right() -> (String, String) {
    (
        variable("ROBATA_TEST_REGISTRY_USER"),
        variable("ROBATA_TEST_REGISTRY_PASSWORD"),
    )
}

/// Whether any file below a folder has these bytes.
fn has(folder: &Path, needle: &[u8]) -> bool {
    fs::read_dir(folder).unwrap().flatten().any(|entry| {
        let path = entry.path();
        if path.is_dir() {
            return has(&path, needle);
        }
        path.is_file()
            && fs::read(&path)
                .unwrap_or_default()
                .windows(needle.len())
                .any(|found| found == needle)
    })
}

#[test]
fn the_credentials_of_a_private_registry_are_right_wrong_or_missing() {
    let registry = Registry::new();
    let (user, password) = right();
    for wrong in [json!({}), registry.auth(&user, VALUE), registry.helper("wrong")] {
        let id = registry.enqueued(&wrong);
        let job = registry.server.until(&id, "failed");
        assert_eq!(job["reason"], "image_pull", "{job:#}");
        let message = job["attempts"][0]["message"].as_str().unwrap();
        assert!(
            message.contains("robata-test/busybox:1") && message.contains("auth"),
            "{message}"
        );
    }
    for config in [
        registry.auth(&user, &password),
        registry.helper("right"),
        json!({"credsStore": "right"}),
        // A registry's own helper goes before that of all.
        json!({"credHelpers": {&registry.address: "right"}, "credsStore": "failing"}),
    ] {
        let id = registry.enqueued(&config);
        registry.server.until(&id, "succeeded");
    }
    registry.nowhere();
}

#[test]
fn a_helper_of_a_registry_that_fails_is_told_and_waited_for_at_nobodys_expense() {
    let registry = Registry::new();
    let (user, password) = right();
    for (config, words) in [
        (
            registry.helper("failing"),
            "docker-credential-failing ended with 3: the vault is sealed",
        ),
        (
            registry.helper("garbage"),
            "the answer of docker-credential-garbage is no login",
        ),
        (
            registry.helper("not-there"),
            "docker-credential-not-there is not in the PATH",
        ),
        // It may be in the middle of being written.
        (json!({"auths": {&registry.address: VALUE}}), "config.json: line 1"),
        (
            json!({"auths": {&registry.address: {"auth": STANDARD.encode(VALUE)}}}),
            "is not base64 of user:password",
        ),
    ] {
        let id = registry.enqueued(&config);
        registry.waits_for(&id, &[words]);
        // Once it is set right the same attempt goes on.
        registry.says(&registry.auth(&user, &password).to_string());
        let job = registry.server.until(&id, "succeeded");
        assert_eq!(job["attempts"].as_array().unwrap().len(), 1, "{job:#}");
    }
    // None of our own settings are a helper's business.
    let id = registry.enqueued(&registry.helper("spying"));
    registry.waits_for(&id, &["docker-credential-spying ended with 4: settings: 0"]);
    registry.server.run(&["jobs", "cancel", &id]).ok();
    registry.server.until(&id, "cancelled");

    registry.says(&registry.helper("failing").to_string());
    let id = registry.server.enqueue(&["t/soon"]);
    let job = registry.server.until(&id, "failed");
    assert_eq!(
        (&job["reason"], &job["attempts"][0]["counted"]),
        (&json!("platform"), &json!(false)),
        "{job:#}"
    );
    assert!(job.to_string().contains("the vault is sealed"), "{job:#}");
    registry.nowhere();
}
