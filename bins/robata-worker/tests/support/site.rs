//! A database, a folder and settings of a test's own; what masters and workers share.

use std::{
    fs,
    path::{Path, PathBuf},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::process::Command;

use super::{
    daemon::{Daemon, program, program_at},
    eventually, service,
};

/// A disk that others fill keeps the store waiting longer than a master does: only tests of the other path are about that.
const PATIENT: &str = "[degraded]\nhang = \"1m\"\n";

/// The table of settings of a queue: of one that the runner started, or of one in memory.
fn table(queue: &str) -> String {
    match queue {
        "memory" => "[queue.memory]".to_owned(),
        "redis" => format!("[queue.redis]\nurl = \"{}\"", service("ROBATA_TEST_REDIS_URL")),
        "rabbitmq" => format!("[queue.rabbitmq]\nurl = \"{}\"", service("ROBATA_TEST_RABBITMQ_URL")),
        "sqs" => format!(
            "[queue.sqs]\nregion = \"us-east-1\"\nendpoint = \"{}\"\naccess_key_id = \"test\"\nsecret_access_key = \"test\"",
            service("ROBATA_TEST_SQS_URL")
        ),
        _ => panic!("{queue} is no queue"),
    }
}

/// Where one test's daemons meet.
pub(crate) struct Site {
    folder: tempfile::TempDir,
    /// None where it is SQLite's.
    database: Option<String>,
    in_one_process: bool,
    http: reqwest::Client,
}

impl Site {
    /// Over the Redis that the runner started.
    pub(crate) async fn new() -> Self {
        Self::over(&service("ROBATA_TEST_REDIS_URL")).await
    }

    /// Over the Redis at this address.
    pub(crate) async fn over(redis: &str) -> Self {
        Self::with(redis, None).await
    }

    /// Through the PgBouncer that the runner started, listening (or not) by this further line of settings.
    pub(crate) async fn through_pgbouncer(listening: impl FnOnce(&str) -> String) -> Self {
        let bouncer = service("ROBATA_TEST_PGBOUNCER_URL");
        let (bouncer, _) = bouncer.rsplit_once('/').unwrap();
        let site = Self::with(&service("ROBATA_TEST_REDIS_URL"), Some(bouncer)).await;
        let settings = fs::read_to_string(site.config()).unwrap();
        let line = listening(&site.database_url());
        let settings = settings.replace("[queue.redis]", &format!("listen_url = \"{line}\"\n[queue.redis]"));
        fs::write(site.config(), settings).unwrap();
        site
    }

    /// Over what is reached by these addresses, the database's without its name; nobody need answer there yet.
    pub(crate) async fn behind(redis: &str, postgres: &str) -> Self {
        Self::with(redis, Some(postgres)).await
    }

    /// Over PostgreSQL and the queue of this name that the runner started.
    pub(crate) async fn over_postgres(queue: &str) -> Self {
        Self::made(&table(queue), None, PATIENT).await
    }

    /// The same, or a queue in memory, with all in one process.
    pub(crate) async fn embedded_over_postgres(queue: &str) -> Self {
        let mut site = Self::over_postgres(queue).await;
        site.in_one_process = true;
        site
    }

    /// All in one process, over SQLite and the queue of this name.
    pub(crate) fn embedded(queue: &str) -> Self {
        let site = Self {
            folder: tempfile::tempdir().unwrap(),
            database: None,
            in_one_process: true,
            http: robata_testkit::http().build().unwrap(),
        };
        site.configure(&format!("{}\n{PATIENT}", table(queue)));
        site
    }

    /// Over the database at this address (without its name), and the queue that this table of settings names; whole jobs go
    /// there as soon as by default.
    pub(crate) async fn over_queue(table: &str, postgres: &str) -> Self {
        Self::made(table, Some(postgres), "").await
    }

    async fn with(redis: &str, through: Option<&str>) -> Self {
        Self::made(&format!("[queue.redis]\nurl = \"{redis}\""), through, PATIENT).await
    }

    async fn made(queue: &str, through: Option<&str>, more: &str) -> Self {
        let server = service("ROBATA_TEST_POSTGRES_URL");
        let database = format!("daemons_{}", uuid::Uuid::now_v7().simple());
        let mut connection = PgConnection::connect(&server).await.unwrap();
        let create = AssertSqlSafe(format!("CREATE DATABASE {database}"));
        sqlx::query(create).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        let (server, _) = server.rsplit_once('/').unwrap();
        let site = Self {
            folder: tempfile::tempdir().unwrap(),
            database: Some(database.clone()),
            in_one_process: false,
            http: robata_testkit::http().build().unwrap(),
        };
        let server = through.unwrap_or(server);
        site.configure(&format!(
            "[store.postgres]\nurl = \"{server}/{database}\"\n{queue}\n[worker]\non_sigterm = \"leave\"\n{more}"
        ));
        site
    }

    pub(crate) fn is_embedded(&self) -> bool {
        self.in_one_process
    }

    fn configure(&self, more: &str) {
        let data = self.data().display();
        let mut settings = format!("[data]\nfolder = \"{data}\"\n[executors.process.process]\nslots = 4\n{more}");
        if let Ok(engine) = std::env::var("ROBATA_TEST_DOCKER_HOST") {
            settings.push_str(&format!("[executors.docker.docker]\nhost = \"{engine}\"\n"));
        }
        fs::write(self.config(), settings).unwrap();
    }

    /// The address of its database.
    pub(crate) fn database_url(&self) -> String {
        let server = service("ROBATA_TEST_POSTGRES_URL");
        let (server, _) = server.rsplit_once('/').unwrap();
        format!("{server}/{}", self.database.as_deref().expect("it is over PostgreSQL"))
    }

    /// A connection to its database, to count what the store recorded.
    pub(crate) async fn database(&self) -> PgConnection {
        PgConnection::connect(&self.database_url()).await.unwrap()
    }

    /// `robata up` at this address.
    pub(crate) fn up(&self, address: &str) -> Daemon {
        Daemon::start("robata up", self.command("robata", &["up", "--listen", address]))
    }

    pub(crate) fn data(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.data().join("robata.toml")
    }

    fn command(&self, name: &str, args: &[&str]) -> Command {
        let mut command = program(name);
        command.args(args).arg("--config").arg(self.config());
        command
    }

    /// A master that listens.
    pub(crate) async fn master(&self) -> (Daemon, String) {
        self.master_with(&[]).await
    }

    /// The same with further settings.
    pub(crate) async fn master_with(&self, settings: &[(&str, &str)]) -> (Daemon, String) {
        let master = self.begun("robata-master", settings);
        let url = master.url().await;
        (master, url)
    }

    /// A master or a worker that need not get as far as to serve.
    pub(crate) fn begun(&self, name: &'static str, settings: &[(&str, &str)]) -> Daemon {
        let mut command = self.command(name, &["--listen", "127.0.0.1:0"]);
        command.envs(settings.iter().copied());
        Daemon::start(name, command)
    }

    /// A program of another release, from this folder.
    pub(crate) fn begun_of(&self, folder: &Path, name: &'static str, args: &[&str]) -> Daemon {
        let mut command = program_at(folder.join(name));
        command.args(args).arg("--config").arg(self.config());
        Daemon::start(name, command)
    }

    /// A worker that takes jobs.
    pub(crate) async fn worker(&self, args: &[&str], settings: &[(&str, &str)]) -> Daemon {
        let mut command = self.command("robata-worker", args);
        command.envs(settings.iter().copied());
        let worker = Daemon::start("robata-worker", command);
        worker.until("working").await;
        worker
    }

    pub(crate) async fn get(&self, url: &str) -> (u16, String) {
        let response = self.http.get(url).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }

    /// The status, where there is an answer.
    pub(crate) async fn try_get(&self, url: &str) -> Option<u16> {
        Some(self.http.get(url).send().await.ok()?.status().as_u16())
    }

    pub(crate) async fn json(&self, url: &str) -> Value {
        serde_json::from_str(&self.get(url).await.1).unwrap()
    }

    async fn send(&self, request: reqwest::RequestBuilder, body: &Value) -> (u16, Value) {
        let response = request.json(body).send().await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap_or_default())
    }

    /// Status and answer, where there are any.
    pub(crate) async fn try_post(&self, url: &str, body: &Value) -> Option<(u16, Value)> {
        let response = self.http.post(url).json(body).send().await.ok()?;
        Some((response.status().as_u16(), response.json().await.ok()?))
    }

    pub(crate) async fn post(&self, url: &str, body: &Value) -> (u16, Value) {
        self.send(self.http.post(url), body).await
    }

    /// A definition of the app `shop` that runs a shell's text.
    pub(crate) async fn define(&self, master: &str, job: &str, text: &str, more: &Value) {
        let app = self
            .send(self.http.put(format!("{master}/api/v1/apps/shop")), &json!({}))
            .await;
        assert!(app.0 < 300, "{app:?}");
        let mut definition = json!({"command": ["sh", "-c", text], "executor": "process"});
        for (key, value) in more.as_object().unwrap() {
            definition[key] = value.clone();
        }
        let url = format!("{master}/api/v1/apps/shop/definitions/{job}");
        let put = self.send(self.http.put(url), &definition).await;
        assert!(put.0 < 300, "{put:?}");
    }

    pub(crate) async fn enqueue(&self, master: &str, job: &str) -> String {
        let body = json!({"app": "shop", "job": job, "payload": {}});
        let (status, job) = self.post(&format!("{master}/api/v1/jobs"), &body).await;
        assert_eq!(status, 201, "{job}");
        job["id"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn job(&self, master: &str, id: &str) -> Value {
        self.json(&format!("{master}/api/v1/jobs/{id}")).await
    }

    /// Waits until the job's last attempt is in this state.
    pub(crate) async fn until(&self, master: &str, id: &str, state: &str) -> Value {
        eventually(format!("an attempt of {id} is {state}"), || async {
            let job = self.job(master, id).await;
            let attempt = job["attempts"].as_array()?.last()?;
            (attempt["state"] == state).then(|| job.clone())
        })
        .await
    }

    /// A file by which a job and its test meet.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.data().join(name)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // Running jobs outlive their worker; a test's do not outlive the test.
        let needle = self.data().to_str().unwrap().as_bytes().to_owned();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
                continue;
            };
            let names = |bytes: Vec<u8>| bytes.windows(needle.len()).any(|window| window == needle);
            let told = |file: &str| fs::read(entry.path().join(file)).is_ok_and(names);
            let there = fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(self.data()));
            if u32::try_from(pid) != Ok(std::process::id()) && (there || told("cmdline") || told("environ")) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        let Some(database) = self.database.clone() else {
            return;
        };
        let server = service("ROBATA_TEST_POSTGRES_URL");
        // Not within the test's own runtime, which cannot be waited for here.
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let mut connection = PgConnection::connect(&server).await?;
                let drop = AssertSqlSafe(format!("DROP DATABASE {database} WITH (FORCE)"));
                sqlx::query(drop).execute(&mut connection).await
            })
        });
        if !std::thread::panicking() {
            dropped.join().unwrap().unwrap();
        }
    }
}
