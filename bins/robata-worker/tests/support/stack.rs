//! The stack of `docker-compose.yml`, started from the committed files under a name of its own; gone with the test.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use reqwest::Method;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

use super::{eventually, service};

/// The label of all images that a test makes.
const LABEL: &str = "robata.test";
/// What a container that was started tells of itself, as the engine prints it.
const STARTED: &str =
    r#"{{index .Actor.Attributes "robata.installation"}} {{index .Actor.Attributes "robata.attempt"}}"#;

/// A stack that runs.
pub(crate) struct Stack {
    /// A file of the job definitions, and settings of the client's that are nobody's own.
    folder: tempfile::TempDir,
    project: String,
    port: u16,
    /// The command before its arguments, as `docker-compose`.
    compose: Vec<&'static str>,
    /// The profile; Redis needs none.
    broker: Option<&'static str>,
    token: String,
    http: reqwest::Client,
    /// The engine's own words about each container of a job that was started: installation and attempt.
    started: Arc<Mutex<Vec<(String, String)>>>,
    /// Ends with the stack.
    _events: Child,
    /// What was accepted.
    jobs: Mutex<Vec<String>>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap()
}

/// The client of the engine under test, with nothing of the user's settings.
fn docker(args: &[&str]) -> Command {
    let mut command = Command::new("docker");
    command
        .env_remove("DOCKER_CONTEXT")
        .args(["-H", &service("ROBATA_TEST_DOCKER_HOST")])
        .args(args)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

/// No command takes longer, not even one that makes images.
const LONGEST: Duration = Duration::from_secs(120);

/// What a command prints, which must end, and well.
async fn said(mut command: Command) -> String {
    let Ok(output) = tokio::time::timeout(LONGEST, command.output()).await else {
        panic!("{command:?}: has not ended after {LONGEST:?}");
    };
    let Output { status, stdout, stderr } = output.unwrap();
    let stderr = String::from_utf8_lossy(&stderr);
    let stdout = String::from_utf8(stdout).unwrap();
    assert!(status.success(), "{command:?}: {status}\n{stdout}\n{stderr}");
    stdout
}

/// The programs behind `docker compose`: the first that there is.
async fn compose() -> Vec<&'static str> {
    for words in [vec!["docker-compose"], vec!["docker", "compose"]] {
        let version = Command::new(words[0]).args(&words[1..]).arg("version").output().await;
        if version.is_ok_and(|output| output.status.success()) {
            return words;
        }
    }
    panic!("there is neither docker-compose nor docker compose: `tests/run --install` installs it");
}

impl Stack {
    /// Starts it with these definitions.
    pub(crate) async fn up(definitions: &str) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let started = Arc::<Mutex<Vec<_>>>::default();
        let mut stack = Self {
            folder: tempfile::tempdir().unwrap(),
            project: format!("robatatest{}", &uuid::Uuid::new_v4().simple().to_string()[..10]),
            port,
            compose: compose().await,
            broker: None,
            token: String::new(),
            http: robata_testkit::http().timeout(Duration::from_secs(10)).build().unwrap(),
            _events: watch(Arc::clone(&started)),
            started,
            jobs: Mutex::default(),
        };
        fs::write(stack.definitions(), definitions).unwrap();
        fs::write(stack.folder.path().join("env"), "").unwrap();
        stack.images().await;
        stack.compose(&["up", "--detach"]).await;
        // As the README says it.
        let token = stack
            .compose(&["exec", "-T", "master", "cat", "/keys/admin-token"])
            .await;
        token.trim().clone_into(&mut stack.token);
        assert_eq!(stack.token.len(), 64, "32 bytes in hexadecimal digits");
        stack
    }

    /// Takes another broker in place of the one that it has, as a person does.
    pub(crate) async fn change_to(&mut self, broker: &'static str) {
        self.broker = Some(broker);
        self.compose(&["up", "--detach"]).await;
    }

    fn definitions(&self) -> PathBuf {
        self.folder.path().join("jobs.toml")
    }

    fn label(&self) -> String {
        format!("{LABEL}={}", self.project)
    }

    /// Makes what cannot be pulled, and gives the Dockerfile's stage `build` ready-made: the programs of this build.
    async fn images(&self) {
        let whole = self.compose(&["--profile", "rabbitmq", "config"]).await;
        let named = whole.lines().filter_map(|line| line.trim().strip_prefix("image: "));
        // docker-compose names those of all profiles. What stands in for SQS is an emulator as it is.
        let ours = |image: &&str| !image.starts_with("robata:") && !image.contains("/ministack:");
        let mut images: Vec<_> = named.filter(ours).collect();
        let dockerfile = fs::read_to_string(root().join("Dockerfile")).unwrap();
        let bases = dockerfile.lines().filter_map(|line| line.strip_prefix("FROM "));
        images.extend(bases.filter(|base| !base.starts_with("${BUILD}")));
        images.sort_unstable();
        images.dedup();
        let programs = Path::new(env!("CARGO_BIN_EXE_robata-worker")).parent().unwrap();
        let mut make = Command::new(root().join("tests/lib/stand-ins.sh"));
        make.arg(service("ROBATA_TEST_DOCKER_HOST"))
            .arg(self.label())
            .arg(programs)
            .arg(self.built())
            .args(images)
            .kill_on_drop(true);
        said(make).await;
    }

    fn built(&self) -> String {
        format!("robata-test/built:{}", self.project)
    }

    fn command(&self, args: &[&str]) -> Command {
        let engine = service("ROBATA_TEST_DOCKER_HOST");
        let socket = engine
            .strip_prefix("unix://")
            .expect("the stack's own workers reach the engine by its socket: ROBATA_TEST_DOCKER_HOST is no unix://…");
        let mut command = Command::new(self.compose[0]);
        command
            .args(&self.compose[1..])
            .arg("--env-file")
            .arg(self.folder.path().join("env"))
            .args(["--project-name", &self.project, "--file"])
            .arg(root().join("docker-compose.yml"))
            .args(args)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.folder.path())
            .env("DOCKER_HOST", &engine)
            .env("DOCKER_SOCKET", socket)
            .env("DOCKER_BUILDKIT", "0")
            .env("COMPOSE_DOCKER_CLI_BUILD", "0")
            .env("ROBATA_PORT", self.port.to_string())
            .env("ROBATA_DEFINITIONS", self.definitions())
            .env("ROBATA_TAG", &self.project)
            .env("ROBATA_BUILD", self.built())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command.envs(self.broker.map(|broker| ("COMPOSE_PROFILES", broker)));
        command
    }

    /// `docker compose` with these arguments; what it prints.
    pub(crate) async fn compose(&self, args: &[&str]) -> String {
        said(self.command(args)).await
    }

    /// The containers of a service that run.
    pub(crate) async fn containers(&self, name: &str) -> Vec<String> {
        let service = format!("label=com.docker.compose.service={name}");
        let project = format!("label=com.docker.compose.project={}", self.project);
        let one_off = "label=com.docker.compose.oneoff=False";
        let args = [
            "ps", "--quiet", "--filter", &service, "--filter", &project, "--filter", one_off,
        ];
        said(docker(&args)).await.lines().map(str::to_owned).collect()
    }

    /// Kill -9 of a container by its id, or the beginning of it, which is a worker's host.
    pub(crate) async fn kill(&self, container: &str) {
        said(docker(&["kill", container])).await;
    }

    /// A request with a token, by the published port; where the connection broke there is no answer.
    pub(crate) async fn ask(
        &self,
        method: Method,
        path: &str,
        token: &str,
        body: Option<&Value>,
    ) -> Option<(u16, String)> {
        let url = format!("http://127.0.0.1:{}{path}", self.port);
        let mut request = self.http.request(method, url).bearer_auth(token);
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await.ok()?;
        Some((response.status().as_u16(), response.text().await.ok()?))
    }

    /// The same with the stack's own token.
    pub(crate) async fn ask_admin(&self, method: Method, path: &str) -> (u16, String) {
        let answer = self.ask(method, path, &self.token, None).await;
        answer.unwrap_or_else(|| panic!("no answer for {path}"))
    }

    /// What is there, as the admin sees it.
    pub(crate) async fn get(&self, path: &str) -> Option<Value> {
        let (status, text) = self.ask(Method::GET, path, &self.token, None).await?;
        (status == 200).then(|| serde_json::from_str(&text).unwrap())
    }

    /// Enqueues with a key, again and again until it is accepted, as clients do; the job's id.
    pub(crate) async fn enqueue(&self, job: &str, key: &str) -> String {
        let body = serde_json::json!({"app": "demo", "job": job, "payload": {"key": key}, "idempotency_key": key});
        let job = eventually(format!("{key} is accepted"), || async {
            let (status, text) = self.ask(Method::POST, "/api/v1/jobs", &self.token, Some(&body)).await?;
            assert!([200, 201, 202, 502, 503, 504].contains(&status), "{status}: {text}");
            (status < 300).then(|| serde_json::from_str::<Value>(&text).unwrap())
        })
        .await;
        let id = job["id"].as_str().unwrap().to_owned();
        self.jobs.lock().unwrap().push(id.clone());
        id
    }

    /// The workers whose leases are in force.
    pub(crate) async fn workers(&self) -> Option<Vec<Value>> {
        let workers = self.get("/api/v1/workers").await?["workers"].as_array()?.clone();
        Some(
            workers
                .into_iter()
                .filter(|worker| worker["ended_at"].is_null())
                .collect(),
        )
    }

    /// Waits until so many workers have a lease.
    #[track_caller]
    pub(crate) fn until_workers(&self, count: usize) -> impl Future<Output = ()> {
        eventually(format!("{count} workers live"), move || async move {
            (self.workers().await?.len() == count).then_some(())
        })
    }

    /// How many containers the engine has started for this attempt (`JOB/NUMBER`).
    pub(crate) fn starts(&self, attempt: &str) -> usize {
        let started = self.started.lock().unwrap();
        started.iter().filter(|(_, other)| other == attempt).count()
    }

    /// The installation, by what the engine says about its jobs' containers.
    fn installation(&self) -> Option<String> {
        let (started, jobs) = (self.started.lock().unwrap(), self.jobs.lock().unwrap());
        let ours = |attempt: &str| jobs.iter().any(|job| attempt.starts_with(job.as_str()));
        let found = started.iter().find(|(_, attempt)| ours(attempt));
        found.map(|(installation, _)| format!("label=robata.installation={installation}"))
    }

    /// The installation's containers and volumes that are left.
    pub(crate) async fn left(&self) -> String {
        let label = self.installation().expect("a job has run");
        let containers = said(docker(&["ps", "--all", "--quiet", "--filter", &label])).await;
        containers + &said(docker(&["volume", "ls", "--quiet", "--filter", &label])).await
    }
}

/// Listens to the engine: what it remembers by itself is too little.
fn watch(started: Arc<Mutex<Vec<(String, String)>>>) -> Child {
    let filters = ["--filter", "type=container", "--filter", "event=start"];
    let mut command = docker(&["events", "--filter", "label=robata.attempt", "--format", STARTED]);
    let mut child = command.args(filters).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    tokio::spawn(async move {
        while let Ok(Some(line)) = lines.next_line().await {
            if let Some((installation, attempt)) = line.split_once(' ') {
                started
                    .lock()
                    .unwrap()
                    .push((installation.to_owned(), attempt.to_owned()));
            }
        }
    });
    child
}

impl Drop for Stack {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = waited(self.command(&["logs", "--no-color", "--tail", "60"]));
        }
        let jobs = self
            .installation()
            .unwrap_or_else(|| "label=robata.installation=none".to_owned());
        let label = format!("label={}", self.label());
        // Whatever one of these says, the next one is tried.
        // The broker's own as well, whichever it had come to.
        let down = [
            "--profile",
            "rabbitmq",
            "down",
            "--volumes",
            "--remove-orphans",
            "--timeout",
            "2",
        ];
        let _ = waited(self.command(&down));
        let _ = waited(docker(&["rmi", "--force", &format!("robata:{}", self.project)]));
        for (list, remove) in [
            (
                ["ps", "--all", "--quiet", "--filter", &jobs],
                &["rm", "--force", "--volumes"][..],
            ),
            (
                ["volume", "ls", "--quiet", "--filter", &jobs],
                &["volume", "rm", "--force"],
            ),
            // The children of an image come before it.
            (["images", "--all", "--quiet", "--filter", &label], &["rmi", "--force"]),
        ] {
            let found = waited(docker(&list));
            let found: Vec<_> = found.split_whitespace().collect();
            if !found.is_empty() {
                let _ = waited(docker(&[remove, &found].concat()));
            }
        }
    }
}

/// What a command prints, without a runtime: a test that failed has none any more.
fn waited(command: Command) -> String {
    let mut command = command.into_std();
    let output = command.stdout(Stdio::piped()).stderr(Stdio::piped()).output().unwrap();
    let (stdout, stderr) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    if std::thread::panicking() {
        eprintln!("{command:?}: {}\n{stdout}{stderr}", output.status);
    }
    stdout.into_owned()
}
