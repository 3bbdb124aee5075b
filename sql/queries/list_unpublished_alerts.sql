-- The next alerts, in the order in which they were noted.
SELECT * FROM double_exports WHERE published_at IS NULL ORDER BY id LIMIT $1::bigint
