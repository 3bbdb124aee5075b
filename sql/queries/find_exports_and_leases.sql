-- What stands in the way of exporting these claims: the runs that have exported them, and their leases, expired or
-- not. Organisations and claims come in pairs.
SELECT
    asked.org_id, asked.claim_id, claim.run_id, run.status, run.finished_at,
    NULL::timestamptz AS expires_at, NULL::bigint AS fencing_token, false AS expired
FROM unnest($1::text[], $2::text[]) AS asked (org_id, claim_id)
JOIN export_run_claims AS claim USING (claim_id, org_id)
JOIN export_runs AS run USING (run_id)
WHERE claim.outcome = 'exported'
UNION ALL
SELECT
    asked.org_id, asked.claim_id, lease.run_id, NULL, NULL,
    lease.expires_at, lease.fencing_token, lease.expires_at <= clock_timestamp()
FROM unnest($1::text[], $2::text[]) AS asked (org_id, claim_id)
JOIN claim_leases AS lease USING (claim_id, org_id)
