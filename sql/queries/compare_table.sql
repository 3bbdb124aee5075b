-- The statement that compares a table with the temporary one of its name, as far as organisations reach, row by row. The
-- statement's parameters are the first and the last organisation, and how many differences to return. The times in some
-- columns may differ by some seconds. A row is compared by all its columns, whatever they are. Rows are found by their
-- organisation, or by their runs where no index begins with the organisation: the runs that the log has, and those that
-- are stored. An empty digest says that a worker makes it anew when it needs it, and finds then whether the events of the
-- run contradict each other (handlers/former_digests.py). Until then these two columns are not compared.
-- $1 schema, $2 name, $3 clock_columns, $4 tolerance_s
WITH relation AS (
    SELECT format('%I.%I', $1::text, $2::text)::regclass::oid AS oid
), index_column AS (
    SELECT index.indexrelid, index.indisunique AND index.indpred IS NULL AS is_unique, index.indisprimary,
        attribute.attname, place.ordinality AS place, place.ordinality <= index.indnkeyatts AS is_key
    FROM relation
    JOIN pg_index AS index ON index.indrelid = relation.oid AND index.indexprs IS NULL
    CROSS JOIN LATERAL unnest(index.indkey::smallint[]) WITH ORDINALITY AS place (attnum, ordinality)
    JOIN pg_attribute AS attribute ON attribute.attrelid = relation.oid AND attribute.attnum = place.attnum
), key AS (
    SELECT attname, place
    FROM index_column
    WHERE is_key AND indexrelid = (
        SELECT indexrelid FROM index_column WHERE is_unique ORDER BY indisprimary DESC, indexrelid LIMIT 1
    )
), facts AS (
    SELECT
        (SELECT array_agg(attname::text ORDER BY place) FROM key) AS key_columns,
        (SELECT string_agg(format('expected.%1$I = actual.%1$I', attname), ' AND ' ORDER BY place) FROM key) AS keys_equal,
        (SELECT format('expected.%1$I IS NULL OR actual.%1$I IS NULL', attname) FROM key WHERE place = 1) AS one_is_missing,
        (
            SELECT string_agg(
                CASE
                    WHEN attname = ANY ($3::text[]) THEN format(
                        'coalesce(abs(extract(epoch FROM expected.%1$I - actual.%1$I)) > %2$s, '
                        'expected.%1$I IS DISTINCT FROM actual.%1$I)',
                        attname, $4::integer
                    )
                    WHEN attname IN ('finished_digest', 'has_conflict') THEN format(
                        '(expected.%1$I IS DISTINCT FROM actual.%1$I AND actual.finished_digest IS DISTINCT FROM %2$L)',
                        attname, ''
                    )
                    ELSE format('expected.%1$I IS DISTINCT FROM actual.%1$I', attname)
                END,
                ' OR ' ORDER BY attnum
            )
            FROM pg_attribute
            WHERE attrelid = relation.oid AND attnum > 0 AND NOT attisdropped
                AND attname NOT IN (SELECT attname FROM key)
        ) AS columns_differ,
        CASE
            WHEN EXISTS (SELECT FROM index_column WHERE place = 1 AND attname = 'org_id') THEN 'organisation'
            WHEN EXISTS (SELECT FROM index_column WHERE place = 1 AND attname = 'run_id') THEN 'run'
            ELSE 'organisation'
        END AS found_by
    FROM relation
)
SELECT
    key_columns, found_by,
    format(
        'SELECT to_jsonb(expected)::text AS expected, to_jsonb(actual)::text AS actual, count(*) OVER () AS differences'
        ' FROM pg_temp.%2$I AS expected FULL JOIN (SELECT * FROM %1$I.%2$I AS stored WHERE %3$s) AS actual ON (%4$s)'
        ' WHERE %5$s LIMIT $3::bigint',
        $1, $2,
        CASE found_by
            WHEN 'run' THEN format(
                'run_id IN ('
                'SELECT run_id FROM export_run_events'
                ' WHERE org_id COLLATE "C" >= $1::text AND org_id COLLATE "C" <= $2::text'
                ' UNION SELECT run_id FROM %I.export_runs WHERE org_id >= $1 AND org_id <= $2)',
                $1
            )
            ELSE 'org_id COLLATE "C" >= $1::text AND org_id COLLATE "C" <= $2::text'
        END,
        keys_equal,
        concat_ws(' OR ', one_is_missing, columns_differ)
    ) AS comparison,
    format('SELECT count(*) FROM pg_temp.%I', $2) AS count_of_rows,
    format(
        'WITH RECURSIVE run AS ('
        '(SELECT run_id, 1 AS number FROM %1$I.%2$I WHERE run_id > $1::uuid ORDER BY run_id LIMIT 1)'
        ' UNION ALL SELECT next.run_id, run.number + 1 FROM run CROSS JOIN LATERAL ('
        'SELECT run_id FROM %1$I.%2$I AS later WHERE later.run_id > run.run_id ORDER BY later.run_id LIMIT 1'
        ') AS next WHERE run.number < $2::bigint)'
        ' SELECT run_id, NOT EXISTS (SELECT FROM %1$I.export_runs WHERE export_runs.run_id = run.run_id)'
        ' AND NOT EXISTS (SELECT FROM export_run_events AS entry WHERE entry.run_id = run.run_id) AS is_unknown FROM run',
        $1, $2
    ) AS runs_unknown
FROM facts
