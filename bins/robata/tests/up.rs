//! `robata up` itself: its start, its stop, and every mistake that a new user makes with it.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, too")]

mod support;

use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::net::UnixStream,
    time::Duration,
};

use nix::sys::signal::Signal;
use support::{Options, Ran, Running, Server, robata};

const LONG: &str = "[apps.t.jobs.long]\nexecutor = \"process\"\ncommand = [\"sh\", \"-c\", \"echo begun; sleep 60\"]\ngrace_period = \"1s\"\n\
                    [apps.t.jobs.two]\nexecutor = \"process\"\ncommand = [\"sh\", \"-c\", \"echo a; sleep 2; echo b\"]\n";

fn up(args: &[&str]) -> Ran {
    let mut command = robata();
    command.arg("up").args(args);
    Running::start(command).end()
}

#[test]
fn a_second_up_is_told_who_holds_the_folder() {
    let server = Server::start();
    let data = server.data().to_str().unwrap();
    let ran = up(&["--data-dir", data, "--listen", "127.0.0.1:0", "--executor", "process"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    ran.tells(&[
        data,
        &format!("process {}", server.pid()),
        "another folder",
        "--data-dir",
    ]);
}

#[test]
fn a_taken_port_is_told_with_the_flag_to_use() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().to_str().unwrap();
    let ran = up(&["--data-dir", data, "--listen", &address, "--executor", "process"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    ran.tells(&[&address, "is taken", "use --listen"]);
}

#[test]
fn mistakes_in_settings_are_told_all_at_once_with_their_lines() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("robata.toml");
    fs::write(
        &file,
        "[server]\nlistne = \"127.0.0.1:1\"\n\n[limits]\nlabels = \"many\"\n",
    )
    .unwrap();
    let ran = up(&["--config", file.to_str().unwrap()]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    ran.tells(&[
        "robata.toml:2: server.listne: unknown key; did you mean `server.listen`?",
        "^^^^^^",
        "robata.toml:5: limits.labels",
    ]);
    fs::write(&file, "[server\n").unwrap();
    up(&["--config", file.to_str().unwrap()]).tells(&["robata.toml:1: not valid TOML", "1 | [server", "^"]);
    up(&["--config", "/there/is/none.toml"]).tells(&["cannot read /there/is/none.toml"]);
    let ran = up(&["--listen", "0.0.0.0:7070"]);
    ran.tells(&["flag --listen", "127.0.0.1"]);
    let ran = up(&["--executor", "kubernetes"]);
    assert_eq!(ran.code, Some(2), "{ran:?}");
    ran.tells(&["there is no such executor; there are docker, process"]);
}

#[test]
fn a_data_folder_that_cannot_be_made_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let data = file.join("data");
    let ran = up(&[
        "--data-dir",
        data.to_str().unwrap(),
        "--listen",
        "127.0.0.1:0",
        "--executor",
        "process",
    ]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    ran.tells(&[data.to_str().unwrap()]);
}

#[test]
fn definitions_are_applied_before_it_listens() {
    let folder = tempfile::tempdir().unwrap();
    // A pipe: the definitions are not there until somebody writes them, and the apply waits for them.
    let file = folder.path().join("jobs.toml");
    nix::unistd::mkfifo(&file, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let mut command = robata();
    command
        .args([
            "--output",
            "json",
            "up",
            "--executor",
            "process",
            "--listen",
            &address.to_string(),
        ])
        .arg("--data-dir")
        .arg(folder.path().join("data"))
        .arg("--apply")
        .arg(&file);
    let server = Running::start(command);

    // The address is taken before anything changes...
    let mut client = support::eventually("it takes its address", || TcpStream::connect(address).ok());
    client
        .write_all(b"GET /api/v1/apps HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        .unwrap();
    // ...but nobody is answered before the definitions are in force.
    client.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let mut answer = String::new();
    let early = client.read_to_string(&mut answer);
    assert!(early.is_err(), "answered before the definitions were read: {answer}");
    fs::write(&file, LONG).unwrap();
    client.set_read_timeout(Some(support::DEADLINE)).unwrap();
    client.read_to_string(&mut answer).unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.contains("\"app\":\"t\""),
        "{answer}"
    );

    server.signal(Signal::SIGTERM);
    let ran = server.end();
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let lines = ran.json_lines();
    let at = |kind: &str| lines.iter().position(|event| event["event"] == kind);
    assert!(at("applied").unwrap() < at("listening").unwrap(), "{lines:?}");
    assert_eq!(lines[at("applied").unwrap()]["changed"], 3);
}

#[test]
fn a_signal_while_definitions_are_awaited_ends_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("jobs.toml");
    nix::unistd::mkfifo(&file, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let socket = folder.path().join("up.sock");
    let mut command = robata();
    command
        .args([
            "up",
            "--executor",
            "process",
            "--listen",
            &format!("unix:{}", socket.display()),
        ])
        .arg("--data-dir")
        .arg(folder.path().join("data"))
        .arg("--apply")
        .arg(&file);
    let server = Running::start(command);
    support::eventually("it takes its socket", || UnixStream::connect(&socket).ok());
    server.signal(Signal::SIGTERM);
    assert_eq!(server.end().code, Some(143));
}

#[test]
fn it_listens_at_a_unix_socket() {
    let folder = tempfile::tempdir().unwrap();
    let (file, socket) = (folder.path().join("jobs.toml"), folder.path().join("up.sock"));
    fs::write(&file, LONG).unwrap();
    let mut command = robata();
    command
        .args([
            "up",
            "--executor",
            "process",
            "--listen",
            &format!("unix:{}", socket.display()),
        ])
        .arg("--data-dir")
        .arg(folder.path().join("data"))
        .arg("--apply")
        .arg(&file);
    let server = Running::start(command);
    let mut client = support::eventually("it takes its socket", || UnixStream::connect(&socket).ok());
    client
        .write_all(b"GET /api/v1/apps HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("\"app\":\"t\""), "{answer}");
    server.signal(Signal::SIGTERM);
    assert_eq!(server.end().code, Some(0));
    assert!(!socket.exists());
}

#[test]
fn a_docker_host_that_cannot_be_spoken_to_is_told_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = robata();
    command
        .args(["up", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(folder.path())
        .env("DOCKER_HOST", "ssh://me@far");
    let ran = Running::start(command).end();
    assert_eq!(ran.code, Some(1), "{ran:?}");
    ran.tells(&["ssh://me@far", "unix:// or tcp://", "ssh -NL", "robata config"]);
}

#[test]
fn bad_definitions_end_it_with_their_lines() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("jobs.toml");
    fs::write(&file, "[apps.t.jobs.x]\ncomand = [\"x\"]\n").unwrap();
    let data = folder.path().join("data");
    let ran = up(&[
        "--data-dir",
        data.to_str().unwrap(),
        "--listen",
        "127.0.0.1:0",
        "--executor",
        "process",
        "--apply",
        file.to_str().unwrap(),
    ]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    ran.tells(&["jobs.toml:2:", "comand", "command"]);
}

#[test]
fn an_engine_that_is_not_there_is_told_and_the_rest_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let socket = format!("unix://{}/none.sock", folder.path().display());
    let server = Server::with(Options {
        executors: vec!["docker".into(), "process".into()],
        env: vec![("ROBATA_EXECUTORS__DOCKER__DOCKER__HOST".into(), socket)],
        ..Options::default()
    });
    let told = server.event("unreached").unwrap();
    assert_eq!(told["executor"], "docker");
    assert!(told["message"].as_str().unwrap().contains("none.sock"), "{told}");
    server.apply("[apps.t.jobs.c]\nimage = \"i\"\nexecutor = \"docker\"\n[apps.t.jobs.p]\nexecutor = \"process\"\ncommand = [\"true\"]\n");
    assert_eq!(server.run(&["enqueue", "t/p", "--wait"]).code, Some(0));
    let id = server.enqueue(&["t/c"]);
    support::eventually("the job says what it waits for", || {
        let job = server.job(&id);
        let reason = job["waiting"]["reason"].as_str()?;
        matches!(reason, "engine_unreachable" | "no_worker").then_some(())
    });
}

#[test]
fn sigterm_leaves_running_jobs_running_and_the_next_start_adopts_them() {
    let mut server = Server::start();
    server.apply(LONG);
    let id = server.enqueue(&["t/two"]);
    server.until_attempt(&id, "running");
    server.signal(Signal::SIGTERM);
    let status = server.ended();
    assert_eq!(status.code(), Some(0), "{}", server.stderr());
    assert_eq!(server.event("stopped").unwrap()["running"], 1);
    assert!(!server.processes().is_empty(), "the job was not left running");
    server.restart();
    let job = server.until(&id, "succeeded");
    assert_eq!(job["attempts"].as_array().unwrap().len(), 1, "{job:#}");
    assert_eq!(server.run(&["jobs", "logs", &id, "--follow"]).ok().stdout, "a\nb\n");
    support::eventually("nothing of the job is left", || {
        server.processes().is_empty().then_some(())
    });
}

#[test]
fn a_follower_goes_on_over_a_kill_and_restart() {
    let mut server = Server::start();
    server.apply(LONG);
    let follower = server.spawn(&["enqueue", "t/two", "--wait", "--follow"]);
    let id = support::eventually("the job runs", || {
        let list = server.json(&["jobs", "list"]);
        Some(list["jobs"].get(0)?["id"].as_str()?.to_owned())
    });
    server.until_attempt(&id, "running");
    server.kill9();
    server.restart();
    let ran = follower.end();
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "a\nb\n"), "{ran:?}");
}

#[test]
fn an_interrupt_stops_it_with_nothing_running() {
    let mut server = Server::start();
    server.signal(Signal::SIGINT);
    assert_eq!(server.ended().code(), Some(0));
    assert_eq!(server.event("stopped").unwrap()["running"], 0);
    assert!(TcpListener::bind(server.address()).is_ok());
}

#[test]
fn the_demo_runs_its_jobs_as_processes_without_an_engine() {
    let server = demo(Options::default());
    let place = server.event("demo").unwrap();
    assert!(place["place"].as_str().unwrap().contains("processes"), "{place}");
    assert_eq!(server.run(&["run", "demo", "--", "echo", "hi"]).ok().stdout, "hi\n");
}

#[test]
fn the_demo_runs_its_jobs_in_docker_containers() {
    let server = demo(Options::docker());
    let place = server.event("demo").unwrap();
    assert!(place["place"].as_str().unwrap().contains("containers"), "{place}");
    let hungry = server
        .events()
        .into_iter()
        .rfind(|event| event["job"] == "hungry")
        .unwrap();
    assert_eq!(hungry["reason"], "out_of_memory");
    assert_eq!(server.run(&["run", "demo", "--", "echo", "hi"]).ok().stdout, "hi\n");
}

#[test]
fn an_interrupt_in_the_middle_of_the_demo_stops_it_and_its_long_job_goes_on() {
    let mut server = Server::with(Options {
        args: vec!["--demo".into()],
        ..Options::default()
    });
    let long = support::eventually("the long job is told", || {
        let told = server.events().into_iter();
        told.filter_map(|event| Some(event["long"].as_str()?.to_owned())).next()
    });
    server.until_attempt(&long, "running");
    server.signal(Signal::SIGINT);
    assert!(server.ended().success());
    assert!(server.event("stopped").unwrap()["running"].as_u64() >= Some(1));
}

/// Watches the demo to its end; `long` is cancelled.
fn demo(mut options: Options) -> Server {
    options.args.push("--demo".into());
    let server = Server::with(options);
    let ended = |name: &str| {
        support::eventually(&format!("{name} has ended"), || {
            server.events().into_iter().find(|event| {
                event["job"] == name && matches!(event["state"].as_str(), Some("succeeded" | "failed" | "cancelled"))
            })
        })
    };
    assert_eq!(ended("hello")["state"], "succeeded");
    assert_eq!(
        (&ended("flaky")["state"], &ended("flaky")["attempt"]),
        (&"succeeded".into(), &3.into())
    );
    assert_eq!(
        (&ended("slow")["state"], &ended("slow")["reason"]),
        (&"failed".into(), &"timed_out".into())
    );
    assert_eq!(ended("hungry")["state"], "failed");
    let long = server
        .events()
        .into_iter()
        .find_map(|event| Some(event["long"].as_str()?.to_owned()))
        .unwrap();
    server.run(&["jobs", "cancel", &long]).ok();
    assert_eq!(ended("long")["state"], "cancelled");
    support::eventually("the demo says that it has ended", || {
        server.events().into_iter().find(|event| event["ended"] == true)
    });
    let ran = server.run(&["enqueue", "demo/hello", "--wait", "--follow"]).ok();
    assert_eq!(ran.stdout, "Hello from demo/hello, attempt 1\n");
    server
}
