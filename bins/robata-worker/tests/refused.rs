//! Settings under which a worker does not start, and what it says about them.

use std::process::Output;

use robata_testkit::program::{NO_SERVICES, run, tells};

fn worker(settings: &str, args: &[&str]) -> Output {
    run(env!("CARGO_BIN_EXE_robata-worker"), settings, args)
}

#[test]
fn an_address_that_others_reach_is_refused() {
    let output = worker(NO_SERVICES, &["--listen", "0.0.0.0:0"]);
    tells(
        &output,
        1,
        &["flag --listen: worker.listen", "[auth] admin_token", "unix:/PATH"],
    );
}

#[test]
fn services_of_one_process_are_refused() {
    let output = worker("", &[]);
    tells(&output, 1, &["[store.postgres]", "[queue.redis]", "robata up"]);
    let output = worker("[store.postgres]\nurl = \"postgres://x@127.0.0.1:1/x\"\n", &[]);
    tells(&output, 1, &["a queue in memory ends at its process"]);
}

#[test]
fn an_address_that_is_none_is_told_with_its_key() {
    let output = worker(
        "[store.postgres]\nurl = \"127.0.0.1\"\n[queue.redis]\nurl = \"redis://127.0.0.1:1\"\n",
        &[],
    );
    tells(&output, 1, &["robata.toml:4: store.postgres.url", "_FILE"]);
}

#[test]
fn an_executor_or_queue_that_cannot_be_is_wrong_use() {
    let output = worker(NO_SERVICES, &["--executor", "moon"]);
    tells(&output, 2, &["--executor moon", "docker, process"]);
    let output = worker(NO_SERVICES, &["--queue", "a=0"]);
    tells(&output, 2, &["--queue a=0", "from 1"]);
}

#[test]
fn queues_in_two_orders_are_refused() {
    let settings = format!("{NO_SERVICES}[worker]\nqueues = {{ a = 1 }}\nqueues_strict = [\"b\"]\n");
    tells(
        &worker(&settings, &[]),
        1,
        &["worker.queues_strict", "exclude each other"],
    );
}
