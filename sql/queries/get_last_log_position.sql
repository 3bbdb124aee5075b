-- The last place that was drawn in the order of the log. While writers are kept out, no entry has a later one, and none
-- that has an earlier one is still to be committed.
SELECT last_value FROM export_run_event_positions
