"""Every bound of the wire contract, with its unit last in the name (DESIGN section 2)."""

from datetime import UTC, datetime
from typing import Final

BODY_BYTES_MAX: Final = 4 * 1024 * 1024
"""Size of one message body, checked before it is parsed."""

TEXT_CHARS_MAX: Final = 200
"""Identifiers and names: organisations, claims, persons, formats."""

REASON_CHARS_MAX: Final = 2_000
"""Free text that a person wrote: why a claim was skipped, why a run was deleted."""

ARTIFACT_KEY_CHARS_MAX: Final = 1_024
"""Object stores allow keys of 1,024 bytes."""

ERROR_DETAIL_STORED_CHARS_MAX: Final = 2_000
"""`error.detail` is cut to this in the run's row; the event log keeps it whole."""

EVENT_CLAIMS_MAX: Final = 50_000
"""Claims in one `run-finished`, and skipped claims beside them."""

CHECK_CLAIMS_MAX: Final = 10_000
"""Claims in one `check-claims`."""

RESERVE_CLAIMS_MAX: Final = 10_000
"""Claims in one `reserve-claims` or `release-claims`."""

LEASE_TTL_S_MAX: Final = 86_400
LEASE_TTL_S_DEFAULT: Final = 900

RUN_OVERRIDES_MAX: Final = 10_000
"""Overrides that `get-export-run-by-id` returns at most."""

DOUBLE_EXPORTS_PAGE_MAX: Final = 200
DOUBLE_EXPORTS_PAGE_DEFAULT: Final = 20

STALE_RUN_AGE_S_MAX: Final = 10 * 365 * 86_400

HISTORY_PAGE_RUNS_MAX: Final = 200
HISTORY_PAGE_RUNS_DEFAULT: Final = 20

HISTORY_OFFSET_RUNS_MAX: Final = 100_000
"""PostgreSQL walks every run that an offset skips; a cursor has no such cost and no such bound."""

HISTORY_TOTAL_RUNS_MAX: Final = 10_000
"""`total` counts exactly up to this many runs and is null past it."""

FOUND_RUNS_MAX: Final = 1_000
"""Runs that `find-runs-by-claim-id` returns at most, the newest."""

CURSOR_CHARS_MAX: Final = 200

ERROR_DETAILS_MAX: Final = 20
"""Fields named in one error; a list of 50,000 bad claims is described by its first few."""

INT64_MAX: Final = 2**63 - 1

TIME_MIN: Final = datetime(1, 1, 2, tzinfo=UTC)
TIME_MAX: Final = datetime(9999, 12, 30, tzinfo=UTC)
"""A day inside what Python can hold, so that a time stays a time in every zone."""

assert HISTORY_PAGE_RUNS_DEFAULT <= HISTORY_PAGE_RUNS_MAX <= HISTORY_OFFSET_RUNS_MAX
assert CHECK_CLAIMS_MAX * TEXT_CHARS_MAX < BODY_BYTES_MAX
