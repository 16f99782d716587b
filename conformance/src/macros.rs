//! The macros that expand to a `#[test]` for each obligation.

/// A provider's tests: `provider!(expression that makes an empty store)`. Waits, exchanges, renewals; the sink and
/// the orders where it declares them.
#[macro_export]
macro_rules! provider {
    ($store:expr) => {
        $crate::tests!(provider, $store, [
            it_has_a_sink_and_takes_orders_exactly_where_it_declares_so,
            opening_a_store_that_is_out_of_reach_is_a_transient_error_the_manager_tries_again,
            opening_a_store_of_a_newer_format_is_refused_and_leaves_it_untouched,
            tasks_that_it_needs_are_spawned_here_they_live_on_the_managers_own_runtime,
            waiting_takes_nothing,
            waiting_returns_when_a_job_becomes_ready_due_or_free_of_its_lease,
            waiting_may_return_although_there_is_nothing,
            a_wait_that_is_dropped_loses_nothing,
            a_wait_that_claims_answers_as_an_exchange_would_with_no_suspect,
            an_exchange_under_the_token_of_a_wait_settles_and_answers_what_the_wait_has_claimed,
            a_wait_whose_token_was_exchanged_claims_nothing,
            a_settlement_under_a_lease_that_is_still_held_is_applied_also_if_the_lease_ran_out_but_was_not_taken,
            a_settlement_under_a_lease_that_is_lost_changes_nothing_and_is_reported_stale,
            follow_up_jobs_of_a_settlement_become_real_together_with_it,
            a_leased_job_is_leased_to_nobody_else_until_its_lease_runs_out,
            a_claim_leases_at_most_what_the_room_allows_by_type_in_all_and_in_bytes_one_job_is_always_allowed,
            jobs_of_one_queue_and_priority_are_leased_in_the_order_in_which_they_were_enqueued,
            a_job_of_a_higher_priority_is_leased_first_where_the_provider_orders,
            a_job_whose_lease_ran_out_becomes_a_suspect_and_is_leased_alone_as_the_only_one_of_its_claim,
            a_suspects_lease_is_durable_before_the_claim_is_answered_a_suspect_whose_lease_ran_out_has_one_crash_more,
            the_same_token_again_gets_the_same_answer,
            a_cancelled_job_is_leased_to_nobody,
            a_retried_job_comes_at_its_time_with_what_it_spent_and_its_last_ten_runs,
            pushed_bytes_come_as_they_were_and_keep_their_first_claim,
            a_lease_that_is_held_is_extended_also_if_it_ran_out_but_was_not_taken,
            a_lease_that_was_taken_or_settled_is_answered_as_lost,
            a_held_job_that_someone_asked_to_cancel_is_answered_as_such,
            an_open_item_of_a_named_token_that_is_left_out_is_ready_again_with_nothing_spent,
            a_cancelled_item_that_is_left_out_has_ended,
            the_beat_is_kept_for_a_lease_also_when_nothing_is_held,
        ]);
        $crate::tests!(sink, $store, [
            an_acknowledged_job_survives_the_end_of_the_process,
            a_job_without_an_id_is_given_one,
            the_same_id_with_the_same_content_again_answers_the_existing_job_as_long_as_its_id_is_known,
            the_same_id_with_other_content_is_refused,
            a_field_that_the_provider_does_not_support_is_refused_by_name,
            refusing_one_job_of_a_batch_disturbs_no_other,
            the_same_batch_token_again_stores_nothing_twice,
            a_job_waits_until_its_time,
            the_states_of_jobs_are_told_in_order,
            every_type_of_which_a_job_is_ready_is_named_one_of_which_none_is_may_be,
            one_who_waits_for_a_job_learns_its_end_whoever_ran_it,
        ]);
        $crate::tests!(admin, $store, [
            retrying_a_dead_cancelled_or_expired_job_makes_it_ready_with_its_budgets_restored_a_scheduled_one_is_due_now,
            cancelling_a_waiting_job_ends_it_at_once_a_running_one_is_marked_and_its_holder_learns_it_by_renewal,
            removing_a_job_that_is_not_running_forgets_it_a_running_one_is_passed_over,
            recovering_brings_each_stranded_job_back_once_and_leaves_one_that_may_still_run_where_it_is,
            a_list_is_newest_first_filtered_and_read_page_by_page,
            a_dead_letter_tells_its_reason,
            all_that_a_filter_sets_must_hold_for_orders_too,
        ]);
        $crate::tests!(unique, $store, [
            a_job_whose_unique_key_another_job_holds_is_refused_and_that_job_is_named,
            a_job_holds_its_unique_key_exactly_while_it_is_in_the_states_that_it_names,
            of_several_that_enqueue_the_same_unique_key_at_once_one_is_taken,
            a_job_is_never_refused_as_its_own_duplicate,
            a_producers_entry_whose_unique_key_another_job_holds_is_leased_as_its_duplicate_else_it_holds_the_key_from_then_on,
            a_follow_up_job_whose_unique_key_another_job_holds_ends_cancelled_and_its_record_names_that_job,
            retrying_a_job_whose_unique_key_another_job_holds_by_now_leaves_it_as_it_is,
        ]);
    };
}

/// An intake's tests: `intake!(expression that makes a harness)`.
#[macro_export]
macro_rules! intake {
    ($harness:expr) => {
        $crate::tests!(
            intake,
            $harness,
            [
                an_address_that_is_taken_is_a_fatal_error_that_names_it,
                a_job_is_acknowledged_only_when_its_sink_has_it,
                after_stop_nothing_more_is_taken_in,
                what_is_under_way_at_the_stop_ends_well,
            ]
        );
    };
}

/// A worker's tests: `worker!(expression that makes a harness)`.
#[macro_export]
macro_rules! worker {
    ($harness:expr) => {
        $crate::tests!(worker, $harness, [
            a_run_that_is_dropped_timeout_cancel_shutdown_has_stopped_its_work_when_the_drop_returns_or_fences_it_its_worker_value_is_dropped_with_it_and_made_anew,
            a_run_that_ends_in_time_sees_no_other_run_on_its_value,
            params_that_do_not_fit_end_the_job_dead,
        ]);
    };
}

/// One `#[test]` for each name of a group.
#[doc(hidden)]
#[macro_export]
macro_rules! tests {
    ($group:ident, $make:expr, [$($name:ident,)*]) => {$(
        #[test]
        fn $name() {
            $crate::run(async { $crate::$group::$name($make).await });
        }
    )*};
}
