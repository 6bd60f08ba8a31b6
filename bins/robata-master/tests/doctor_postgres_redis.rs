//! `robata doctor` and `robata store migrate` through the program itself, against real servers: well, and with each thing
//! wrong that an operator meets first.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, too")]

use std::{
    fs,
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

const DEADLINE: Duration = Duration::from_secs(30);

fn service(variable: &str) -> String {
    std::env::var(variable)
        .unwrap_or_else(|_| panic!("{variable} is not set: `tests/run --services` starts what these tests need"))
}

/// What a test's `robata` reads: a folder and an empty database of its own, which goes with it.
struct Site {
    folder: tempfile::TempDir,
    /// The server's address and the database's name.
    server: String,
    database: String,
}

impl Site {
    async fn new() -> Self {
        let server = service("ROBATA_TEST_POSTGRES_URL");
        let database = format!("doctor_{}", uuid::Uuid::now_v7().simple());
        sql(&server, format!("CREATE DATABASE {database}")).await;
        let (server, _) = server.rsplit_once('/').unwrap();
        Self {
            folder: tempfile::tempdir().unwrap(),
            server: server.to_owned(),
            database,
        }
    }

    fn postgres(&self) -> String {
        format!("{}/{}", self.server, self.database)
    }

    async fn gone(self) {
        let drop = format!("DROP DATABASE {} WITH (FORCE)", self.database);
        sql(&format!("{}/postgres", self.server), drop).await;
    }

    /// Runs `robata` with these settings; answers its exit code, its document, and all that it said.
    fn robata(&self, args: &[&str], postgres: &str, redis: &str) -> (Option<i32>, Value, String) {
        let file = self.folder.path().join("robata.toml");
        let data = self.folder.path().display();
        let settings = format!(
            "[data]\nfolder = \"{data}\"\n[server]\nlisten = \"127.0.0.1:0\"\n[executors.process.process]\n[store.postgres]\n{postgres}\n[queue.redis]\n{redis}\n"
        );
        fs::write(&file, settings).unwrap();
        let output = Command::new(program())
            .env_clear()
            .args(["--output", "json"])
            .args(args)
            .arg("--config")
            .arg(&file)
            .output()
            .unwrap();
        let stdout = String::from_utf8(output.stdout).unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        let said = format!("{stdout}{stderr}");
        assert!(!said.contains("panicked"), "{said}");
        let document = serde_json::from_str(&stdout).unwrap_or_default();
        (output.status.code(), document, said)
    }

    fn doctor(&self, postgres: &str, redis: &str) -> Report {
        let (code, document, said) = self.robata(&["doctor"], postgres, redis);
        Report { code, document, said }
    }
}

async fn sql(server: &str, text: String) {
    let mut connection = PgConnection::connect(server).await.unwrap();
    sqlx::query(AssertSqlSafe(text)).execute(&mut connection).await.unwrap();
}

/// `robata`, which is built into the same folder.
fn program() -> PathBuf {
    let program = Path::new(env!("CARGO_BIN_EXE_robata-master")).with_file_name("robata");
    assert!(
        program.is_file(),
        "{} is not built: cargo build -p robata",
        program.display()
    );
    program
}

/// What `robata doctor` said.
struct Report {
    code: Option<i32>,
    document: Value,
    said: String,
}

impl Report {
    /// Whether the check of this name has this verdict, with these words.
    #[track_caller]
    fn says(&self, name: &str, verdict: &str, words: &[&str]) {
        let checks = self.document["checks"].as_array();
        let checks = checks.unwrap_or_else(|| panic!("no report: {}", self.said));
        let check = checks.iter().find(|check| check["name"] == name);
        let check = check.unwrap_or_else(|| panic!("no check {name}: {}", self.said));
        assert_eq!(check["verdict"], verdict, "{check:#}");
        for word in words {
            assert!(check.to_string().contains(word), "{word:?} is not in {check:#}");
        }
    }

    #[track_caller]
    fn is(&self, ok: bool) {
        assert_eq!(self.code, Some(if ok { 0 } else { 1 }), "{}", self.said);
        assert_eq!(self.document["ok"], ok, "{}", self.said);
    }
}

/// A Redis of the test's own, with settings that nobody else's may have.
struct Redis {
    child: Child,
    address: String,
    _folder: tempfile::TempDir,
}

impl Redis {
    fn start(settings: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let child = Command::new("redis-server")
            .args([
                "--port",
                &port.to_string(),
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--dir",
            ])
            .arg(folder.path())
            .args(settings)
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server must be on the PATH for the tests that set one up wrongly");
        let address = format!("127.0.0.1:{port}");
        let begin = Instant::now();
        while TcpStream::connect(&address).is_err() {
            assert!(begin.elapsed() < DEADLINE, "redis-server does not serve");
            std::thread::sleep(Duration::from_millis(20));
        }
        Self {
            child,
            address,
            _folder: folder,
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn url(address: &str) -> String {
    format!("url = \"{address}\"")
}

#[tokio::test]
async fn where_all_is_well_doctor_says_so_and_tables_are_told_and_made_once() {
    let site = Site::new().await;
    let redis = url(&service("ROBATA_TEST_REDIS_URL"));
    let automatic = url(&site.postgres());
    let checked = format!("{automatic}\nmigrate = \"check\"");

    // Nobody has made the tables yet.
    let report = site.doctor(&checked, &redis);
    report.is(false);
    report.says("store", "ok", &["PostgreSQL"]);
    report.says("store, tables", "fail", &["number 0", "robata store migrate"]);
    let report = site.doctor(&automatic, &redis);
    report.is(true);
    report.says("store, tables", "warn", &["robata store migrate"]);
    let (code, told, said) = site.robata(&["store", "migrate", "--check"], &checked, &redis);
    assert_eq!((code, &told["current"]), (Some(1), &false.into()), "{said}");

    let (code, told, said) = site.robata(&["store", "migrate"], &checked, &redis);
    assert_eq!((code, &told["current"]), (Some(0), &true.into()), "{said}");
    assert!(!told["applied"].as_array().unwrap().is_empty(), "{said}");
    let (code, told, said) = site.robata(&["store", "migrate"], &checked, &redis);
    assert_eq!((code, &told["applied"]), (Some(0), &Value::Array(vec![])), "{said}");
    let (code, told, said) = site.robata(&["store", "migrate", "--check"], &checked, &redis);
    assert_eq!((code, &told["current"]), (Some(0), &true.into()), "{said}");

    let report = site.doctor(&checked, &redis);
    report.is(true);
    report.says("store, tables", "ok", &["up to date"]);
    report.says("store, clock", "ok", &[]);
    report.says("store, connections", "ok", &["masters × 10"]);
    report.says("queue", "ok", &["Redis"]);
    report.says("queue, eviction", "ok", &[]);
    report.says("queue, durability", "ok", &[]);
    report.says("queue, whole jobs", "ok", &[]);
    site.gone().await;
}

#[tokio::test]
async fn a_wrong_password_is_told_in_the_servers_own_words_and_never_shown() {
    let site = Site::new().await;
    let (scheme, rest) = site.server.split_once("://").unwrap();
    let (user, host) = rest.split_once('@').unwrap();
    let user = user.split(':').next().unwrap();
    let postgres = url(&format!("{scheme}://{user}:open-sesame@{host}/{}", site.database));
    let server = Redis::start(&["--requirepass", "correct"]);
    let redis = url(&format!("redis://:open-sesame@{}", server.address));

    let report = site.doctor(&postgres, &redis);
    report.is(false);
    report.says(
        "store",
        "fail",
        &["password authentication failed", "store.postgres.url", "pg_hba.conf"],
    );
    report.says("queue", "fail", &["queue.redis.url"]);
    assert!(!report.said.contains("open-sesame"), "{}", report.said);
    for args in [&["store", "migrate"][..], &["store", "migrate", "--check"]] {
        let (code, _, said) = site.robata(args, &postgres, &redis);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("password authentication failed"), "{said}");
        assert!(!said.contains("open-sesame"), "{said}");
    }
    site.gone().await;
}

#[tokio::test]
async fn servers_that_are_away_are_told_in_time() {
    let site = Site::new().await;
    // Ports that were free a moment ago, and one on which somebody listens and never answers.
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    for address in [gone, silent.local_addr().unwrap()] {
        let postgres = url(&format!("postgres://me@{address}/x"));
        let redis = url(&format!("redis://{address}"));
        let begun = Instant::now();
        let report = site.doctor(&postgres, &redis);
        report.is(false);
        report.says("store", "fail", &["PostgreSQL", "store.postgres.url"]);
        report.says("queue", "fail", &["Redis", "queue.redis.url"]);
        let (code, _, said) = site.robata(&["store", "migrate", "--check"], &postgres, &redis);
        assert_eq!(code, Some(1), "{said}");
        assert!(begun.elapsed() < DEADLINE, "after {:?}", begun.elapsed());
    }
    // A server without the database.
    let report = site.doctor(
        &url(&format!("{}/no_such_database", site.server)),
        &url("redis://127.0.0.1:1"),
    );
    report.says("store", "fail", &["no_such_database", "does not exist"]);
    site.gone().await;
}

#[tokio::test]
async fn a_redis_that_evicts_is_a_fault_or_a_warning_as_set() {
    let site = Site::new().await;
    let server = Redis::start(&["--maxmemory-policy", "allkeys-lru"]);
    let redis = url(&format!("redis://{}", server.address));
    let postgres = url(&site.postgres());
    let report = site.doctor(&postgres, &redis);
    report.is(false);
    report.says("queue", "ok", &[]);
    report.says("queue, eviction", "fail", &["allkeys-lru", "noeviction"]);
    report.says("queue, durability", "warn", &["appendonly"]);
    report.says("queue, whole jobs", "warn", &["503"]);
    let report = site.doctor(&postgres, &format!("{redis}\neviction = \"warn\""));
    report.is(true);
    report.says("queue, eviction", "warn", &["allkeys-lru", "noeviction"]);
    site.gone().await;
}
