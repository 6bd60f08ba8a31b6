//! Cases of `events` and `observe`: every end is told, and a look answers what was asked.

use std::{collections::BTreeSet, time::Duration};

use futures::{StreamExt, stream};
use robata_core::executor::{Event, Handle, Target, ThingState};

use super::Stage;

/// `events` MUST begin with `Gap`.
pub async fn events_begin_with_gap(stage: Stage) {
    stage.run_to_end(stage.sh("exit 0")).await;
    for executor in [std::sync::Arc::clone(&stage.executor), stage.restarted().await] {
        assert_eq!(executor.events().next().await, Some(Event::Gap));
    }
}

/// `events` MUST tell of every end while connected; and nothing is left when all is removed.
pub async fn two_hundred_short_things_all_end_and_are_told(stage: Stage) {
    let mut events = stage.executor.events();
    assert_eq!(events.next().await, Some(Event::Gap));
    let parallel = match stage.executor.capabilities().parallel_starts {
        0 => 8,
        most => most,
    };
    let started = stream::iter(0..200).map(|number| {
        let stage = stage.clone();
        async move {
            (
                stage.run(stage.sh(&format!("echo {number}; exit {number}"))).await,
                number,
            )
        }
    });
    let collecting = async {
        let mut told = BTreeSet::new();
        // The ends are looked at by what was told alone.
        while told.len() < 200 {
            let event = tokio::time::timeout(Duration::from_secs(60), events.next())
                .await
                .unwrap_or_else(|_| panic!("only {} of 200 ends were told", told.len()))
                .expect("events do not end");
            match event {
                Event::Changed(handle) => {
                    if matches!(stage.observe(&handle).await.state, ThingState::Ended(_)) {
                        told.insert(handle);
                    }
                }
                other => panic!("no gap was expected: {other:?}"),
            }
        }
        told
    };
    let (things, told): (Vec<(Handle, i32)>, _) =
        tokio::join!(started.buffer_unordered(parallel).collect(), collecting);
    assert_eq!(
        things.iter().map(|thing| thing.0.clone()).collect::<BTreeSet<_>>(),
        told
    );
    for (handle, number) in things {
        let end = stage.ending(&handle).await.end;
        assert!(
            stage.harness().ends_by_code(number).contains(&end),
            "code {number}: {end:?}"
        );
        assert_eq!(stage.printed(&handle).await.text(), format!("{number}\n"));
        stage.executor.remove(&handle, false).await.expect("remove");
    }
    assert!(stage.executor.owned().await.expect("owned").is_empty());
}

/// Each stream of events is told of an end, also one of another worker on the same engine.
pub async fn every_stream_of_events_is_told(stage: Stage) {
    let other = stage.restarted().await;
    let mut streams = [stage.executor.events(), stage.executor.events(), other.events()];
    for events in &mut streams {
        assert_eq!(events.next().await, Some(Event::Gap));
    }
    let (handle, _) = stage.run_to_end(stage.sh("exit 0")).await;
    for events in &mut streams {
        let told = async {
            loop {
                if events.next().await.expect("events do not end") == Event::Changed(handle.clone())
                    && matches!(stage.observe(&handle).await.state, ThingState::Ended(_))
                {
                    break;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(30), told)
            .await
            .expect("the end is told");
    }
}

/// `observe` MUST answer in the order of its targets, and `Absent` for what is not there.
pub async fn observe_answers_in_the_order_of_its_targets(stage: Stage) {
    let one = stage.prepare(stage.sh("exit 0")).await;
    let (two, _) = stage.run_to_end(stage.sh("exit 0")).await;
    let absent = Handle("fedcba9876543210fedcba9876543210".to_owned());
    let targets: Vec<_> = [&two, &absent, &one, &two]
        .into_iter()
        .cloned()
        .map(Target::Handle)
        .collect();
    let seen = stage.executor.observe(&targets).await.expect("observe");
    let handles: Vec<_> = seen.iter().map(|seen| seen.handle.clone()).collect();
    assert_eq!(handles, [Some(two.clone()), None, Some(one), Some(two)]);
    assert_eq!(seen[1].state, ThingState::Absent);
    assert_eq!(seen[0], seen[3]);
    assert!(stage.executor.observe(&[]).await.expect("observe nothing").is_empty());
}

/// A thing is found by its name as well as by its handle, in each of its states.
pub async fn observe_knows_names_and_states(stage: Stage) {
    let request = stage.request(stage.sh("trap 'exit 0' TERM; sleep 1000 & wait"));
    let name = request.name.clone();
    let look = || async {
        let targets = [Target::Name(name.clone())];
        stage.executor.observe(&targets).await.expect("observe").remove(0)
    };
    assert_eq!((look().await.handle, look().await.state), (None, ThingState::Absent));
    let handle = stage.executor.prepare(request).await.expect("prepare").handle;
    assert_eq!(look().await.state, ThingState::Prepared);
    stage.executor.start(&handle).await.expect("start");
    stage.until_running(&handle).await;
    assert_eq!(look().await, stage.observe(&handle).await);
    stage
        .executor
        .stop(&handle, Duration::from_secs(20))
        .await
        .expect("stop");
    assert!(matches!(look().await.state, ThingState::Ended(_)));
    stage.executor.remove(&handle, false).await.expect("remove");
    assert_eq!(look().await.state, ThingState::Absent);
}
