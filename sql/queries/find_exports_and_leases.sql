-- What stands in the way of exporting these claims: the runs that have exported them, and their leases, expired or
-- not. Organisations and claims come in pairs, an organisation's claims in one text, separated by U+001F. One scan of
-- an index goes through all claims of an organisation: a fifth faster than a scan a claim.
SELECT
    asked.org_id, claim.claim_id, claim.run_id, run.status, run.finished_at,
    NULL::timestamptz AS expires_at, NULL::bigint AS fencing_token, false AS expired
FROM unnest($1::text[], $2::text[]) AS asked (org_id, claim_ids)
CROSS JOIN LATERAL (
    SELECT claim_id, run_id FROM export_run_claims
    WHERE claim_id = ANY (string_to_array(asked.claim_ids, U&'\001F')) AND org_id = asked.org_id
        AND outcome = 'exported'
    OFFSET 0
) AS claim
JOIN export_runs AS run USING (run_id)
UNION ALL
SELECT
    asked.org_id, lease.claim_id, lease.run_id, NULL, NULL,
    lease.expires_at, lease.fencing_token, lease.expires_at <= clock_timestamp()
FROM unnest($1::text[], $2::text[]) AS asked (org_id, claim_ids)
CROSS JOIN LATERAL (
    SELECT * FROM claim_leases
    WHERE claim_id = ANY (string_to_array(asked.claim_ids, U&'\001F')) AND org_id = asked.org_id
    OFFSET 0
) AS lease
