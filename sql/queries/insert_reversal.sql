-- Record a reversal, and which claims of its run it takes back.
-- $1 org_id, $2 event_id, $3 run_id, $4 of_whole_run, $5 reversed_at, $6 reason, $7 reversed_by, $8 approved_by,
-- $9 external_reversal_id, $10 claim_ids
WITH reversal AS (
    INSERT INTO export_reversals (
        org_id, event_id, run_id, of_whole_run, reversed_at, reason, reversed_by, approved_by, external_reversal_id
    ) VALUES (
        $1::text, $2::uuid, $3::uuid, $4::boolean, $5::timestamptz, $6::text, $7::text, $8::text, $9::text
    )
)
INSERT INTO claim_reversals (claim_id, org_id, run_id, event_id)
SELECT reversed_claim_id, $1, $3, $2 FROM unnest($10::text[]) AS reversed_claim_id
ORDER BY reversed_claim_id COLLATE "C"
