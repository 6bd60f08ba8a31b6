//! Secrets with masters and workers apart: a value reaches its job, and neither the store, nor the broker, nor a file, a log, an
//! answer, an image of the engine or another process ever has it.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, too")]

#[path = "../../robata/tests/support/secrecy.rs"]
mod secrecy;
mod support;

use std::{fs, process::Command};

use nix::sys::signal::Signal;
use secrecy::{PRINTS, Vault, found_below, found_in};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Row};
use support::{Site, daemon::Daemon, eventually, proxy::Proxy, service};

/// Store and broker behind ways that remember all that went to them and came from them.
struct Overheard {
    site: Site,
    ways: [Proxy; 2],
}

impl Overheard {
    async fn new() -> Self {
        let (redis, postgres) = (service("ROBATA_TEST_REDIS_URL"), service("ROBATA_TEST_POSTGRES_URL"));
        let host = redis.trim_start_matches("redis://").split('/').next().unwrap();
        let broker = Proxy::hearing(host.parse().unwrap()).await;
        let (user, rest) = postgres.rsplit_once('@').unwrap();
        let store = Proxy::hearing(rest.split('/').next().unwrap().parse().unwrap()).await;
        let (redis, postgres) = (
            format!("redis://{}", broker.address),
            format!("{user}@{}", store.address),
        );
        Self {
            site: Site::behind(&redis, &postgres).await,
            ways: [store, broker],
        }
    }

    fn heard_nothing(&self) {
        for (way, name) in self.ways.iter().zip(["store", "broker"]) {
            let heard = way.heard();
            let bytes: usize = heard.iter().map(Vec::len).sum();
            assert!(bytes > 1000, "only {bytes} bytes went to and from the {name}");
            for bytes in heard {
                assert_eq!(found_in(&bytes), None, "{}", String::from_utf8_lossy(&bytes));
            }
        }
    }

    /// Every row of every table, as a dump of the database has them.
    async fn rows_have_nothing(&self) {
        let mut database = self.site.database().await;
        let tables =
            "SELECT tablename::text FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')";
        let tables: Vec<String> = sqlx::query_scalar(tables).fetch_all(&mut database).await.unwrap();
        let mut rows = 0;
        for table in tables {
            let all = AssertSqlSafe(format!("SELECT x::text FROM \"{table}\" x"));
            for row in sqlx::query(all).fetch_all(&mut database).await.unwrap() {
                let row: String = row.get(0);
                assert_eq!(found_in(row.as_bytes()), None, "{table}: {row}");
                rows += 1;
            }
        }
        assert!(rows > 10, "only {rows} rows were looked at");
    }
}

/// Every answer that a master and a worker give about what there is.
async fn answers_have_nothing(site: &Site, master: &str, worker: &str, ids: &[String]) {
    let mut urls: Vec<String> = [
        "jobs",
        "apps",
        "apps/shop",
        "apps/shop/definitions",
        "queues",
        "workers",
        "audit",
        "tokens",
    ]
    .into_iter()
    .map(|path| format!("{master}/api/v1/{path}"))
    .collect();
    urls.extend(["/metrics", "/readyz", "/healthz", "/api/v1/openapi.json"].map(|path| format!("{master}{path}")));
    urls.extend(["/metrics", "/readyz", "/healthz"].map(|path| format!("{worker}{path}")));
    for id in ids {
        urls.push(format!("{master}/api/v1/jobs/{id}"));
        urls.push(format!("{master}/api/v1/jobs/{id}/logs"));
        urls.push(format!("{master}/api/v1/jobs/{id}/logs?stream=stderr"));
    }
    for job in ["prints", "waits", "contained", "missing"] {
        urls.push(format!("{master}/api/v1/apps/shop/definitions/{job}"));
    }
    for url in urls {
        let (status, body) = site.get(&url).await;
        assert_eq!(status, 200, "{url}: {body}");
        assert_eq!(found_in(body.as_bytes()), None, "{url}: {body}");
    }
}

/// The processes of ours, by their programs' names: masters, workers, supervisors; never a job's own.
fn processes_have_nothing(site: &Site) -> usize {
    let needle = site.data().to_str().unwrap();
    let mut ours = 0;
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let read = |file: &str| fs::read(entry.path().join(file)).unwrap_or_default();
        let program = fs::read_link(entry.path().join("exe")).unwrap_or_default();
        let is_ours = program
            .file_name()
            .is_some_and(|name| ["robata-master", "robata-worker"].contains(&&*name.to_string_lossy()));
        let (argv, environment) = (read("cmdline"), read("environ"));
        let folder = fs::read_link(entry.path().join("cwd")).unwrap_or_default();
        let here = folder.starts_with(site.data()) || String::from_utf8_lossy(&argv).contains(needle);
        if is_ours && here {
            ours += 1;
            for told in [argv, environment] {
                assert_eq!(found_in(&told), None, "{}", String::from_utf8_lossy(&told));
            }
        }
    }
    ours
}

/// What the engine tells of a container but its own environment.
fn engine_has_nothing(container: &str) {
    let host = service("ROBATA_TEST_DOCKER_HOST");
    let ran = Command::new("docker")
        .args(["-H", &host, "inspect", container])
        .output();
    let ran = ran.expect("docker's client is there where its engine is");
    assert!(ran.status.success(), "{ran:?}");
    let mut told: Value = serde_json::from_slice(&ran.stdout).unwrap();
    let own = told.pointer_mut("/0/Config").unwrap().as_object_mut().unwrap();
    let own = own.remove("Env").unwrap().to_string();
    assert!(found_in(own.as_bytes()).is_some(), "the job's own has it: {own}");
    assert_eq!(found_in(told.to_string().as_bytes()), None, "{told:#}");
}

async fn sealed(site: &Site, master: &str, id: &str) {
    eventually(format!("the log of {id} is whole"), || async {
        let job = site.job(master, id).await;
        let attempts = job["attempts"].as_array()?;
        let whole = |attempt: &Value| attempt["log"]["state"] == "complete";
        attempts.iter().all(whole).then_some(())
    })
    .await;
}

fn said_nothing(daemons: &[&Daemon]) {
    for daemon in daemons {
        let said = daemon.said();
        assert!(said.lines().count() > 2, "{said}");
        for line in said.lines() {
            assert_eq!(found_in(line.as_bytes()), None, "{line}");
        }
    }
}

#[tokio::test]
async fn a_secret_is_in_no_dump_of_store_or_broker_and_on_no_way_to_them() {
    let vault = Vault::of("shop");
    let overheard = Overheard::new().await;
    let site = &overheard.site;
    let settings = [vault.setting("process", "process"), vault.setting("docker", "docker")];
    let mut settings: Vec<_> = settings
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    // As much as anybody can have them say.
    settings.push(("RUST_LOG", "trace"));
    let (master, url) = site.master_with(&settings).await;
    let mut worker = site.worker(&["--listen", "127.0.0.1:0"], &settings).await;

    let secret = json!({"SECRET": "value"});
    let with = |more: Value| {
        let mut all = json!({"secrets": secret});
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        all
    };
    site.define(&url, "prints", PRINTS, &with(json!({}))).await;
    let (go, begun) = (site.file("go"), site.file("begun"));
    let waits = format!(
        "printf 'begin zQ7vX3kJ9w'; touch {}; until [ -e {} ]; do sleep 0.05; done; echo Pm4TyR8bLs end",
        begun.display(),
        go.display()
    );
    site.define(&url, "waits", &waits, &with(json!({}))).await;
    let contained = "printf 'begin '; until [ -e /go ]; do sleep 0.1; done; echo $SECRET; env";
    let image = service("ROBATA_TEST_IMAGE");
    let docker = json!({"executor": "docker", "image": image, "docker": {"network": "none"}});
    site.define(&url, "contained", contained, &with(docker)).await;
    site.define(&url, "missing", "true", &json!({"secrets": {"SECRET": "not-there"}}))
        .await;

    let mut ids = vec![site.enqueue(&url, "prints").await];
    site.until(&url, &ids[0], "succeeded").await;
    sealed(site, &url, &ids[0]).await;
    let log = site.get(&format!("{url}/api/v1/jobs/{}/logs", ids[0])).await.1;
    assert!(log.contains("plain ***") && log.ends_with("done\n"), "{log}");

    // Both run while their worker dies, and are gone on with by another.
    ids.push(site.enqueue(&url, "waits").await);
    ids.push(site.enqueue(&url, "contained").await);
    site.until(&url, &ids[1], "running").await;
    let running = site.until(&url, &ids[2], "running").await;
    eventually("the job runs", || async { begun.exists().then_some(()) }).await;
    let container = running["attempts"][0]["handle"].as_str().unwrap().to_owned();
    engine_has_nothing(&container);
    assert!(processes_have_nothing(site) >= 3, "master, worker, and a supervisor");
    assert_eq!(found_below(site.data()), []);
    worker.signal(Signal::SIGKILL);
    worker.ended().await;
    let mut next = site.worker(&["--listen", "127.0.0.1:0"], &settings).await;
    fs::write(&go, "").unwrap();
    site.until(&url, &ids[1], "succeeded").await;
    sealed(site, &url, &ids[1]).await;
    let log = site.get(&format!("{url}/api/v1/jobs/{}/logs", ids[1])).await.1;
    assert_eq!(log, "begin *** end\n");

    // Its value is another one by now: a container is masked with what it was started with, for its engine tells that.
    next.signal(Signal::SIGKILL);
    next.ended().await;
    vault.set("value", "another-value-of-20b");
    let last = site.worker(&["--listen", "127.0.0.1:0"], &settings).await;
    let host = service("ROBATA_TEST_DOCKER_HOST");
    let run = Command::new("docker")
        .args(["-H", &host, "exec", &container, "touch", "/go"])
        .status();
    assert!(run.unwrap().success());
    site.until(&url, &ids[2], "succeeded").await;
    sealed(site, &url, &ids[2]).await;
    let log = site.get(&format!("{url}/api/v1/jobs/{}/logs", ids[2])).await.1;
    assert!(log.starts_with("begin ***\n") && log.contains("SECRET=***"), "{log}");

    ids.push(site.enqueue(&url, "missing").await);
    let missing = site.until(&url, &ids[3], "error").await;
    let message = missing["attempts"][0]["message"].as_str().unwrap_or_default();
    assert!(message.contains("not-there of app shop"), "{missing:#}");

    let probes = last.url().await;
    answers_have_nothing(site, &url, &probes, &ids).await;
    overheard.rows_have_nothing().await;
    overheard.heard_nothing();
    said_nothing(&[&master, &worker, &next, &last]);
    eventually("no file has it", || async {
        found_below(site.data()).is_empty().then_some(())
    })
    .await;
}
