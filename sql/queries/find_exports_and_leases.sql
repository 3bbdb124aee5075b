-- What stands in the way of exporting these claims: the runs that have exported them, and their leases, whether they
-- have expired or not. And what does not: the runs whose exports were taken back (is_reversed).
-- A row with expires_at is a lease, a row without it an export. One row without a claim has the time at which the
-- statement began, as expires_at: what was committed before it is in the answer.
-- Each organisation comes with its claims in one text, separated by U+001F. One scan of an index goes through all claims
-- of an organisation, which is a fifth faster than one scan per claim. More rows than the limit fit into no reply.
-- $3 limit
SELECT
    NULL AS org_id, NULL AS claim_id, NULL::uuid AS run_id, NULL::run_status AS status,
    NULL::timestamptz AS finished_at, statement_timestamp() AS expires_at, NULL::bigint AS fencing_token,
    false AS has_expired, false AS is_reversed
UNION ALL
SELECT
    request.org_id, claim.claim_id, claim.run_id, run.status, run.finished_at,
    NULL, NULL, false, claim.outcome = 'reversed'
FROM unnest($1::text[], $2::text[]) AS request (org_id, claim_ids)
CROSS JOIN LATERAL (
    SELECT claim_id, run_id, outcome FROM export_run_claims
    WHERE claim_id = ANY (string_to_array(request.claim_ids, U&'\001F')) AND org_id = request.org_id
        AND outcome >= 'exported'
    OFFSET 0
) AS claim
JOIN export_runs AS run USING (run_id)
UNION ALL
SELECT
    request.org_id, lease.claim_id, lease.run_id, NULL, NULL,
    lease.expires_at, lease.fencing_token, lease.expires_at <= clock_timestamp(), false
FROM unnest($1::text[], $2::text[]) AS request (org_id, claim_ids)
CROSS JOIN LATERAL (
    SELECT * FROM claim_leases
    WHERE claim_id = ANY (string_to_array(request.claim_ids, U&'\001F')) AND org_id = request.org_id
    OFFSET 0
) AS lease
LIMIT $3::bigint
