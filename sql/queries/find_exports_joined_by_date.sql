-- For runs whose earliest end is now an earlier one: which of their claims another run has exported, whose export was
-- taken back, so that it counts when the run ended. That may have kept the two apart so far. Claims that have a record are
-- left out: what is told again opens none. Each row that is returned brings its claims in one text, separated by U+001F.
SELECT mine.run_id, mine.org_id, string_agg(DISTINCT claim.claim_id, U&'\001F') AS claim_ids
FROM unnest($1::uuid[], $2::text[], $3::timestamptz[]) AS mine (run_id, org_id, finished_at)
JOIN export_run_claims AS claim ON claim.run_id = mine.run_id AND claim.org_id = mine.org_id
    AND claim.outcome >= 'exported'
JOIN claim_reversals AS reversal ON reversal.org_id = claim.org_id AND reversal.claim_id = claim.claim_id
    AND reversal.run_id <> mine.run_id
JOIN export_run_claims AS other ON other.claim_id = claim.claim_id AND other.org_id = claim.org_id
    AND other.run_id = reversal.run_id AND other.outcome >= 'exported'
WHERE NOT EXISTS (
        SELECT FROM claim_overrides AS override
        WHERE override.run_id IN (mine.run_id, other.run_id)
            AND override.claim_id = claim.claim_id AND override.org_id = mine.org_id
            AND override.earlier_run_id IN (mine.run_id, other.run_id)
    )
    AND NOT EXISTS (
        SELECT FROM double_exported_claims AS record
        WHERE record.org_id = claim.org_id AND record.claim_id = claim.claim_id
    )
    AND NOT reversal_separates(mine.org_id, claim.claim_id, mine.run_id, mine.finished_at, other.run_id)
GROUP BY mine.run_id, mine.org_id
