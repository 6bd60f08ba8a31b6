//! The Store suite: one case for every sentence of the contracts in `robata_core::store`, and for PROTOCOL's mishaps that a
//! store must prevent.
//!
//! `robata_testkit::store_suite!(make)` makes one test of each case; `make` is an async closure that answers a [`Harness`]
//! with a new, empty store.

mod accept;
mod access;
mod act;
mod catalog;
mod claim;
mod enqueue;
mod formats;
mod hold;
mod operate;
mod random;
mod read;
mod record;
mod retention;
mod schedule;
mod world;

pub use accept::*;
pub use access::*;
pub use act::*;
pub use catalog::*;
pub use claim::*;
pub use enqueue::*;
pub use formats::*;
pub use hold::*;
pub use operate::*;
pub use random::*;
pub use read::*;
pub use record::*;
pub use retention::*;
pub use schedule::*;
pub use world::{Harness, World, mark};

/// Makes one test of each case; `$make` is an async closure that answers a [`Harness`].
#[macro_export]
macro_rules! store_suite {
    ($make:expr) => {
        $crate::store_suite! { @cases $make;
            enqueue_answers_in_the_order_of_its_jobs,
            what_was_accepted_is_there_after_a_restart,
            a_bad_item_is_refused_alone,
            an_atomic_batch_with_a_bad_item_stores_nothing,
            a_known_key_answers_with_its_first_job,
            a_key_twice_in_a_batch_makes_one_job,
            a_known_key_with_another_request_is_refused,
            a_key_of_another_app_is_another_key,
            keys_alone_tell_their_first_jobs,
            a_thousand_concurrent_enqueues_with_one_key_make_one_job,
            concurrent_callers_get_their_own_answers,
            an_id_sent_again_is_stored_once,
            an_enqueue_whose_caller_went_away_is_whole_or_not_there,
            a_payload_comes_back_as_the_bytes_that_went_in,
            ten_thousand_jobs_go_in_at_once,
            an_enqueue_hints_at_its_line,
            cancel_of_a_waiting_job_ends_it,
            cancel_of_a_running_job_only_records_the_request,
            cancel_of_an_ended_job_is_a_conflict,
            a_cancelled_job_is_never_retried,
            cancel_between_a_look_and_the_end_wins_over_a_retry,
            retry_gives_a_failed_job_one_attempt_more,
            retry_of_a_waiting_or_running_job_changes_nothing,
            retry_of_a_job_that_did_not_fail_is_a_conflict,
            a_reference_is_claimed_once_however_many_claim_it,
            claims_answer_in_the_order_of_their_references,
            a_job_whose_line_has_changed_is_gone,
            a_claim_respects_max_running_of_a_queue,
            a_claim_respects_max_running_of_an_app,
            a_claim_respects_max_running_of_a_definition,
            concurrent_claims_do_not_exceed_max_running,
            a_claim_freezes_the_definition,
            a_one_off_runs_its_own_definition,
            a_job_without_a_definition_ends_at_its_claim,
            an_expired_job_ends_at_its_claim,
            a_claim_whose_answer_was_lost_is_fetched_by_its_number,
            a_claim_without_a_lease_takes_nothing,
            an_attempt_goes_its_way_and_is_told,
            a_write_with_an_old_epoch_is_fenced_alone,
            a_move_outside_the_table_is_a_conflict_alone,
            an_end_sent_again_answers_well,
            a_second_handle_is_a_conflict,
            a_write_about_an_unknown_attempt_is_not_found,
            what_the_platform_caused_is_not_the_jobs,
            what_was_never_set_going_uses_up_neither_budget,
            a_job_has_its_own_attempts_and_no_more,
            a_job_and_its_attempts_are_of_one_moment,
            stamps_never_go_back_with_the_wall_clock,
            every_call_in_the_name_of_an_ended_lease_is_fenced,
            what_is_released_is_adopted_at_once,
            an_attempt_is_adopted_by_one,
            payloads_are_given_to_who_starts_and_not_to_adopters,
            what_ended_and_is_not_finalised_is_adopted,
            adoption_goes_by_realm_and_executor,
            adoption_can_name_its_attempts,
            an_adopter_is_given_by_name_what_it_holds_itself,
            a_heartbeat_tells_what_is_held,
            known_tells_what_may_be_removed,
            workers_are_told_live_ones_first,
            an_ended_incarnation_cannot_register_again,
            a_lease_without_heartbeats_ends,
            after_a_gap_in_the_marks_nobody_is_judged_for_a_lease,
            a_step_of_the_wall_clock_ends_no_lease,
            due_moves_what_is_due_and_no_more_than_asked,
            run_at_is_by_the_stores_clock,
            due_ends_what_has_expired_while_it_waited,
            references_go_by_priority_then_the_apps_in_turn_then_age,
            one_apps_many_jobs_do_not_hide_anothers_one,
            references_keep_within_the_window,
            references_leave_out_what_has_no_room,
            what_a_limit_leaves_is_given_in_turn,
            what_nobody_receives_holds_back_nothing_else,
            what_a_claim_used_up_before_it_was_noted_goes_out_again,
            what_was_claimed_meanwhile_is_not_marked_as_out,
            void_publications_go_out_again,
            old_publications_are_void_at_doubling_intervals,
            only_what_nobody_came_for_is_lost,
            what_was_adopted_is_not_lost,
            a_gap_in_the_marks_does_not_count_towards_lost,
            while_no_marks_come_nothing_is_lost,
            the_format_in_use_rises_after_a_lease_of_marks_and_falls_at_once,
            after_a_gap_in_the_marks_no_format_rises_for_a_lease,
            an_older_worker_puts_its_format_in_use_and_what_is_out_goes_out_again,
            what_is_out_in_a_newer_format_goes_out_again_for_an_older_release_that_opens_the_store,
            what_was_written_in_a_newer_format_than_the_one_in_use_is_not_noted_as_out,
            a_claim_freezes_in_the_format_in_use,
            what_is_frozen_in_a_newer_format_is_left_by_its_adopter,
            what_is_never_lost_does_not_hide_what_is,
            a_cancelled_job_whose_attempt_is_lost_has_failed,
            prune_removes_what_is_past_its_retention_and_nothing_else,
            what_a_realm_that_never_returns_has_left_is_removed,
            logs_to_remove_are_told_until_they_are_removed,
            logs_that_stay_do_not_hide_others,
            a_key_is_kept_for_a_week_after_its_jobs_end,
            a_reference_names_the_next_attempt,
            a_change_planned_on_an_old_revision_is_a_conflict,
            the_catalog_is_there_after_a_restart,
            waiting_jobs_of_a_changed_definition_change_their_line,
            an_enqueue_by_an_older_catalog_goes_to_the_line_as_it_is_now,
            a_retry_goes_to_the_line_of_its_definition_as_it_is_then,
            the_installations_id_stays,
            a_store_that_serves_says_so,
            pages_give_each_job_once_newest_first,
            each_filter_gives_what_it_names,
            jobs_of_one_name_are_listed_over_all_apps,
            counts_agree_with_the_jobs,
            a_waiting_job_says_why,
            what_is_not_there_is_not_found,
            a_paused_queues_jobs_stay_and_all_go_out_again,
            no_claim_that_begins_after_a_pause_takes_anything,
            pausing_again_changes_nothing_but_the_reason,
            a_resume_hints_at_the_queues_lines,
            a_worker_that_is_asked_to_drain_is_told_and_shown,
            what_ran_in_a_realm_that_is_gone_is_lost_at_once,
            a_realm_in_which_a_live_worker_holds_something_is_not_lost,
            what_is_set_aside_is_kept_with_its_reason,
            a_heartbeat_tells_what_is_followed,
            a_token_is_told_as_it_was_made,
            a_name_is_free_again_once_its_token_is_revoked,
            a_secret_is_never_given_to_another_token,
            of_fifty_tokens_with_one_name_at_once_one_is_made,
            expired_tokens_are_told_until_they_are_revoked,
            there_ever_was_a_token_though_it_was_revoked,
            tokens_that_ended_long_ago_are_forgotten_and_no_others,
            a_token_is_revoked_once,
            making_and_revoking_a_token_is_hinted_at,
            the_audit_tells_who_did_what,
            what_changed_nothing_is_not_in_the_audit,
            audit_pages_give_each_record_once,
            the_audit_is_kept_for_a_year,
            whole_jobs_are_taken_in_in_their_order,
            what_was_taken_in_is_a_job_like_any_other,
            a_whole_job_that_is_there_changes_nothing,
            both_paths_at_once_make_one_job,
            a_bad_whole_job_is_refused_alone,
            an_alias_answers_with_the_first_job_of_its_key,
            times_of_a_whole_job_count_from_its_acceptance,
            a_late_duplicate_of_a_pruned_job_makes_nothing,
            an_id_of_an_outage_may_come_until_it_is_over,
            only_outages_that_are_named_are_over,
            no_sequence_of_events_leaves_the_table,
        }
    };
    (@cases $make:expr; $($case:ident,)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                $crate::case::run(stringify!($case), async {
                    let world = $crate::store::World::new(($make)().await?).await?;
                    $crate::store::$case(world).await
                })
                .await;
            }
        )*
    };
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_case_that_is_written_is_in_the_macro() {
        crate::case::all_listed(
            include_str!("mod.rs"),
            &[
                include_str!("enqueue.rs"),
                include_str!("act.rs"),
                include_str!("claim.rs"),
                include_str!("record.rs"),
                include_str!("hold.rs"),
                include_str!("schedule.rs"),
                include_str!("operate.rs"),
                include_str!("access.rs"),
                include_str!("accept.rs"),
                include_str!("retention.rs"),
                include_str!("catalog.rs"),
                include_str!("read.rs"),
                include_str!("random.rs"),
            ],
        );
    }
}
