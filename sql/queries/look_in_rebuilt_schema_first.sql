-- Let this session find the tables of a rebuild in place of the others.
SELECT set_config('search_path', 'export_runs_rebuild, ' || current_setting('search_path'), false)
