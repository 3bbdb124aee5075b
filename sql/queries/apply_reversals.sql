-- Take back the exports of a run that reversals are about, and count them. $1 run_id, $2 org_id
WITH reversed AS (
    UPDATE export_run_claims AS claim
    SET outcome = 'reversed'
    FROM claim_reversals AS reversal
    WHERE reversal.run_id = $1 AND reversal.org_id = $2
        AND claim.claim_id = reversal.claim_id AND claim.org_id = reversal.org_id AND claim.run_id = reversal.run_id
        AND claim.outcome = 'exported'
    RETURNING claim.claim_id
)
UPDATE export_runs
SET reversed_count = reversed_count + (SELECT count(*) FROM reversed)
WHERE run_id = $1 AND org_id = $2 AND EXISTS (SELECT FROM reversed)
