-- What started a run, and which part of the organisation it is about. The checks hold for new rows at once; the next
-- migration looks at the old ones, which have neither.

ALTER TABLE export_runs
    ADD COLUMN trigger text,
    ADD COLUMN scope text,
    ADD CONSTRAINT export_runs_trigger_check CHECK (trigger IN ('manual', 'scheduled', 'api')) NOT VALID,
    ADD CONSTRAINT export_runs_scope_check CHECK (char_length(scope) BETWEEN 1 AND 200) NOT VALID;
