-- Write what ends of runs say of their claims beside their outcomes. An event is merged only once.
INSERT INTO claim_details (
    claim_id, org_id, run_id, event_id, voucher_id, voucher_url, amount, currency, skip_code
)
SELECT
    each.claim_id, each.org_id, each.run_id, each.event_id, each.voucher_id, each.voucher_url, each.amount::numeric,
    each.currency, each.skip_code
FROM unnest(
    $1::text[], $2::text[], $3::uuid[], $4::uuid[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[]
) AS each (claim_id, org_id, run_id, event_id, voucher_id, voucher_url, amount, currency, skip_code)
