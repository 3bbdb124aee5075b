"""The question of a scheduler or a panel: when was the last export, and what was it?"""

import sql
from schema.requests import GetLastExport
from schema.results import ExportRun, LastExport
from sql.connection import Connection

from .query_arguments import LastExportSearch
from .runs import future_start, run_of_row


async def get_last_export(connection: Connection, request: GetLastExport) -> LastExport:
    """The run that was the last to end as completed or partial, by its `finished_at`; deleted runs do not count.

    A run whose `finished_at` is more than a day ahead counts only if there is no other: else one exporter with a wrong
    clock would be the last export for years.
    """
    search = LastExportSearch(
        org_id=request.org_id, target_system=request.target_system, scope=request.scope, future_start=future_start()
    )
    row = await connection.fetchrow(sql.query("get_last_export"), *search)
    return LastExport.model_construct(run=None if row is None else run_of_row(ExportRun, row))
