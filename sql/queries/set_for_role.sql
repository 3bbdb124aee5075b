-- The statement that makes $2 the default of a configuration parameter, $1, for this role in this database. Every role
-- may run it for itself.
SELECT format('ALTER ROLE %I IN DATABASE %I SET %I = %L', current_user, current_database(), $1::text, $2::text)
