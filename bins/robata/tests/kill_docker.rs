//! Kill -9 of `robata up` at random moments while jobs run in Docker; and two installations on one engine.

#[path = "support/engine_watch.rs"]
mod engine_watch;
#[path = "support/fault_run.rs"]
mod fault_run;
mod support;

use std::{thread, time::Duration};

use engine_watch::{EngineWatch, engine, side_by_side};
use robata_testkit::checker::Line;
use support::{Options, Server, eventually};

fn server() -> Server {
    let (host, image) = engine();
    let server = Server::with(Options {
        executors: vec!["docker".to_owned()],
        env: vec![("ROBATA_EXECUTORS__DOCKER__DOCKER__HOST".to_owned(), host)],
        ..Options::default()
    });
    server.apply(&format!(
        "[apps.fault]\nimage = {image:?}\ndocker = {{ network = \"none\" }}\n\
         [apps.fault.jobs.count]\ncommand = [\"/bin/sh\", \"-c\", {:?}]\nenv = {{ JOURNAL = \"\" }}\n",
        fault_run::script(),
    ));
    server
}

fn kill_and_prove(server: &mut Server, watch: &EngineWatch, jobs: usize, kills: usize) {
    let accepted = fault_run::enqueue(server, "fault", "count", jobs);
    let mut chance = fault_run::Chance::new();
    for _ in 0..kills {
        thread::sleep(chance.millis(200, 3_000));
        server.kill9();
        server.restart();
    }
    let ours = |line: &Line| match line {
        Line::Begin(attempt, _) | Line::End(attempt, _) => accepted.contains(&attempt.job),
    };
    let journal = || watch.lines().into_iter().filter(ours).collect();
    fault_run::prove(server, &accepted, journal, Duration::from_secs(180));
}

#[test]
fn docker_killed_at_random_under_200_jobs_it_keeps_its_promises() {
    let watch = EngineWatch::start();
    let mut server = server();
    let installation = server.installation();
    kill_and_prove(&mut server, &watch, 200, 8);
    eventually("nothing is left in the engine", || {
        watch.left_of(&installation).is_empty().then_some(())
    });
    server.stop();
}

#[test]
fn docker_two_installations_on_one_engine_never_touch_each_other() {
    let watch = EngineWatch::start();
    let (mut one, mut other) = (server(), server());
    let installations = [one.installation(), other.installation()];
    assert_ne!(installations[0], installations[1]);
    side_by_side(
        || kill_and_prove(&mut one, &watch, 40, 4),
        || kill_and_prove(&mut other, &watch, 40, 4),
    );
    for installation in installations {
        eventually("nothing is left in the engine", || {
            watch.left_of(&installation).is_empty().then_some(())
        });
    }
    one.stop();
    other.stop();
}
