//! A real `robata up` for tests: started, killed, started again; and the command line against it.
#![allow(dead_code, reason = "each test binary uses its own part of this")]
#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking, too")]
#![allow(clippy::print_stderr, reason = "what the server said belongs to a failed test")]

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

/// No step of a test may take longer; a slow machine under load is meant to stay far below.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);
const STEP: Duration = Duration::from_millis(20);

/// Waits until `look` finds something.
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begin.elapsed() < DEADLINE, "not within {DEADLINE:?}: {what}");
        thread::sleep(STEP);
    }
}

/// The program under test with nothing of this environment but PATH.
pub(crate) fn robata() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_robata"));
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command
}

/// What a command printed, and its exit code.
#[derive(Debug)]
pub(crate) struct Ran {
    /// `None` where a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    /// The only document on standard output.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("no JSON ({error}): {self:?}"))
    }

    /// The documents on standard output, one a line.
    pub(crate) fn json_lines(&self) -> Vec<Value> {
        let parse = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("no JSON ({error}): {line}"));
        self.stdout.lines().map(parse).collect()
    }

    /// Itself, after it was as good as it should be.
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "{self:?}");
        self
    }

    /// Whether standard error has all of these.
    #[track_caller]
    pub(crate) fn tells(&self, parts: &[&str]) {
        for part in parts {
            assert!(self.stderr.contains(part), "{part:?} is not in: {}", self.stderr);
        }
    }
}

/// A command that runs.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    stdout: Option<JoinHandle<String>>,
    stderr: Option<JoinHandle<String>>,
}

impl Running {
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = child.stdout.take().unwrap();
        let stderr = child.stderr.take().unwrap();
        Self {
            child,
            stdout: Some(thread::spawn(move || read_all(stdout))),
            stderr: Some(thread::spawn(move || read_all(stderr))),
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(pid(self.child.id()), signal).unwrap();
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn end(mut self) -> Ran {
        let status = wait(&mut self.child);
        Ran {
            code: status.code(),
            stdout: self.stdout.take().unwrap().join().unwrap(),
            stderr: self.stderr.take().unwrap().join().unwrap(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Ended already in a test that passed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read_all(mut stream: impl Read) -> String {
    let mut bytes = Vec::new();
    // A stream that breaks ends with what came.
    let _ = stream.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

fn pid(id: u32) -> Pid {
    Pid::from_raw(i32::try_from(id).unwrap())
}

#[track_caller]
fn wait(child: &mut Child) -> ExitStatus {
    let begin = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if begin.elapsed() > DEADLINE {
            let _ = child.kill();
            panic!("process {} has not ended within {DEADLINE:?}", child.id());
        }
        thread::sleep(STEP);
    }
}

/// How a server is started.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    /// Its data folder; default: a temporary one that goes with the server.
    pub(crate) data: Option<PathBuf>,
    /// Its executors; default: `process` alone.
    pub(crate) executors: Vec<String>,
    /// More arguments for `up`.
    pub(crate) args: Vec<String>,
    /// Environment variables.
    pub(crate) env: Vec<(String, String)>,
}

impl Options {
    /// With containers, too, on the engine that the tests are given.
    pub(crate) fn docker() -> Self {
        let host = std::env::var("ROBATA_TEST_DOCKER_HOST")
            .expect("ROBATA_TEST_DOCKER_HOST names the engine for tests; `tests/run --services` starts one");
        Self {
            executors: vec!["docker".to_owned(), "process".to_owned()],
            env: vec![("ROBATA_EXECUTORS__DOCKER__DOCKER__HOST".to_owned(), host)],
            ..Self::default()
        }
    }
}

/// A `robata up` of its own on a free port.
#[derive(Debug)]
pub(crate) struct Server {
    child: Option<Child>,
    options: Options,
    data: PathBuf,
    /// Keeps a temporary folder until the server is dropped.
    folder: Option<tempfile::TempDir>,
    address: String,
    printed: Arc<Mutex<Vec<Value>>>,
    complained: Arc<Mutex<String>>,
}

impl Server {
    /// With processes only, in a folder of its own.
    #[track_caller]
    pub(crate) fn start() -> Self {
        Self::with(Options::default())
    }

    #[track_caller]
    pub(crate) fn with(options: Options) -> Self {
        let folder = options.data.is_none().then(|| tempfile::tempdir().unwrap());
        let data = match (&options.data, &folder) {
            (Some(data), _) => data.clone(),
            (None, Some(folder)) => folder.path().join("data"),
            (None, None) => unreachable!("one of both is there"),
        };
        let mut server = Self {
            child: None,
            options,
            data,
            folder,
            address: "127.0.0.1:0".to_owned(),
            printed: Arc::default(),
            complained: Arc::default(),
        };
        server.launch();
        server
    }

    /// The command that starts it.
    pub(crate) fn command(&self) -> Command {
        let mut command = robata();
        command.args(["--output", "json", "up", "--listen", &self.address, "--data-dir"]);
        command.arg(&self.data).args(&self.options.args);
        let process = ["process".to_owned()];
        let executors = if self.options.executors.is_empty() {
            &process[..]
        } else {
            &self.options.executors
        };
        for name in executors {
            command.args(["--executor", name]);
        }
        for (name, value) in &self.options.env {
            command.env(name, value);
        }
        command
    }

    #[track_caller]
    fn launch(&mut self) {
        let mut child = self
            .command()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        self.printed = Arc::default();
        let printed = Arc::clone(&self.printed);
        let stdout = BufReader::new(child.stdout.take().unwrap());
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let event = serde_json::from_str(&line).unwrap_or(Value::String(line));
                printed.lock().unwrap().push(event);
            }
        });
        let complained = Arc::clone(&self.complained);
        let stderr = BufReader::new(child.stderr.take().unwrap());
        thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let mut complained = complained.lock().unwrap();
                complained.push_str(&line);
                complained.push('\n');
            }
        });
        let begin = Instant::now();
        let address = loop {
            if let Some(event) = self.event("listening") {
                break event["url"].as_str().unwrap().split_once("://").unwrap().1.to_owned();
            }
            if let Some(status) = child.try_wait().unwrap() {
                panic!("robata up ended ({status}): {}{:?}", self.stderr(), self.events());
            }
            assert!(
                begin.elapsed() < DEADLINE,
                "robata up does not listen: {}",
                self.stderr()
            );
            thread::sleep(STEP);
        };
        // The next start listens there again, so that clients find it.
        self.address = address;
        self.child = Some(child);
    }

    /// What it printed since its last start.
    pub(crate) fn events(&self) -> Vec<Value> {
        self.printed.lock().unwrap().clone()
    }

    /// The first event of this kind.
    pub(crate) fn event(&self, kind: &str) -> Option<Value> {
        self.events().into_iter().find(|event| event["event"] == kind)
    }

    /// What it wrote to standard error, over all of its starts.
    pub(crate) fn stderr(&self) -> String {
        self.complained.lock().unwrap().clone()
    }

    /// The installation's id, which is on everything it makes.
    pub(crate) fn installation(&self) -> String {
        self.event("listening").unwrap()["installation"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn data(&self) -> &Path {
        &self.data
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(pid(self.pid()), signal).unwrap();
    }

    /// Kill -9: nothing is drained, written or said.
    pub(crate) fn kill9(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Starts again in the same folder, on the same port.
    #[track_caller]
    pub(crate) fn restart(&mut self) {
        assert!(self.child.is_none(), "still runs");
        self.launch();
    }

    /// SIGTERM, and waits for its end.
    #[track_caller]
    pub(crate) fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.ended()
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn ended(&mut self) -> ExitStatus {
        let status = wait(self.child.as_mut().unwrap());
        self.child = None;
        status
    }

    /// A command of the client's side against it.
    pub(crate) fn client(&self, args: &[&str]) -> Command {
        let mut command = robata();
        command.args(args).env("ROBATA_SERVER", self.url());
        command
    }

    /// Starts such a command.
    pub(crate) fn spawn(&self, args: &[&str]) -> Running {
        Running::start(self.client(args))
    }

    /// Runs such a command to its end.
    #[track_caller]
    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        self.spawn(args).end()
    }

    /// Runs it with `--output json`, and answers the document.
    #[track_caller]
    pub(crate) fn json(&self, args: &[&str]) -> Value {
        let args = [&["--output", "json"], args].concat();
        self.run(&args).ok().json()
    }

    /// Applies definitions.
    #[track_caller]
    pub(crate) fn apply(&self, definitions: &str) {
        fs::create_dir_all(&self.data).unwrap();
        let path = self.data.join("jobs-of-the-test.toml");
        fs::write(&path, definitions).unwrap();
        self.run(&["apply", "-f", path.to_str().unwrap()]).ok();
    }

    /// Enqueues, and answers the job's id.
    #[track_caller]
    pub(crate) fn enqueue(&self, args: &[&str]) -> String {
        let job = self.json(&[&["enqueue"], args].concat());
        job["id"].as_str().unwrap().to_owned()
    }

    #[track_caller]
    pub(crate) fn job(&self, id: &str) -> Value {
        self.json(&["jobs", "show", id])
    }

    /// Waits until the job is in this state.
    #[track_caller]
    pub(crate) fn until(&self, id: &str, state: &str) -> Value {
        let mut last = Value::Null;
        let begin = Instant::now();
        while begin.elapsed() < DEADLINE {
            last = self.job(id);
            if last["state"] == state {
                return last;
            }
            thread::sleep(STEP);
        }
        panic!("{id} is not {state} within {DEADLINE:?}: {last:#}");
    }

    /// Waits until the job's last attempt is in this state.
    #[track_caller]
    pub(crate) fn until_attempt(&self, id: &str, state: &str) -> Value {
        eventually(&format!("the last attempt of {id} is {state}"), || {
            let job = self.job(id);
            let attempt = job["attempts"].as_array()?.last()?.clone();
            (attempt["state"] == state).then_some(job)
        })
    }

    /// The processes whose command line, folder or environment names this server's data folder, itself left out.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let needle = self.data.to_str().unwrap().as_bytes();
        let own = self.child.as_ref().map(Child::id);
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Some(id) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            let path = entry.path();
            let names = |bytes: Vec<u8>| bytes.windows(needle.len()).any(|window| window == needle);
            let told = |file: &str| fs::read(path.join(file)).is_ok_and(names);
            let cwd = fs::read_link(path.join("cwd")).is_ok_and(|cwd| cwd.starts_with(&self.data));
            if Some(id) != own && id != std::process::id() && (cwd || told("cmdline") || told("environ")) {
                found.push(id);
            }
        }
        found
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        // Running jobs outlive their server; a test's do not outlive the test.
        for id in self.processes() {
            let _ = kill(pid(id), Signal::SIGKILL);
        }
        if thread::panicking() {
            eprintln!("robata up said:\n{}", self.stderr());
        }
    }
}
