//! Secrets through the real binary with jobs as containers: the job's own container has the value, and nothing else has it.

#[path = "support/secrecy.rs"]
mod secrecy;
mod support;
#[path = "support/told.rs"]
mod told;

use std::{path::Path, process::Command};

use secrecy::{PRINTS, Vault, found_below, found_in};
use serde_json::Value;
use support::{Options, Server, eventually};
use told::nowhere_told;

/// Asks the engine's own API over its socket, as `docker inspect` does.
fn engine(arguments: &[&str]) -> String {
    let host = std::env::var("ROBATA_TEST_DOCKER_HOST")
        .expect("ROBATA_TEST_DOCKER_HOST names the engine for tests; `tests/run --services` starts one");
    let ran = Command::new("docker").args(["--host", &host]).args(arguments).output();
    let ran = ran.expect("docker's own client, to inspect what is there");
    assert!(
        ran.status.success(),
        "docker {arguments:?}: {}",
        String::from_utf8_lossy(&ran.stderr)
    );
    String::from_utf8_lossy(&ran.stdout).into_owned()
}

/// All that the engine tells of everything of this installation but its jobs' own environment: labels, volumes, mounts, states.
fn told_of(installation: &str) -> String {
    let label = format!("label=robata.installation={installation}");
    let mut told = String::new();
    for id in engine(&["ps", "--all", "--quiet", "--filter", &label]).split_whitespace() {
        let mut inspected: Value = serde_json::from_str(&engine(&["inspect", id])).unwrap_or_default();
        if let Some(config) = inspected.pointer_mut("/0/Config").and_then(Value::as_object_mut) {
            config.remove("Env");
        }
        told += &inspected.to_string();
    }
    let volumes = engine(&["volume", "ls", "--quiet", "--filter", &label]);
    for name in volumes.split_whitespace() {
        told += &engine(&["volume", "inspect", name]);
    }
    assert!(told.contains(installation), "the engine tells nothing: {told}");
    told
}

#[test]
fn docker_a_secret_is_found_nowhere_but_in_the_job_and_is_masked_after_a_kill() {
    let vault = Vault::new();
    let mut options = Options::docker();
    options.env.push(vault.setting("docker", "docker"));
    options.env.push(("RUST_LOG".to_owned(), "trace".to_owned()));
    let mut server = Server::with(options);
    let image = std::env::var("ROBATA_TEST_IMAGE").expect("ROBATA_TEST_IMAGE names an image with a shell");
    // A Docker engine tells a line when it has ended.
    let waits = "printf 'begin\\nzQ7vX3kJ9w'; until [ -e /go ]; do sleep 0.1; done; echo Pm4TyR8bLs end; echo $SECRET";
    server.apply(&format!(
        "[apps.t]\nimage = {image:?}\nexecutor = \"docker\"\ndocker = {{ network = \"none\" }}\n\
         secrets = {{ SECRET = \"value\" }}\n\
         [apps.t.jobs.prints]\ncommand = [\"/bin/sh\", \"-c\", {PRINTS:?}]\n\
         [apps.t.jobs.waits]\ncommand = [\"/bin/sh\", \"-c\", {waits:?}]\ntimeout = \"2m\"\n\
         [apps.t.jobs.missing]\ncommand = [\"/bin/true\"]\nsecrets = {{ OTHER = \"not-there\" }}\n"
    ));
    let id = server.enqueue(&["t/prints"]);
    let job = server.until(&id, "succeeded");
    sealed(&server, &id);
    let log = server.run(&["jobs", "logs", &id]).ok().stdout;
    assert!(
        log.contains("plain ***") && log.contains("SECRET=***") && log.contains("done\n"),
        "{job:#}\n{log}"
    );
    nowhere_told(&server, &id);
    assert_eq!(found_below(server.data()), []);

    let id = server.enqueue(&["t/waits"]);
    let job = server.until_attempt(&id, "running");
    let container = job["attempts"][0]["handle"].as_str().unwrap_or_default().to_owned();
    eventually("the beginning is kept", || {
        server
            .run(&["jobs", "logs", &id])
            .stdout
            .starts_with("begin")
            .then_some(())
    });
    let told = told_of(&server.installation());
    assert_eq!(found_in(told.as_bytes()), None, "{told}");
    server.kill9();
    server.restart();
    engine(&["exec", &container, "touch", "/go"]);
    server.until(&id, "succeeded");
    sealed(&server, &id);
    assert_eq!(server.run(&["jobs", "logs", &id]).ok().stdout, "begin\n*** end\n***\n");
    nowhere_told(&server, &id);

    let id = server.enqueue(&["t/missing"]);
    let job = server.until(&id, "failed");
    assert_eq!(job["reason"], "start_error", "{job:#}");
    let message = job["attempts"][0]["message"].as_str().unwrap_or_default();
    assert!(message.contains("not-there of app t"), "{message}");
    server.stop();
    assert_eq!(found_below(Path::new(server.data())), []);
}

fn sealed(server: &Server, id: &str) {
    eventually("its log is sealed", || {
        (server.job(id)["attempts"][0]["log"]["state"] == "complete").then_some(())
    });
}
