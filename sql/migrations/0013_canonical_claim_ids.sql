-- no transaction
-- Claim ids that look the same are one claim. What was stored under another spelling than the canonical one is brought
-- to it, and rows that become one are merged. The event log keeps what was sent. respelled_claims says what was found
-- and merged. Workers of the version before go on storing what they are sent, so this is repeated when the last of them
-- has ended: `export-runs migrate --repeat canonical_claim_ids`.

-- The same as schema/claim_ids.py, which says why. A test compares the two.
CREATE OR REPLACE FUNCTION canonical_claim_id(spelling text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE
        WHEN octet_length(spelling) = char_length(spelling) THEN btrim(spelling, E' \t\n\x0B\f\r\x1C\x1D\x1E\x1F')
        ELSE (
            SELECT CASE
                WHEN visible ~ '[\u0897\U000105C9\U000105D2\U000105DA\U000105E4\U00010D69-\U00010D6D\U00010EFD-\U00010EFF\U00011382-\U00011385\U0001138B\U0001138E\U00011390\U00011391\U000113B8\U000113BB\U000113C2\U000113C5\U000113C7-\U000113C9\U000113CE-\U000113D0\U00011F41\U00011F42\U0001611E-\U00016129\U0001612F\U00016D63\U00016D67-\U00016D6A\U0001E08F\U0001E4EC-\U0001E4EF\U0001E5EE\U0001E5EF]'
                    THEN visible
                ELSE normalize(visible, NFC)
            END
            FROM btrim(
                regexp_replace(
                    spelling,
                    '[\u00AD\u034F\u0600-\u0605\u061C\u06DD\u070F\u0890\u0891\u08E2\u115F\u1160\u17B4\u17B5\u180B-\u180F\u200B-\u200F\u202A-\u202E\u2060-\u206F\u3164\uFE00-\uFE0F\uFEFF\uFFA0\uFFF0-\uFFFB\U000110BD\U000110CD\U00013430-\U0001343F\U0001BCA0-\U0001BCA3\U0001D173-\U0001D17A\U000E0000-\U000E0FFF]',
                    '', 'g'
                ),
                E' \t\n\x0B\f\r\x1C\x1D\x1E\x1F\u0085\u00A0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200A\u2028\u2029\u202F\u205F\u3000'
            ) AS stripped (visible)
        )
    END
$$;

CREATE TABLE IF NOT EXISTS respelled_claims (
    org_id    text COLLATE "C" NOT NULL,
    claim_id  text COLLATE "C" NOT NULL,
    spelling  text COLLATE "C" NOT NULL,
    found_at  timestamptz      NOT NULL DEFAULT clock_timestamp(),
    -- Null until its rows are brought to the claim.
    merged_at timestamptz,
    PRIMARY KEY (org_id, claim_id, spelling)
);
COMMENT ON TABLE respelled_claims IS 'Spellings in which claim ids were stored before they had a canonical form.';

CREATE INDEX CONCURRENTLY IF NOT EXISTS respelled_claims_unmerged
    ON respelled_claims (org_id, claim_id) WHERE merged_at IS NULL;

-- An id whose canonical form may not be stored stays as it is: nobody can ask for it any more.
INSERT INTO respelled_claims (org_id, claim_id, spelling)
SELECT org_id, canonical_claim_id(claim_id), claim_id
FROM (
    SELECT org_id, claim_id FROM export_run_claims WHERE claim_id <> canonical_claim_id(claim_id)
    UNION SELECT org_id, claim_id FROM claim_leases WHERE claim_id <> canonical_claim_id(claim_id)
    UNION SELECT org_id, claim_id FROM claim_overrides WHERE claim_id <> canonical_claim_id(claim_id)
    UNION SELECT org_id, claim_id FROM double_exported_claims WHERE claim_id <> canonical_claim_id(claim_id)
    UNION SELECT org_id, claim_id FROM repeated_claims WHERE claim_id <> canonical_claim_id(claim_id)
) AS stored
WHERE char_length(canonical_claim_id(claim_id)) BETWEEN 1 AND 200
ON CONFLICT (org_id, claim_id, spelling) DO UPDATE SET merged_at = NULL;

-- Whether one end of a run named a claim twice, in whatever spellings. In doubt it did: PostgreSQL reads no JSON that
-- has U+0000 in it.
CREATE OR REPLACE FUNCTION has_named_twice(named_by uuid, of_org_id text, named text) RETURNS boolean
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN EXISTS (
        SELECT FROM export_run_events
        WHERE run_id = named_by AND org_id = of_org_id AND event_type = 'run-finished'
            AND payload ->> 'status' <> 'failed'
            AND 1 < (
                SELECT count(*) FROM json_array_elements_text(payload -> 'claimIds') AS claim (spelling)
                WHERE canonical_claim_id(spelling) = named
            )
    );
EXCEPTION WHEN data_exception THEN
    RETURN true;
END
$$;

-- Bring the rows of some claims from their spellings to their canonical ids. The batch has all spellings of each
-- claim, its canonical id among them.
CREATE OR REPLACE FUNCTION merge_spellings(batch respelled_claims[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    joined_at   timestamptz := clock_timestamp();
    run_ids     uuid[];
    joined      respelled_claims[];
    lease       record;
BEGIN
    -- As whoever exports or reserves these claims does (sql/advisory_locks.md), and then the rows of the runs.
    PERFORM pg_advisory_xact_lock(key)
    FROM (
        SELECT DISTINCT hashtextextended(org_id, 1) + (hashtext(spelling) & 7) AS key FROM unnest(batch) ORDER BY key
    ) AS claim;
    run_ids := ARRAY(
        SELECT DISTINCT run_id FROM unnest(batch) AS moved JOIN export_run_claims AS claim
            ON claim.claim_id = moved.spelling AND claim.org_id = moved.org_id
        WHERE moved.spelling <> moved.claim_id
    );
    PERFORM FROM export_runs WHERE run_id = ANY (run_ids) ORDER BY run_id FOR UPDATE;

    -- Claims that were exported in several spellings: each was a claim of its own until now.
    joined := ARRAY(
        SELECT ROW(moved.org_id, moved.claim_id, moved.claim_id, NULL, NULL)::respelled_claims
        FROM unnest(batch) AS moved
        JOIN export_run_claims AS claim ON claim.claim_id = moved.spelling AND claim.org_id = moved.org_id
        WHERE outcome = 'exported'
        GROUP BY moved.org_id, moved.claim_id
        HAVING count(DISTINCT moved.spelling) > 1
    );

    INSERT INTO repeated_claims (claim_id, org_id, run_id)
    SELECT moved.claim_id, moved.org_id, run_id
    FROM unnest(batch) AS moved
    JOIN export_run_claims AS claim ON claim.claim_id = moved.spelling AND claim.org_id = moved.org_id
    WHERE outcome = 'exported'
    GROUP BY moved.claim_id, moved.org_id, run_id
    HAVING count(*) > 1 AND has_named_twice(run_id, moved.org_id, moved.claim_id)
    UNION
    SELECT moved.claim_id, moved.org_id, run_id
    FROM unnest(batch) AS moved
    JOIN repeated_claims AS repeated ON repeated.claim_id = moved.spelling AND repeated.org_id = moved.org_id
    ON CONFLICT DO NOTHING;
    DELETE FROM repeated_claims AS repeated USING unnest(batch) AS moved
    WHERE repeated.claim_id = moved.spelling AND repeated.org_id = moved.org_id AND moved.spelling <> moved.claim_id;

    -- The highest outcome counts, and the first of the reasons, as in every merge.
    INSERT INTO export_run_claims AS claim (claim_id, org_id, run_id, outcome, skip_reason)
    SELECT moved.claim_id, moved.org_id, run_id, max(outcome), min(skip_reason)
    FROM unnest(batch) AS moved
    JOIN export_run_claims AS claim ON claim.claim_id = moved.spelling AND claim.org_id = moved.org_id
    GROUP BY moved.claim_id, moved.org_id, run_id
    ON CONFLICT (claim_id, org_id, run_id) DO UPDATE SET outcome = excluded.outcome, skip_reason = excluded.skip_reason;
    DELETE FROM export_run_claims AS claim USING unnest(batch) AS moved
    WHERE claim.claim_id = moved.spelling AND claim.org_id = moved.org_id AND moved.spelling <> moved.claim_id;

    -- The digest was made of the spellings. An empty one says that a worker makes it anew from the log when it needs it.
    UPDATE export_runs AS run
    SET claim_count = counts.claim_count, skipped_count = counts.skipped_count,
        finished_digest = CASE WHEN run.finished_digest IS NOT NULL THEN ''::bytea END
    FROM (
        SELECT run_id, count(*) FILTER (WHERE outcome <> 'skipped') AS claim_count,
            count(*) FILTER (WHERE outcome = 'skipped') AS skipped_count
        FROM export_run_claims
        WHERE run_id = ANY (run_ids)
        GROUP BY run_id
    ) AS counts
    WHERE run.run_id = counts.run_id;

    -- Each override as it was granted first.
    INSERT INTO claim_overrides (claim_id, org_id, run_id, earlier_run_id, reason, approved_by, granted_at)
    SELECT moved.claim_id, moved.org_id, run_id, earlier_run_id, reason, approved_by, granted_at
    FROM unnest(batch) AS moved
    JOIN claim_overrides AS override ON override.claim_id = moved.spelling AND override.org_id = moved.org_id
    WHERE moved.spelling <> moved.claim_id
    ORDER BY granted_at
    ON CONFLICT (claim_id, org_id, run_id, earlier_run_id, approved_by) DO NOTHING;
    DELETE FROM claim_overrides AS override USING unnest(batch) AS moved
    WHERE override.claim_id = moved.spelling AND override.org_id = moved.org_id AND moved.spelling <> moved.claim_id;

    -- Of several leases the one that ends last. The run that loses its lease may be paying: its end is recorded as a
    -- double export then.
    FOR lease IN
        SELECT moved.org_id, moved.claim_id, claim_leases.run_id, claim_leases.expires_at,
            claim_leases.fencing_token, first_value(claim_leases.run_id) OVER claim AS holder,
            row_number() OVER claim AS place
        FROM unnest(batch) AS moved
        JOIN claim_leases ON claim_leases.claim_id = moved.spelling AND claim_leases.org_id = moved.org_id
        WINDOW claim AS (
            PARTITION BY moved.org_id, moved.claim_id ORDER BY claim_leases.expires_at DESC, claim_leases.claim_id
        )
        ORDER BY moved.claim_id, moved.org_id, place
    LOOP
        IF lease.place = 1 THEN
            INSERT INTO claim_leases (claim_id, org_id, run_id, expires_at, fencing_token)
            VALUES (lease.claim_id, lease.org_id, lease.run_id, lease.expires_at, lease.fencing_token)
            ON CONFLICT (claim_id, org_id) DO UPDATE SET
                run_id = excluded.run_id, expires_at = excluded.expires_at, fencing_token = excluded.fencing_token;
        ELSIF lease.run_id <> lease.holder THEN
            RAISE NOTICE 'organisation %, claim %: the lease of run % is dropped, for run % holds the claim longer in another spelling',
                lease.org_id, lease.claim_id, lease.run_id, lease.holder;
        END IF;
    END LOOP;
    DELETE FROM claim_leases AS stored USING unnest(batch) AS moved
    WHERE stored.claim_id = moved.spelling AND stored.org_id = moved.org_id AND moved.spelling <> moved.claim_id;

    -- A record is resolved if those of all its spellings were, by whoever resolved the last of them.
    INSERT INTO double_exported_claims (org_id, claim_id, detected_at, last_joined_at, resolved_at, resolved_by, note)
    SELECT
        moved.org_id, moved.claim_id, min(detected_at), max(last_joined_at),
        CASE WHEN bool_and(resolved_at IS NOT NULL) THEN max(resolved_at) END,
        CASE WHEN bool_and(resolved_at IS NOT NULL) THEN (array_agg(resolved_by ORDER BY resolved_at DESC))[1] END,
        CASE WHEN bool_and(resolved_at IS NOT NULL) THEN (array_agg(note ORDER BY resolved_at DESC))[1] END
    FROM unnest(batch) AS moved
    JOIN double_exported_claims AS record ON record.claim_id = moved.spelling AND record.org_id = moved.org_id
    GROUP BY moved.org_id, moved.claim_id
    ON CONFLICT (org_id, claim_id) DO UPDATE SET
        detected_at = excluded.detected_at, last_joined_at = excluded.last_joined_at,
        resolved_at = excluded.resolved_at, resolved_by = excluded.resolved_by, note = excluded.note;
    DELETE FROM double_exported_claims AS record USING unnest(batch) AS moved
    WHERE record.claim_id = moved.spelling AND record.org_id = moved.org_id AND moved.spelling <> moved.claim_id;

    -- What has become a double export, or has more runs now: recorded, open, and with an alert for the run that
    -- finished last.
    joined := ARRAY(
        SELECT claim
        FROM unnest(joined) AS claim
        WHERE EXISTS (
            SELECT FROM repeated_claims AS repeated
            WHERE repeated.claim_id = claim.claim_id AND repeated.org_id = claim.org_id
        ) OR EXISTS (
            SELECT FROM export_run_claims AS one
            JOIN export_run_claims AS other USING (claim_id, org_id)
            WHERE claim_id = claim.claim_id AND org_id = claim.org_id AND one.run_id < other.run_id
                AND one.outcome = 'exported' AND other.outcome = 'exported'
                AND NOT EXISTS (
                    SELECT FROM claim_overrides AS override
                    WHERE override.claim_id = claim.claim_id AND override.org_id = claim.org_id
                        AND override.run_id IN (one.run_id, other.run_id)
                        AND override.earlier_run_id IN (one.run_id, other.run_id)
                )
        )
    );
    INSERT INTO double_exported_claims (org_id, claim_id, detected_at, last_joined_at)
    SELECT org_id, claim_id, joined_at, joined_at FROM unnest(joined)
    ON CONFLICT (org_id, claim_id) DO UPDATE SET
        last_joined_at = excluded.last_joined_at, resolved_at = NULL, resolved_by = NULL, note = NULL;
    INSERT INTO alerts (
        org_id, event_id, occurred_at, run_id, found_by, claim_count, claim_ids, earlier_run_ids, next_attempt_at
    )
    SELECT
        claim.org_id, gen_random_uuid(), joined_at, last_run.run_id,
        CASE WHEN count(earlier.run_id) > 0 THEN 'another-run' ELSE 'repeated-in-run' END,
        count(DISTINCT claim.claim_id), (array_agg(DISTINCT claim.claim_id))[1:100],
        coalesce((array_agg(DISTINCT earlier.run_id) FILTER (WHERE earlier.run_id IS NOT NULL))[1:10], '{}'),
        joined_at
    FROM unnest(joined) AS claim
    CROSS JOIN LATERAL (
        SELECT run_id, finished_at FROM export_run_claims AS exported JOIN export_runs AS run USING (run_id)
        WHERE exported.claim_id = claim.claim_id AND exported.org_id = claim.org_id AND outcome = 'exported'
        ORDER BY finished_at DESC, run_id DESC
        LIMIT 1
    ) AS last_run
    LEFT JOIN LATERAL (
        SELECT run_id FROM export_run_claims AS exported JOIN export_runs AS run USING (run_id)
        WHERE exported.claim_id = claim.claim_id AND exported.org_id = claim.org_id AND outcome = 'exported'
            AND run_id <> last_run.run_id
        ORDER BY finished_at, run_id
        LIMIT 10
    ) AS earlier ON true
    GROUP BY claim.org_id, last_run.run_id;
    IF cardinality(joined) > 0 THEN
        RAISE NOTICE '% claims that were exported in several spellings are double exports', cardinality(joined);
    END IF;
END
$$;

-- A hundred claims in each transaction, so that nobody waits long.
CREATE OR REPLACE PROCEDURE merge_respelled_claims() LANGUAGE plpgsql AS $$
DECLARE
    batch     respelled_claims[];
    spellings bigint := 0;
BEGIN
    LOOP
        batch := ARRAY(
            SELECT ROW(claim.org_id, claim.claim_id, found.spelling, NULL, NULL)::respelled_claims
            FROM (
                SELECT DISTINCT org_id, claim_id FROM respelled_claims WHERE merged_at IS NULL
                ORDER BY org_id, claim_id LIMIT 100
            ) AS claim
            CROSS JOIN LATERAL (
                SELECT spelling FROM respelled_claims AS respelled
                WHERE respelled.org_id = claim.org_id AND respelled.claim_id = claim.claim_id
                UNION SELECT claim.claim_id
            ) AS found
        );
        EXIT WHEN cardinality(batch) = 0;
        PERFORM merge_spellings(batch);
        UPDATE respelled_claims AS respelled SET merged_at = clock_timestamp()
        FROM unnest(batch) AS moved
        WHERE (respelled.org_id, respelled.claim_id, respelled.spelling)
            = (moved.org_id, moved.claim_id, moved.spelling);
        spellings := spellings + (SELECT count(*) FROM unnest(batch) AS moved WHERE moved.spelling <> moved.claim_id);
        COMMIT;
    END LOOP;
    IF spellings > 0 THEN
        RAISE NOTICE '% spellings of claim ids are brought to their canonical form; the table respelled_claims has them', spellings;
    END IF;
END
$$;

CALL merge_respelled_claims();
