-- Note that alerts were published, or were not.
UPDATE double_exports SET published_at = CASE WHEN $2::boolean THEN clock_timestamp() END WHERE id = ANY ($1::bigint[])
