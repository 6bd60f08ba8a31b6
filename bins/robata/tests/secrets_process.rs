//! Secrets through the real binary with jobs as processes: the job has the value, and nothing else has it.

#[path = "support/secrecy.rs"]
mod secrecy;
mod support;
#[path = "support/told.rs"]
mod told;

use std::{fs, os::unix::fs::PermissionsExt};

use secrecy::{PRINTS, VALUE, Vault, found_below};
use support::{Options, Server, eventually};
use told::{finalised, nowhere_told};

fn server(vault: &Vault) -> Server {
    let server = Server::with(Options {
        env: vec![
            vault.setting("process", "process"),
            // As much as anybody can have it say.
            ("RUST_LOG".to_owned(), "trace".to_owned()),
        ],
        ..Options::default()
    });
    server.apply(&definitions(""));
    server
}

fn definitions(more: &str) -> String {
    format!(
        r#"
[apps.t]
executor = "process"
secrets = {{ SECRET = "value" }}
[apps.t.jobs.prints]
command = ["/bin/sh", "-c", {PRINTS:?}]
[apps.t.jobs.waits]
command = ["/bin/sh", "-c", "printf 'begin zQ7vX3kJ9w'; until [ -e \"$FLAG\" ]; do sleep 0.05; done; echo Pm4TyR8bLs end; echo $SECRET"]
timeout = "1m"
[apps.t.jobs.missing]
command = ["/bin/true"]
secrets = {{ OTHER = "not-there" }}
{more}"#
    )
}

#[test]
fn a_secret_is_found_nowhere_but_in_the_job() {
    let vault = Vault::new();
    let mut server = server(&vault);
    let id = server.enqueue(&["t/prints"]);
    server.until(&id, "succeeded");
    finalised(&server, &id);
    let log = server.run(&["jobs", "logs", &id]).ok().stdout;
    assert!(
        log.contains("plain ***") && log.contains("SECRET=***") && log.ends_with("done\n"),
        "{log}"
    );
    assert!(log.contains("ROBATA_APP=t") && log.matches("***").count() >= 6, "{log}");
    nowhere_told(&server, &id);
    assert_eq!(found_below(server.data()), []);
    server.stop();
    assert_eq!(found_below(server.data()), [], "after the database was closed");
}

#[test]
fn what_the_system_says_of_a_failed_start_is_masked() {
    let vault = Vault::new();
    let server = server(&vault);
    server.apply(&definitions(&format!(
        "[apps.t.jobs.echoed]\ncommand = [\"/no/such/{VALUE}\"]\n"
    )));
    let id = server.enqueue(&["t/echoed"]);
    let job = server.until(&id, "failed");
    assert_eq!(job["reason"], "start_error");
    let message = job["attempts"][0]["message"].as_str().unwrap_or_default();
    assert!(message.contains("/no/such/***"), "{message}");
}

#[test]
fn a_missing_secret_is_told_with_its_name_and_place() {
    let vault = Vault::new();
    let server = server(&vault);
    let id = server.enqueue(&["t/missing"]);
    let job = server.until(&id, "failed");
    assert_eq!(
        (&job["reason"], &job["attempts"][0]["state"]),
        (&"start_error".into(), &"error".into()),
        "{job:#}"
    );
    let message = job["attempts"][0]["message"].as_str().unwrap_or_default();
    let path = vault.path().join("t/not-there").display().to_string();
    assert!(
        message.contains("not-there of app t") && message.contains(&path),
        "{message}"
    );
    nowhere_told(&server, &id);
}

#[test]
fn killed_and_adopted_a_job_is_masked_on_and_a_changed_value_reaches_the_next() {
    let vault = Vault::new();
    let mut server = server(&vault);
    let flag = server.data().join("flag").display().to_string();
    server.apply(&definitions(&format!("[apps.t.jobs.waits.env]\nFLAG = {flag:?}\n")));
    let id = server.enqueue(&["t/waits"]);
    server.until_attempt(&id, "running");
    // Half of the value is printed, the beginning of the log is kept, the rest is held back.
    eventually("the beginning is kept", || {
        server
            .run(&["jobs", "logs", &id])
            .stdout
            .starts_with("begin ")
            .then_some(())
    });
    server.kill9();
    server.restart();
    fs::write(&flag, "").unwrap();
    server.until(&id, "succeeded");
    finalised(&server, &id);
    assert_eq!(server.run(&["jobs", "logs", &id]).ok().stdout, "begin *** end\n***\n");
    nowhere_told(&server, &id);
    assert_eq!(found_below(server.data()), []);
    vault.set("value", "another-value-of-20b");
    let id = server.enqueue(&["t/prints"]);
    server.until(&id, "succeeded");
    finalised(&server, &id);
    let log = server.run(&["jobs", "logs", &id]).ok().stdout;
    assert!(log.contains("plain ***") && !log.contains("another-value"), "{log}");
}

#[test]
fn neither_an_enqueuer_nor_a_one_off_sets_what_a_secret_sets() {
    let vault = Vault::new();
    let server = server(&vault);
    let ran = server.run(&["run", "t", "--env", "SECRET=mine", "--", "/bin/true"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    ran.tells(&["SECRET is set by `secrets`"]);
    let ran = server
        .run(&["run", "t", "--", "/bin/sh", "-c", "echo ${#SECRET} $SECRET"])
        .ok();
    assert_eq!(ran.stdout, "20 ***\n");
    let refused = server.data().join("refused.toml");
    let text = "[apps.t.jobs.x]\ncommand = [\"x\"]\nsecrets = { A = \"a\", B = \"../b\" }\nenv_allow = [\"A\"]\n";
    fs::write(&refused, text).unwrap();
    let ran = server.run(&["apply", "-f", &refused.display().to_string()]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    ran.tells(&["is no secret name"]);
}

#[test]
fn a_command_gives_the_value_and_a_source_that_fails_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let (program, value) = (folder.path().join("get-secret"), folder.path().join("value"));
    let text = format!(
        "#!/bin/sh\n[ \"$1/$2\" = t/value ] || exit 66\nexec cat {}\n",
        value.display()
    );
    fs::write(&program, text).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).unwrap();
    let settings = folder.path().join("robata.toml");
    let text = format!(
        "[executors.process.process]\nsecrets = {{ command = [{:?}] }}\n",
        program.display().to_string()
    );
    fs::write(&settings, text).unwrap();
    let server = Server::with(Options {
        args: vec!["--config".to_owned(), settings.display().to_string()],
        ..Options::default()
    });
    server.apply(&definitions(""));
    let id = server.enqueue(&["t/prints"]);
    eventually("it waits, and says for what", || {
        let waiting = server.job(&id)["waiting"].clone();
        let words = waiting["message"].as_str()?.to_owned();
        (words.contains("get-secret") && words.contains("No such file")).then_some(())
    });
    fs::write(&value, format!("{VALUE}\n")).unwrap();
    server.until(&id, "succeeded");
    let id = server.enqueue(&["t/missing"]);
    assert_eq!(server.until(&id, "failed")["reason"], "start_error");
}
