-- What stands in the way of exporting these claims: the runs that have exported them, and their leases, expired or
-- not. Organisations and claims come in pairs. OFFSET 0 keeps the planner from reading a table whole that was
-- empty when it made its plan.
SELECT
    asked.org_id, asked.claim_id, claim.run_id, claim.status, claim.finished_at,
    NULL::timestamptz AS expires_at, NULL::bigint AS fencing_token, false AS expired
FROM unnest($1::text[], $2::text[]) AS asked (org_id, claim_id)
CROSS JOIN LATERAL (
    SELECT run_id, run.status, run.finished_at
    FROM export_run_claims AS claim
    JOIN export_runs AS run USING (run_id)
    WHERE claim.claim_id = asked.claim_id AND claim.org_id = asked.org_id AND claim.outcome = 'exported'
    OFFSET 0
) AS claim
UNION ALL
SELECT
    asked.org_id, asked.claim_id, lease.run_id, NULL, NULL,
    lease.expires_at, lease.fencing_token, lease.expires_at <= clock_timestamp()
FROM unnest($1::text[], $2::text[]) AS asked (org_id, claim_id)
CROSS JOIN LATERAL (
    SELECT run_id, expires_at, fencing_token
    FROM claim_leases
    WHERE claim_id = asked.claim_id AND org_id = asked.org_id
    OFFSET 0
) AS lease
