//! Kill -9 of `robata up` at random moments while 200 jobs run as processes: nothing is lost, nothing runs twice.

mod support;

use std::time::Duration;

use support::{Server, fault_run};

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_random_under_200_jobs_as_processes_it_keeps_its_promises() {
    let mut server = Server::start().await;
    let journal = server.folder().join("journal");
    server
        .apply(serde_json::json!({"apps": {"fault": {"jobs": {"count": {
            "executor": "process",
            "command": ["/bin/sh", "-c", fault_run::script()],
            "env": {"JOURNAL": journal.to_str().unwrap()},
        }}}}}))
        .await;
    let accepted = fault_run::enqueue(&server, "fault", "count", 200).await;
    let mut chance = fault_run::Chance::new();
    for _ in 0..8 {
        tokio::time::sleep(chance.millis(100, 2_500)).await;
        server.kill9();
        server.restart().await;
    }
    fault_run::prove(
        &server,
        &accepted,
        &fault_run::journal(&journal),
        Duration::from_secs(120),
    )
    .await;
    assert_eq!(
        fault_run::processes_of(&accepted),
        [""; 0].map(std::path::PathBuf::from)
    );
    server.stop().await;
}
