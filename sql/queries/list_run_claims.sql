-- A page of the claims of a run above a claim, in the order of their ids, each with its details, its overrides and its
-- reversal, as they were at one moment. Claims that the run was granted against an export, and has not reported yet, are there
-- without an outcome. The page ends before its texts come to more than $6 bytes, but has at least one claim; `available`
-- is how many there would be without that bound.
-- $1 run_id, $2 org_id, $3 above_claim_id, $4 outcome, $5 limit, $6 bytes_max
SELECT
    claim_id, outcome, skip_reason, voucher_id, voucher_url, amount, currency, skip_code, overrides, reversed_at,
    reversal_reason, reversed_by, reversal_approved_by, external_reversal_id, available
FROM (
    SELECT
        claim.*, detail.voucher_id, detail.voucher_url, detail.amount, detail.currency, detail.skip_code,
        override.overrides,
        reversal.reversed_at, reversal.reason AS reversal_reason, reversal.reversed_by,
        reversal.approved_by AS reversal_approved_by, reversal.external_reversal_id,
        count(*) OVER () AS available,
        row_number() OVER in_order AS number,
        sum(
            octet_length(claim.claim_id) + coalesce(octet_length(claim.skip_reason), 0)
            + coalesce(octet_length(detail.voucher_url), 0) + coalesce(octet_length(detail.voucher_id), 0)
            + coalesce(octet_length(detail.skip_code), 0) + coalesce(octet_length(nullif(override.overrides, '[]')), 0)
            + coalesce(octet_length(reversal.reason), 0) + coalesce(octet_length(reversal.reversed_by), 0)
            + coalesce(octet_length(reversal.approved_by), 0) + coalesce(octet_length(reversal.external_reversal_id), 0)
        ) OVER in_order AS bytes
    FROM (
        SELECT claim_id, outcome::text AS outcome, skip_reason
        FROM export_run_claims
        WHERE run_id = $1 AND org_id = $2 AND claim_id > $3 AND ($4::text IS NULL OR outcome = $4::claim_outcome)
        UNION ALL
        SELECT DISTINCT claim_id, NULL, NULL
        FROM claim_overrides AS granted
        WHERE run_id = $1 AND org_id = $2 AND claim_id > $3 AND $4::text IS NULL
            AND NOT EXISTS (
                SELECT FROM export_run_claims AS claim
                WHERE claim.claim_id = granted.claim_id AND claim.org_id = $2 AND claim.run_id = $1
                OFFSET 0
            )
        ORDER BY claim_id
        LIMIT $5::bigint
    ) AS claim
    LEFT JOIN LATERAL (
        SELECT detail.*
        FROM claim_details AS detail
        WHERE detail.run_id = $1 AND detail.claim_id = claim.claim_id AND detail.org_id = $2
            AND detail.event_id = (SELECT finished_event_id FROM export_runs WHERE run_id = $1)
    ) AS detail ON true
    CROSS JOIN LATERAL (
        SELECT coalesce(json_agg(
            json_build_array(earlier_run_id, reason, approved_by, granted_at) ORDER BY earlier_run_id, approved_by
        )::text, '[]') AS overrides
        FROM claim_overrides AS override
        WHERE override.run_id = $1 AND override.claim_id = claim.claim_id AND override.org_id = $2
    ) AS override
    LEFT JOIN LATERAL (
        SELECT reversal.*
        FROM claim_reversals AS reversed
        JOIN export_reversals AS reversal
            ON reversal.org_id = reversed.org_id AND reversal.event_id = reversed.event_id
        WHERE reversed.org_id = $2 AND reversed.claim_id = claim.claim_id
            AND (reversed.run_id = $1) IS TRUE -- else it might read all reversals of the run
    ) AS reversal ON claim.outcome = 'reversed'
    WINDOW in_order AS (ORDER BY claim.claim_id)
) AS claim
WHERE bytes <= $6::bigint OR number = 1
ORDER BY claim_id
