-- What configuration parameters are in this session; times in their own unit, without it.
SELECT name, setting FROM pg_settings WHERE name = ANY ($1::text[]) ORDER BY name
