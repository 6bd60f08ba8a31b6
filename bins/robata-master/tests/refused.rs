//! Settings under which a master does not start, and what it says about them.

use std::process::Output;

use robata_testkit::program::{NO_SERVICES, run, tells};

fn master(settings: &str, args: &[&str]) -> Output {
    run(env!("CARGO_BIN_EXE_robata-master"), settings, args)
}

#[test]
fn an_address_that_others_reach_is_refused() {
    let output = master(NO_SERVICES, &["--listen", "0.0.0.0:0"]);
    tells(
        &output,
        1,
        &["flag --listen: server.listen", "[auth] admin_token", "unix:/PATH"],
    );
}

#[test]
fn services_of_one_process_are_refused() {
    let output = master("", &[]);
    tells(&output, 1, &["[store.postgres]", "[queue.redis]", "robata up"]);
    let output = master("[store.postgres]\nurl = \"postgres://x@127.0.0.1:1/x\"\n", &[]);
    tells(&output, 1, &["a queue in memory ends at its process"]);
}

#[test]
fn an_address_that_is_none_is_told_with_its_key() {
    let output = master(
        "[store.postgres]\nurl = \"127.0.0.1\"\n[queue.redis]\nurl = \"redis://127.0.0.1:1\"\n",
        &[],
    );
    tells(&output, 1, &["robata.toml:4: store.postgres.url", "_FILE"]);
}
