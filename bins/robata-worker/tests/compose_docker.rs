//! The stack that most people try first: `docker-compose.yml` as it is committed takes jobs with its token, is scaled, loses a
//! worker and a master in the middle, and every job ends as it should.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, too")]

mod support;

use std::fmt::Write;

use reqwest::Method;
use serde_json::Value;
use support::{eventually, service, stack::Stack};

/// The definitions that the stack has by default, on the tests' image, and jobs that take their time.
fn definitions() -> String {
    let demo = include_str!("../../../config/demo.toml");
    let image = service("ROBATA_TEST_IMAGE");
    let mut text = demo.replace("busybox:1.37", &image);
    assert_ne!(demo, text);
    for (job, seconds) in [("work", 4), ("longer", 10)] {
        let command = format!(r#"["sh", "-c", "echo begun; sleep {seconds}; echo over"]"#);
        writeln!(text, "[apps.demo.jobs.{job}]\ncommand = {command}").unwrap();
    }
    text
}

async fn enqueue(stack: &Stack, job: &str, keys: std::ops::Range<usize>) -> Vec<String> {
    let mut jobs = Vec::new();
    for key in keys {
        jobs.push(stack.enqueue(job, &format!("{job}-{key}")).await);
    }
    jobs
}

/// A worker that holds so many attempts: its host, which is its container.
async fn busy(stack: &Stack, attempts: u64) -> String {
    let worker = eventually(format!("a worker holds {attempts} attempts"), || async {
        let mut workers = stack.workers().await?.into_iter();
        workers.find(|worker| worker["attempts"].as_u64() >= Some(attempts))
    });
    worker.await["host"].as_str().unwrap().to_owned()
}

/// Waits for a job's end, its log's included, and looks whether it ran as it should; the attempts that it took.
async fn judge(stack: &Stack, id: &str) -> usize {
    let path = format!("/api/v1/jobs/{id}");
    let job: Value = eventually(format!("{id} has ended"), || async {
        let job = stack.get(&path).await?;
        let last = job["attempts"].as_array()?.last()?.clone();
        (!job["finished_at"].is_null() && last["log"]["state"] == "complete").then_some(job)
    })
    .await;
    assert_eq!(job["state"], "succeeded", "{job:#}");
    let attempts = job["attempts"].as_array().unwrap();
    for (position, attempt) in attempts.iter().enumerate() {
        // By its own id: one that went by the broker answers with its key's first job.
        let name = format!("{}/{}", job["id"].as_str().unwrap(), attempt["number"]);
        let is_last = position + 1 == attempts.len();
        // One that was not the last was never set going, by a worker that was killed before it could.
        assert_eq!(attempt["state"], if is_last { "succeeded" } else { "error" }, "{job:#}");
        assert_eq!(stack.starts(&name), usize::from(is_last), "containers of {name}");
    }
    let (status, log) = stack.ask_admin(Method::GET, &format!("{path}/logs")).await;
    assert_eq!((status, log.as_str()), (200, "begun\nover\n"), "{id}");
    attempts.len()
}

#[tokio::test]
async fn the_compose_stack_loses_nothing_while_it_is_scaled_and_killed() {
    let mut stack = Stack::up(&definitions()).await;

    // Only with its token, and as the README says it.
    for token in ["", "0123456789abcdef0123456789abcdef"] {
        let (status, text) = stack.ask(Method::GET, "/api/v1/apps", token, None).await.unwrap();
        assert_eq!(status, 401, "{text}");
    }
    let said = stack
        .compose(&["run", "--rm", "-T", "cli", "enqueue", "demo/hello", "--follow"])
        .await;
    assert!(said.contains("Hello from demo/hello, attempt 1"), "{said}");

    stack.compose(&["up", "--detach", "--scale", "worker=3"]).await;
    stack.until_workers(3).await;
    let mut jobs = enqueue(&stack, "work", 0..16).await;
    stack.kill(&busy(&stack, 2).await).await;
    jobs.extend(enqueue(&stack, "work", 16..24).await);
    let masters = stack.containers("master").await;
    assert_eq!(masters.len(), 2);
    stack.kill(&masters[0]).await;
    // The other one is the address from here on.
    jobs.extend(enqueue(&stack, "work", 24..32).await);
    for id in &jobs {
        judge(&stack, id).await;
    }
    assert_eq!(
        stack.containers("master").await.len(),
        1,
        "who is killed by hand stays dead"
    );
    assert_eq!(stack.containers("worker").await.len(), 2);

    // Once more, and all are there again; then down to one in the middle of it.
    stack.compose(&["up", "--detach", "--scale", "worker=3"]).await;
    stack.until_workers(3).await;
    assert_eq!(stack.containers("master").await.len(), 2);
    let longer = enqueue(&stack, "longer", 0..6).await;
    eventually("all of them run", || async {
        let workers = stack.workers().await?;
        let held: u64 = workers.iter().filter_map(|worker| worker["attempts"].as_u64()).sum();
        (held == 6).then_some(())
    })
    .await;
    stack.compose(&["up", "--detach", "--scale", "worker=1"]).await;
    assert_eq!(stack.containers("worker").await.len(), 1);
    for id in &longer {
        judge(&stack, id).await;
    }
    // Another broker, while jobs run and wait: what the old one holds goes out again.
    let mut over = enqueue(&stack, "longer", 6..12).await;
    stack.change_to("rabbitmq").await;
    over.extend(enqueue(&stack, "work", 32..36).await);
    for id in &over {
        judge(&stack, id).await;
    }
    eventually("nothing is left in the engine", || async {
        stack.left().await.is_empty().then_some(())
    })
    .await;
}
