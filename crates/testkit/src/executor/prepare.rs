//! Cases of `prepare`: it makes one thing and runs nothing.

use robata_core::{
    error::ErrorKind,
    executor::{Prepare, Target, ThingState, label},
    finish::{End, NeverRan},
};

use super::Stage;

fn with_another_mark(request: &Prepare) -> Prepare {
    let mut other = request.clone();
    other
        .labels
        .insert(label::MARK.to_owned(), uuid::Uuid::new_v4().to_string());
    other
}

/// `prepare` MUST run nothing.
pub async fn prepare_runs_nothing(stage: Stage) {
    let handle = stage.prepare(stage.sh("echo ran; exec sleep 1000")).await;
    assert_eq!(stage.observe(&handle).await.state, ThingState::Prepared);
    assert_eq!(stage.processes(), Vec::<String>::new());
    // Had it run, what it printed before would be there by the time that another thing has run to its end.
    stage.run_to_end(stage.sh("exit 0")).await;
    assert_eq!(stage.observe(&handle).await.state, ThingState::Prepared);
    assert_eq!(stage.printed(&handle).await.all(), "");
    // And the check can fail: once it is set going, both are seen.
    stage.executor.start(&handle).await.expect("start");
    stage.until_processes(1).await;
}

/// Called again with the same name and mark it MUST answer the same thing.
pub async fn prepare_with_the_same_name_and_mark_answers_the_same_thing(stage: Stage) {
    let request = stage.request(stage.sh("exit 7"));
    let first = stage.executor.prepare(request.clone()).await.expect("prepare");
    let second = stage
        .restarted()
        .await
        .prepare(request.clone())
        .await
        .expect("prepare again");
    assert_eq!(first.handle, second.handle);
    stage.executor.start(&first.handle).await.expect("start");
    assert_eq!(stage.ending(&first.handle).await.end, End::Exited(7));
    let third = stage
        .executor
        .prepare(request)
        .await
        .expect("prepare what has run, with its own mark");
    assert_eq!(first.handle, third.handle);
    assert_eq!(stage.executor.owned().await.expect("owned").len(), 1);
}

/// With a taken name and another mark it MUST remove a thing that never ran.
pub async fn prepare_with_another_mark_replaces_what_never_ran(stage: Stage) {
    let request = stage.request(stage.sh("exit 1"));
    let first = stage.executor.prepare(request.clone()).await.expect("prepare").handle;
    let second = stage
        .executor
        .prepare(with_another_mark(&request))
        .await
        .expect("prepare anew")
        .handle;
    assert_ne!(first, second);
    assert_eq!(stage.observe(&first).await.state, ThingState::Absent);
    let seen = stage
        .executor
        .observe(&[Target::Name(request.name)])
        .await
        .expect("observe");
    assert_eq!(seen[0].handle, Some(second));
    let error = stage
        .executor
        .start(&first)
        .await
        .expect_err("the old thing cannot be started");
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

/// With a taken name and another mark it MUST answer `StillRuns` where it has run.
pub async fn prepare_with_another_mark_is_refused_where_it_has_run(stage: Stage) {
    let request = stage.request(stage.sh("trap 'exit 4' TERM; sleep 1000 & wait"));
    let handle = stage.executor.prepare(request.clone()).await.expect("prepare").handle;
    stage.executor.start(&handle).await.expect("start");
    stage.until_running(&handle).await;
    let error = stage
        .executor
        .prepare(with_another_mark(&request))
        .await
        .expect_err("it runs");
    assert_eq!(error.kind(), ErrorKind::StillRuns);
    stage
        .executor
        .stop(&handle, std::time::Duration::ZERO)
        .await
        .expect("stop");
    let error = stage
        .executor
        .prepare(with_another_mark(&request))
        .await
        .expect_err("it has run");
    assert_eq!(error.kind(), ErrorKind::StillRuns);
    assert!(matches!(stage.observe(&handle).await.state, ThingState::Ended(_)));
}

/// Two workers that prepare one attempt at once make one thing.
pub async fn many_prepares_of_one_name_at_once_make_one_thing(stage: Stage) {
    let request = stage.request(stage.sh("exit 0"));
    let other = stage.restarted().await;
    let calls = (0..8).map(|call| {
        let executor = if call % 2 == 0 { &stage.executor } else { &other };
        executor.prepare(request.clone())
    });
    let handles: Vec<_> = futures::future::join_all(calls)
        .await
        .into_iter()
        .map(|made| made.expect("prepare").handle)
        .collect();
    assert!(handles.iter().all(|handle| *handle == handles[0]), "{handles:?}");
    assert_eq!(stage.executor.owned().await.expect("owned").len(), 1);
}

/// Dropping a `prepare` MUST leave nothing that runs.
pub async fn a_dropped_prepare_leaves_nothing_that_runs(stage: Stage) {
    for polls in 0..6_u64 {
        let prepare = stage.executor.prepare(stage.request(stage.sh("exec sleep 1000")));
        // Gives up at different moments of it; whether it was done by then does not matter.
        drop(tokio::time::timeout(std::time::Duration::from_micros(300 * polls), prepare).await);
    }
    stage.run_to_end(stage.sh("exit 0")).await;
    for thing in stage.executor.owned().await.expect("owned") {
        let state = stage.observe(&thing.handle).await.state;
        assert!(!matches!(state, ThingState::Running { .. }), "{state:?}");
    }
    assert_eq!(stage.processes(), Vec::<String>::new());
}

/// One that is described wrongly MUST be refused as `StartRefused` with the engine's own words: by `prepare`, by
/// `start`, or as the end of the thing where the engine finds it only then.
pub async fn what_is_described_wrongly_is_refused_with_the_engines_words(stage: Stage) {
    let wrong = stage.argv(&["/no/such/command"]);
    let refused = match stage.executor.prepare(stage.request(wrong)).await {
        Err(error) => Err(error),
        Ok(made) => match stage.executor.start(&made.handle).await {
            Err(error) => Err(error),
            Ok(()) => Ok(stage.ending(&made.handle).await),
        },
    };
    let words = match refused {
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::StartRefused, "{error:?}");
            error.full()
        }
        Ok(ending) => {
            assert_eq!(ending.end, End::NeverRan(NeverRan::StartRefused));
            ending.message.expect("the engine's own words")
        }
    };
    assert!(words.contains("/no/such/command"), "{words}");
    assert!(words.to_lowercase().contains("no such file"), "{words}");
}

/// A thing whose image is missing MUST be refused as `ImagePull`; without images, one that asks for an image is refused.
pub async fn a_missing_image_is_refused(stage: Stage) {
    let mut spec = stage.sh("exit 0");
    let images = stage.executor.capabilities().images;
    let image = stage.harness().missing_image();
    assert_eq!(
        images,
        image.is_some(),
        "a harness of an executor with images names one that is missing"
    );
    let expected = if images {
        ErrorKind::ImagePull
    } else {
        ErrorKind::StartRefused
    };
    spec.image = Some(image.unwrap_or_else(|| "registry.example.com/some/image:1".to_owned()));
    let error = stage
        .executor
        .prepare(stage.request(spec))
        .await
        .expect_err("the image cannot be had");
    assert_eq!(error.kind(), expected, "{error:?}");
    assert!(!error.full().is_empty());
    assert!(stage.executor.owned().await.expect("owned").is_empty());
}
