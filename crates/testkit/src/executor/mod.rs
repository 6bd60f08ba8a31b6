//! The suite of the Executor seam: one case for every sentence of the trait's contract.
//!
//! An adapter writes a [`Harness`] and expands [`executor_suite!`](crate::executor_suite) in a test binary:
//!
//! ```ignore
//! robata_testkit::executor_suite!(MyHarness::new());
//! ```
//!
//! The expression is evaluated once per case, in async code. A case takes a [`Stage`]: an installation of its own on
//! the harness's engine, which is emptied afterwards, also where the case failed.

pub mod ends;
pub mod events;
pub mod inside;
pub mod output;
pub mod owned;
pub mod prepare;
pub mod processes;
mod stage;
pub mod start;
pub mod stop;

use std::sync::Arc;

use async_trait::async_trait;
use robata_core::{
    executor::{Executor, Spec},
    finish::End,
    id::InstallationId,
};

pub use stage::{Printed, Stage, run};

/// What the suite has to know of an adapter.
#[async_trait]
pub trait Harness: Send + Sync + 'static {
    /// A new executor of this installation, always on the same engine (realm): called again with the same
    /// installation it is a restarted worker's, with another one a stranger's.
    async fn connect(&self, installation: InstallationId) -> anyhow::Result<Arc<dyn Executor>>;

    /// What runs this argv; with the adapter's test image, where it needs one. No other setting.
    fn argv(&self, argv: &[&str]) -> Spec;

    /// What runs this POSIX shell script.
    fn sh(&self, script: &str) -> Spec {
        self.argv(&["/bin/sh", "-c", script])
    }

    /// An image that the registry says is missing; `None` for executors without images.
    fn missing_image(&self) -> Option<String> {
        None
    }

    /// How an exit of the main process with this code may be told; some engines tell 128 + n and the signal n alike.
    fn ends_by_code(&self, code: i32) -> Vec<End> {
        vec![End::Exited(code)]
    }

    /// Whether out of memory is told apart, where an executor has engines of several kinds.
    fn tells_out_of_memory(&self, executor: &dyn Executor) -> bool {
        executor.capabilities().tells_out_of_memory
    }

    /// Variables that the engine itself gives to everything, beside PATH, HOME and LANG.
    fn variables(&self) -> &[&str] {
        &[]
    }

    /// How an end of the main process by this signal may be told; some engines know only the code 128 + n.
    fn ends_by_signal(&self, signal: i32) -> Vec<End> {
        vec![End::Signalled(signal)]
    }
}

/// Expands to one named test for each case of the suite. `$harness` is evaluated once per test, in async code.
#[macro_export]
macro_rules! executor_suite {
    ($harness:expr) => {
        $crate::executor_suite! { @cases $harness;
            prepare: prepare_runs_nothing, prepare_with_the_same_name_and_mark_answers_the_same_thing,
                prepare_with_another_mark_replaces_what_never_ran, prepare_with_another_mark_is_refused_where_it_has_run,
                many_prepares_of_one_name_at_once_make_one_thing, a_dropped_prepare_leaves_nothing_that_runs,
                what_is_described_wrongly_is_refused_with_the_engines_words, a_missing_image_is_refused;
            start: start_of_an_absent_thing_is_not_found, many_starts_at_once_run_it_once, start_never_runs_again_what_has_ended,
                start_again_while_it_runs_changes_nothing, what_was_removed_is_never_started,
                start_and_remove_at_once_agree, a_restarted_worker_starts_what_was_prepared, what_runs_outlives_its_executor,
                a_restarted_worker_finds_what_ended_meanwhile;
            events: events_begin_with_gap, two_hundred_short_things_all_end_and_are_told, every_stream_of_events_is_told,
                observe_answers_in_the_order_of_its_targets, observe_knows_names_and_states;
            ends: exit_codes_come_through, an_end_by_signal_is_told, codes_137_and_143_are_not_out_of_memory, out_of_memory_is_told_apart,
                a_crash_at_boot_is_told_with_its_words, start_and_end_times_are_the_engines, the_end_of_the_main_process_ends_every_descendant;
            stop: stop_lets_it_end_by_itself_within_the_grace_period, stop_kills_what_ignores_term, stop_reaches_descendants_in_other_sessions,
                stop_with_no_grace_is_prompt, stop_of_an_ended_or_absent_thing_is_well, many_stops_at_once_are_all_confirmed;
            output: output_is_whole_to_a_last_line_without_newline, binary_and_escape_bytes_come_through, a_line_of_a_megabyte_comes_through,
                stdout_and_stderr_are_told_apart, following_shows_output_while_it_runs_and_then_ends, output_goes_on_from_any_position,
                a_slow_reader_neither_blocks_the_thing_nor_loses_bytes, output_of_what_never_was_is_not_found, a_restarted_worker_reads_the_whole_output;
            inside: the_payload_file_has_the_exact_bytes, the_environment_is_exactly_as_given,
                a_secret_is_in_the_environment_and_in_nothing_else, nothing_of_our_environment_leaks_in,
                it_runs_in_the_given_folder, arguments_are_no_shell_text;
            owned: owned_lists_only_this_installations_things, labels_come_back_as_they_were_given, remove_without_force_refuses_what_runs,
                remove_with_force_ends_what_runs, remove_takes_what_never_ran_and_what_has_ended, remove_of_an_absent_thing_is_well,
                a_stranger_does_not_see_our_names, the_realm_is_the_same_for_all;
        }
    };
    (@cases $harness:expr; $($module:ident: $($case:ident),+;)+) => {
        $($(
            #[tokio::test(flavor = "multi_thread")]
            async fn $case() {
                $crate::executor::run($harness, $crate::executor::$module::$case).await;
            }
        )+)+
    };
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_case_is_in_the_macro() {
        let list = include_str!("mod.rs");
        for source in [
            include_str!("ends.rs"),
            include_str!("events.rs"),
            include_str!("inside.rs"),
            include_str!("output.rs"),
            include_str!("owned.rs"),
            include_str!("prepare.rs"),
            include_str!("start.rs"),
            include_str!("stop.rs"),
        ] {
            let mut cases = 0;
            for case in source.lines().filter_map(|line| line.strip_prefix("pub async fn ")) {
                let name = case.split('(').next().unwrap();
                assert!(list.contains(name), "{name} is in no list of executor_suite!");
                cases += 1;
            }
            assert!(cases > 0);
        }
    }
}
