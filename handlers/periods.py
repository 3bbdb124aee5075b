"""The question before an export of a period: which runs may have exported something of it?"""

import sql
from schema.limits import PERIOD_RUNS_MAX
from schema.requests import CheckPeriod
from schema.results import ExportRunOfPeriod, PeriodRuns
from sql.connection import Connection

from .query_arguments import PeriodSearch
from .runs import future_start, run_of_row


async def check_period(connection: Connection, request: CheckPeriod) -> PeriodRuns:
    """The newest runs whose period has a day in common with this one, at most PERIOD_RUNS_MAX.

    Runs that failed are left out, for they exported nothing. Deleted ones are not: what they exported is out. A run
    that names only one end of its period is open at the other; one that names none has no period. Runs whose
    `created_at` is more than a day ahead come last.
    """
    search = PeriodSearch(
        org_id=request.org_id,
        period_start=request.period_start,
        period_end=request.period_end,
        target_system=request.target_system,
        scope=request.scope,
        future_start=future_start(),
        limit=PERIOD_RUNS_MAX + 1,  # one more tells whether there are more
    )
    rows = await connection.fetch(sql.query("find_runs_of_period"), *search)
    runs = [
        run_of_row(ExportRunOfPeriod, row, overlap_start=row["overlap_start"], overlap_end=row["overlap_end"])
        for row in rows[:PERIOD_RUNS_MAX]
    ]
    return PeriodRuns.model_construct(runs=runs, has_more=len(rows) > PERIOD_RUNS_MAX)
