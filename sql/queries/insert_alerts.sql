-- Put alerts into the outbox. Each row of the batch brings its claims and its runs in one text each, separated by
-- U+001F.
-- $10 occurred_at
INSERT INTO alerts (
    event_id, org_id, run_id, claim_count, claim_ids, earlier_run_ids, found_by, traceparent, tracestate, occurred_at,
    next_attempt_at
)
SELECT
    event_id, org_id, run_id, claim_count, string_to_array(claim_ids, U&'\001F'),
    string_to_array(earlier_run_ids, U&'\001F')::uuid[], found_by, traceparent, tracestate, $10::timestamptz,
    $10::timestamptz
FROM unnest(
    $1::uuid[], $2::text[], $3::uuid[], $4::integer[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[]
) AS alert (event_id, org_id, run_id, claim_count, claim_ids, earlier_run_ids, found_by, traceparent, tracestate)
