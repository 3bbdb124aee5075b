"""Digests of runs that ended before claim ids had a canonical form.

Their digests were made of the spellings that were sent, so they say nothing of whether another event agrees. The
migration that brought the claims to their canonical ids left an empty digest; here it is made anew, from the log, when
an event or a request is compared with it.
"""

from collections.abc import Iterable
from typing import Final

import sql
from schema.decoding import InvalidBody, decode
from schema.events import RunFinished
from schema.requests import UpdateExportRunStatus
from sql.connection import Connection

from .digests import finished_digest
from .event_log import EventType
from .query_arguments import PUBLISHED, RunKey

FORMER_DIGEST: Final = b""


async def renew_digests(connection: Connection, runs: Iterable[RunKey]) -> None:
    """Make the digests of runs anew, and note the conflict where their events say different things.

    The caller holds the locks of the runs. What this version cannot read contradicts nothing.
    """
    for run in runs:
        row = await connection.fetchrow(sql.query("get_run"), run.run_id)
        assert row is not None
        digests: set[bytes] = set()
        winning_digest = FORMER_DIGEST
        for entry in await connection.fetch(sql.query("list_log_of_run"), *run, None):
            if entry["event_type"] != EventType.RUN_FINISHED:
                continue
            model = RunFinished if entry["origin"] in PUBLISHED else UpdateExportRunStatus
            try:
                digest = finished_digest(decode(model, entry["payload"].encode()))
            except InvalidBody:
                continue
            digests.add(digest)
            if entry["event_id"] == row["finished_event_id"]:
                winning_digest = digest
        await connection.execute(sql.query("renew_digest"), run.run_id, winning_digest, len(digests) > 1)
