//! Kill -9 of `robata up` at random moments while 200 jobs run as processes: nothing is lost, nothing runs twice.

#[path = "support/fault_run.rs"]
mod fault_run;
mod support;

use std::{path::PathBuf, thread, time::Duration};

use support::Server;

#[test]
fn killed_at_random_under_200_jobs_as_processes_it_keeps_its_promises() {
    let mut server = Server::start();
    let journal = server.data().join("journal");
    let definitions = format!(
        "[apps.fault.jobs.count]\nexecutor = \"process\"\ncommand = [\"/bin/sh\", \"-c\", {:?}]\nenv = {{ JOURNAL = {:?} }}\n",
        fault_run::script(),
        journal,
    );
    server.apply(&definitions);
    let accepted = fault_run::enqueue(&server, "fault", "count", 200);
    let mut chance = fault_run::Chance::new();
    for _ in 0..8 {
        thread::sleep(chance.millis(100, 2_500));
        server.kill9();
        server.restart();
    }
    fault_run::prove(
        &server,
        &accepted,
        || fault_run::journal(&journal),
        Duration::from_secs(150),
    );
    assert_eq!(fault_run::processes_of(&accepted), Vec::<PathBuf>::new());
    server.stop();
}
