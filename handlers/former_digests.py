"""Digests of runs that ended before claim ids had a canonical form.

Their digests were made of the spellings that were sent, so they say nothing of whether another event agrees. The
migration that brought the claims to their canonical ids left an empty digest; here it is made anew, from the log, when
an event or a request is compared with it. Two ends that differ only in the spelling of a claim contradicted each other
for the version before, and do not any more.
"""

from collections.abc import Iterable
from typing import Final

import sql
from schema.decoding import InvalidBody, decode
from schema.events import RunCreated, RunFinished
from schema.requests import CreateExportRun, UpdateExportRunStatus
from sql.connection import Connection

from .claim_details import details_contradict
from .claim_outcomes import claim_outcomes
from .digests import created_digest, finished_digest
from .event_log import EventType
from .query_arguments import PUBLISHED, RunKey

FORMER_DIGEST: Final = b""


async def renew_digests(connection: Connection, runs: Iterable[RunKey]) -> None:
    """Make the digests of runs anew, and whether their events contradict each other.

    The caller holds the locks of the runs. What this version cannot read contradicts nothing, and nothing is known then
    of a conflict that was noted before: it stays.
    """
    for run in runs:
        # Locked, because a run-created takes no lock on the run: a conflict that it finds must not be overwritten.
        row = await connection.fetchrow(sql.query("get_run_for_update"), run.run_id)
        assert row is not None
        created_digests: set[bytes] = set()
        finished_digests: set[bytes] = set()
        winning_digest = FORMER_DIGEST
        has_conflict = False
        for entry in await connection.fetch(sql.query("list_log_of_run"), *run, None):
            is_published, payload = entry["origin"] in PUBLISHED, entry["payload"].encode()
            try:
                match EventType(entry["event_type"]):
                    case EventType.RUN_CREATED:
                        start = decode(RunCreated if is_published else CreateExportRun, payload)
                        created_digests.add(created_digest(start))
                    case EventType.RUN_FINISHED:
                        end = decode(RunFinished if is_published else UpdateExportRunStatus, payload)
                        digest = finished_digest(end)
                        finished_digests.add(digest)
                        has_conflict |= details_contradict(end, claim_outcomes(end))
                        if entry["event_id"] == row["finished_event_id"]:
                            winning_digest = digest
                    case _:
                        continue
            except InvalidBody:
                has_conflict |= row["has_conflict"]
        has_conflict |= len(created_digests) > 1 or len(finished_digests) > 1
        await connection.execute(sql.query("renew_digest"), run.run_id, winning_digest, has_conflict)
