-- The statement that locks tables, in this order, until the transaction ends.
-- $1 schema, $2 name, $3 mode
SELECT format('LOCK TABLE %s IN %s MODE', string_agg(format('%I.%I', $1::text, name), ', '), $3::text)
FROM unnest($2::text[]) AS locked (name)
