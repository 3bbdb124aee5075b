-- The checks of the migration before, for the rows that were there. This reads the table, and keeps nobody waiting.

ALTER TABLE export_runs VALIDATE CONSTRAINT export_runs_trigger_check;

ALTER TABLE export_runs VALIDATE CONSTRAINT export_runs_scope_check;
