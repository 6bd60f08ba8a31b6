//! `robata jobs list` in columns and over time, and what shells and `man` are told, through the real program.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, too")]

mod support;

use std::{
    fs,
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use support::{Server, robata};

const DEFINITIONS: &str = "[apps.t]\nexecutor = \"process\"\n[apps.t.jobs.ok]\ncommand = [\"true\"]\n\
                           [apps.t.jobs.long]\ncommand = [\"sleep\", \"60\"]\ngrace_period = \"1s\"\n";

fn server() -> Server {
    let server = Server::start();
    server.apply(DEFINITIONS);
    server
}

#[test]
fn a_list_shows_the_columns_that_are_asked_for_in_their_order() {
    let server = server();
    let id = server.enqueue(&[
        "t/ok",
        "--label",
        "a=b",
        "--label",
        "c=d",
        "--priority",
        "7",
        "--delay",
        "1h",
    ]);
    let columns = "state,labels,priority,queue,due,started,id";
    let ran = server.run(&["jobs", "list", "--columns", columns]).ok();
    let lines: Vec<Vec<_>> = ran
        .stdout
        .lines()
        .map(|line| line.split("  ").map(str::trim))
        .map(|cells| cells.filter(|cell| !cell.is_empty()).collect())
        .collect();
    assert_eq!(
        lines[0],
        ["STATE", "LABELS", "PRIORITY", "QUEUE", "DUE", "STARTED", "ID"]
    );
    assert_eq!(lines[1][..4], ["scheduled", "a=b,c=d", "7", "t"]);
    assert!(lines[1][4].starts_with("in 59m"), "{ran:?}");
    assert_eq!(lines[1][5..], ["-", id.as_str()]);
    let usual = server.run(&["jobs", "list"]).ok();
    assert!(usual.stdout.starts_with("ID "), "{usual:?}");
    let wrong = server.run(&["jobs", "list", "--columns", "id,colour"]);
    assert_eq!(wrong.code, Some(2), "{wrong:?}");
    wrong.tells(&["colour", "priority"]);
    let json = server.run(&["--output", "json", "jobs", "list", "--columns", "id"]);
    assert_eq!(json.code, Some(2), "{json:?}");
}

/// The lines that a command prints, as they come; it is ended with this.
struct Lines {
    child: std::process::Child,
    lines: mpsc::Receiver<String>,
}

impl Lines {
    fn of(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (tell, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if tell.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, lines }
    }

    /// The next line that has all of these; the ones before it are gone.
    #[track_caller]
    fn until(&self, parts: &[&str]) -> String {
        let mut before = Vec::new();
        loop {
            match self.lines.recv_timeout(Duration::from_secs(30)) {
                Ok(line) if parts.iter().all(|part| line.contains(part)) => return line,
                Ok(line) => before.push(line),
                Err(error) => panic!("no line with {parts:?} ({error}) after {before:#?}"),
            }
        }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_watched_list_prints_each_job_again_when_it_has_changed() {
    let mut server = server();
    let first = server.enqueue(&["t/ok"]);
    server.until(&first, "succeeded");
    let text = Lines::of(server.client(&["jobs", "list", "--watch", "--columns", "id,state"]));
    text.until(&["ID", "STATE"]);
    text.until(&[&first, "succeeded"]);
    let json = Lines::of(server.client(&["--output", "json", "jobs", "list", "--watch"]));
    json.until(&[&first, "\"succeeded\""]);
    let second = server.enqueue(&["t/long"]);
    text.until(&[&second, "running"]);
    json.until(&[&second, "\"running\""]);
    // A restart of the server is borne.
    assert!(server.stop().success());
    server.restart();
    server.run(&["jobs", "cancel", &second]).ok();
    text.until(&[&second, "cancelled"]);
    let ended = json.until(&[&second, "\"cancelled\""]);
    let job: serde_json::Value = serde_json::from_str(&ended).unwrap();
    assert_eq!(job["id"], second.as_str());
    // What has not changed was not told again.
    assert!(!text.lines.try_iter().any(|line| line.contains(&first)));
}

#[test]
fn shells_and_man_are_told_of_every_command() {
    for (shell, word) in [
        ("bash", "complete -F"),
        ("zsh", "#compdef robata"),
        ("fish", "complete -c robata"),
    ] {
        let told = robata().args(["completion", shell]).output().unwrap();
        assert!(told.status.success() && told.stderr.is_empty(), "{told:?}");
        let told = String::from_utf8(told.stdout).unwrap();
        for part in [word, "apply", "dry-run", "drain"] {
            assert!(told.contains(part), "{part} is not what {shell} is told");
        }
    }
    let wrong = robata().args(["completion", "sh"]).output().unwrap();
    assert_eq!(wrong.status.code(), Some(2), "{wrong:?}");

    let folder = tempfile::tempdir().unwrap();
    let pages = folder.path().join("share/man1");
    let told = robata().arg("man").arg(&pages).output().unwrap();
    assert!(told.status.success(), "{told:?}");
    for (page, part) in [
        ("robata.1", "ROBATA_SERVER"),
        ("robata-apply.1", "prune"),
        ("robata-jobs-list.1", "columns"),
    ] {
        let text = fs::read_to_string(pages.join(page)).unwrap();
        assert!(text.starts_with(".ie") && text.contains(part), "{page}: {text}");
    }
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let refused = robata().arg("man").arg(&file).output().unwrap();
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
}
