//! The operator's policy where attempts start: it may be narrower than when their definition was applied.

use std::borrow::Cow;

use robata_core::{
    ExecutorName, Policy,
    attempt::HeldAttempt,
    finish::{End, NeverRan, Outcome},
};

use crate::config::WorkerConfig;

fn of<'c>(config: &'c WorkerConfig, executor: &ExecutorName) -> Cow<'c, Policy> {
    config
        .policies
        .get(executor)
        .map_or_else(|| Cow::Owned(Policy::default()), Cow::Borrowed)
}

/// Gives what its definition does not limit the executor's own bound, for whoever starts or follows the attempt.
pub(crate) fn bound(config: &WorkerConfig, executor: &ExecutorName, held: &mut HeldAttempt) {
    of(config, executor).bound(&mut held.request.definition);
}

/// The end of an attempt that asks for more than the policy allows now; it is not even prepared.
pub(crate) fn refused(config: &WorkerConfig, executor: &ExecutorName, held: &HeldAttempt) -> Option<Outcome> {
    let refusals = of(config, executor).check(&held.request.app, &held.request.definition);
    if refusals.is_empty() {
        return None;
    }
    let told: Vec<_> = refusals
        .iter()
        .map(|problem| format!("{}: {}", problem.path.join("."), problem.message))
        .collect();
    let words = format!("not within the operator's policy: {}", told.join("; "));
    Some(Outcome::new(End::NeverRan(NeverRan::StartRefused)).with_message(words))
}
