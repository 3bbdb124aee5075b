-- The checks of the migration before, for the rows that were there. This reads the tables, and keeps nobody waiting.

ALTER TABLE export_runs VALIDATE CONSTRAINT nothing_left_of_a_purged_run;

ALTER TABLE export_run_events VALIDATE CONSTRAINT export_run_events_event_type_check;
