-- The statement that makes an empty temporary table with the name, the columns and the keys of a table. This session
-- finds it in place of that table. Each transaction begins with it empty.
-- $1 schema, $2 name
SELECT format(
    'CREATE TEMPORARY TABLE %2$I (LIKE %1$I.%2$I INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING INDEXES)'
    ' ON COMMIT DELETE ROWS',
    $1::text, $2::text
)
