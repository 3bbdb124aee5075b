"""Every bound of the wire contract, with its unit last in the name. docs/CONTRACT.md lists them all."""

from datetime import UTC, datetime
from typing import Final

BODY_BYTES_MAX: Final = 4 * 1024 * 1024
"""The size of one message body, checked before the body is parsed."""

REPLY_BYTES_MAX: Final = 15 * 1024 * 1024
"""The size of one reply. RabbitMQ 4 closes the channel on more than its `max_message_size`, 16 MiB by default."""

TEXT_CHARS_MAX: Final = 200
"""Identifiers and names: organisations, claims, persons, formats."""

REASON_CHARS_MAX: Final = 2_000
"""Free text that a person wrote: why a claim was skipped, why a run was deleted."""

ARTIFACT_KEY_CHARS_MAX: Final = 1_024
"""The longest key that object stores allow is 1,024 bytes."""

ERROR_DETAIL_STORED_CHARS_MAX: Final = 2_000
"""The run's row keeps so much of `error.detail`, the sign of a cut included; the event log keeps all of it."""

EVENT_CLAIMS_MAX: Final = 50_000
"""Claims in one `run-finished`, and as many skipped claims besides."""

EVENT_CLAIM_DETAILS_MAX: Final = 2 * EVENT_CLAIMS_MAX
"""`claimDetails` of one `run-finished`: one for each claim and each skipped claim."""

EVENT_TOTALS_MAX: Final = 200
"""`totals` of one `run-finished`: there are fewer currencies than that."""

AMOUNT_DIGITS_BEFORE_POINT_MAX: Final = 18
AMOUNT_DIGITS_AFTER_POINT_MAX: Final = 4
"""The digits of an amount of money."""

VOUCHER_URL_CHARS_MAX: Final = 2_048

RUN_CLAIMS_PAGE_MAX: Final = 10_000
RUN_CLAIMS_PAGE_DEFAULT: Final = 1_000
"""Claims on a page of `list-run-claims`. `get-export-run-by-id` shows no more than the largest page."""

RUN_REVERSALS_MAX: Final = 100
"""`reversals` of `get-export-run-by-id`, the newest."""

CHECK_CLAIMS_MAX: Final = 10_000
"""Claims in one `check-claims`."""

RESERVE_CLAIMS_MAX: Final = 10_000
"""Claims in one `reserve-claims` or `release-claims`."""

LEASE_TTL_S_MAX: Final = 86_400
LEASE_TTL_S_DEFAULT: Final = 900
"""How long a lease lasts: `ttlSeconds` of `reserve-claims`."""

REVERSE_CLAIMS_MAX: Final = 10_000
"""`claimIds` of one `reverse-export`. Without `claimIds` it takes back all that the run exported."""

DOUBLE_EXPORTS_PAGE_MAX: Final = 200
DOUBLE_EXPORTS_PAGE_DEFAULT: Final = 20

DOUBLE_EXPORT_RUNS_MAX: Final = 10
"""A double export shows at most so many of its runs, the earliest to finish."""

DOUBLE_EXPORT_RUNS_COUNTED_MAX: Final = 1_000
"""`runCount` of a double export is exact up to this many runs. Past it, it is null, and the runs shown are some of
them."""

ALERT_CLAIMS_MAX: Final = 100
"""`claimIds` of an alert, the first in their order; `claimCount` counts all."""

ALERT_EARLIER_RUNS_MAX: Final = 10
"""`earlierRunIds` of an alert, the earliest to finish."""

STALE_RUN_AGE_S_MAX: Final = 10 * 365 * 86_400
"""`olderThanSeconds` of `list-stale-runs`."""

HISTORY_PAGE_RUNS_MAX: Final = 200
HISTORY_PAGE_RUNS_DEFAULT: Final = 20

HISTORY_OFFSET_RUNS_MAX: Final = 100_000
"""PostgreSQL reads every run that an offset skips. A cursor skips none, so cursors have no such bound."""

HISTORY_TOTAL_RUNS_MAX: Final = 10_000
"""`total` is exact up to this many runs, and null where there are more."""

PERIOD_RUNS_MAX: Final = 200
"""Runs that one `check-period` answers with, the newest."""

EXPLAINED_RUNS_MAX: Final = 10
"""`because` of `explain-claim` names at most so many runs, so many overrides and so many purges."""

TIMELINE_PAGE_ENTRIES_MAX: Final = 200
TIMELINE_PAGE_ENTRIES_DEFAULT: Final = 50
"""`limit` of `explain-claim`. A page may have fewer entries than that: it also ends when so much was read."""

TIMELINE_PAGE_BYTES_MAX: Final = 8 * 1024 * 1024
"""What the log has of the entries of one page. A page has at least one entry."""

TIMELINE_RUNS_MAX: Final = 10
"""`otherRunIds` of an entry of a timeline; the first."""

FOUND_RUNS_MAX: Final = 1_000
"""`limit` of `find-runs-by-claim-id`, also where it is not given."""

CURSOR_CHARS_MAX: Final = 1_100
"""A cursor may hold a claim id: 800 bytes, in which case it has 1,078 characters."""

ERROR_DETAILS_MAX: Final = 20
"""Fields that one error names: the first few are enough to describe a list of 50,000 bad claims."""

INT64_MAX: Final = 2**63 - 1

FUTURE_TOLERANCE_S: Final = 86_400
"""A time that is further ahead of the worker's clock than this is marked as `hasFutureTime`."""

TIME_MIN: Final = datetime(1, 1, 2, tzinfo=UTC)
TIME_MAX: Final = datetime(9999, 12, 30, tzinfo=UTC)
"""One day inside what Python can hold, so that a time can be converted to every time zone."""

assert HISTORY_PAGE_RUNS_DEFAULT <= HISTORY_PAGE_RUNS_MAX <= HISTORY_OFFSET_RUNS_MAX
assert CHECK_CLAIMS_MAX * TEXT_CHARS_MAX < BODY_BYTES_MAX < REPLY_BYTES_MAX
