//! An engine whose disk is full: jobs wait, with its words, and run when there is room again.

#[path = "support/own_engine.rs"]
#[expect(dead_code, reason = "this test binary uses a part of it")]
mod own_engine;
#[expect(dead_code, reason = "this test binary uses a part of it")]
mod support;

use std::{fs::File, io::Write, path::Path};

use own_engine::Engine;
use robata_core::{
    Error, ErrorKind, InstallationId,
    executor::{Executor, Spec},
    finish::End,
};
use robata_executor_docker::DockerExecutor;

/// Takes all the room that is left.
fn fill(file: &Path) {
    let mut file = File::create(file).expect("a file");
    let block = vec![0; 64 << 10];
    let error = loop {
        if let Err(error) = file.write_all(&block) {
            break error;
        }
    };
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull, "{error}");
}

async fn no_room(executor: &DockerExecutor, spec: Spec) -> Error {
    let error = executor
        .prepare(support::request(spec))
        .await
        .expect_err("the disk is full");
    assert_eq!(error.kind(), ErrorKind::NoCapacity, "{error:?}");
    assert!(error.full().contains("no space left on device"), "{error:?}");
    error
}

/// An engine with a small disk of its own.
fn small_engine() -> (Engine, std::path::PathBuf) {
    let engine = Engine::new(&[]);
    let data = engine.path("data");
    std::fs::create_dir(&data).expect("a folder");
    let size = ["-t", "tmpfs", "-o", "size=64m", "tmpfs"];
    own_engine::run("mount", &[&size[..], &[&data.display().to_string()]].concat());
    (engine, data.join("filler"))
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_with_a_full_disk_has_no_room_for_a_pull_from_the_registry_nor_a_container_until_it_has() {
    let (mut engine, filler) = small_engine();
    engine.start().await;
    let config = engine.config(InstallationId::new());
    let executor = DockerExecutor::connect(config.clone()).unwrap();
    let mut spec = support::sh("echo ran");
    spec.image = Some(format!(
        "{}/robata-test/busybox:1",
        support::variable("ROBATA_TEST_REGISTRY")
    ));

    // The identity of the realm is kept inside the engine, too.
    executor.realm().await.expect("realm");
    fill(&filler);
    let error = no_room(&executor, spec.clone()).await;
    assert!(error.message().contains("cannot pull"), "{error}");

    std::fs::remove_file(&filler).expect("remove");
    let handle = support::start(&executor, spec.clone()).await;
    assert_eq!(support::ending(&executor, &handle).await.end, End::Exited(0));
    assert_eq!(support::printed(&executor, &handle).await.expect("output"), b"ran\n");

    fill(&filler);
    no_room(&executor, spec.clone()).await;
    // What is there can be looked at and removed all the same.
    assert_eq!(support::ending(&executor, &handle).await.end, End::Exited(0));
    executor.remove(&handle, false).await.expect("remove");

    std::fs::remove_file(&filler).expect("remove");
    let handle = support::start(&executor, spec).await;
    assert_eq!(support::ending(&executor, &handle).await.end, End::Exited(0));
    support::empty(&config).await;
    engine.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_with_a_full_disk_tears_the_log_of_what_runs_and_that_is_told_with_its_words() {
    let (mut engine, filler) = small_engine();
    engine.start().await;
    engine.load_image(&support::variable("ROBATA_TEST_IMAGE"));
    let config = engine.config(InstallationId::new());
    let executor = DockerExecutor::connect(config.clone()).unwrap();
    // Lines so long that none is likely to end where a page of the disk does.
    let script = "line=$(head -c 3000 /dev/zero | tr '\\0' x); i=0; \
                  while [ $i -lt 100 ]; do i=$((i+1)); echo $line; sleep 0.05; done; exit 7";
    let handle = support::start(&executor, support::sh(script)).await;
    fill(&filler);
    let deadline = tokio::time::Instant::now() + support::STATE;
    let says = || std::fs::read_to_string(engine.path("log")).expect("its own log");
    while !says().contains("Failed to log msg") {
        assert!(tokio::time::Instant::now() < deadline, "it has room: {}", says());
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    std::fs::remove_file(&filler).expect("remove");
    assert_eq!(support::ending(&executor, &handle).await.end, End::Exited(7));
    let error = support::printed(&executor, &handle).await.expect_err("it is torn");
    assert_eq!(error.kind(), ErrorKind::Internal, "{error:?}");
    assert!(error.message().contains("cannot read the log"), "{error:?}");
    support::empty(&config).await;
    engine.end().await;
}
