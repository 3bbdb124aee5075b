"""The Double-Export Guard: may these claims be exported?

    python examples/guard.py acme taxi-17 hotel-4

Exit code 0: all of them may. 1: at least one may not. 2: nobody knows, so none may.
It only looks. An exporter that is about to export reserves the claims: see export_with_reservation.py.
"""

import asyncio
import os
import sys

from export_runs_client import ExportRuns, ExportRunsError


async def main(org_id: str, claim_ids: list[str]) -> int:
    """Ask, and print one line per claim."""
    try:
        async with ExportRuns.connect(os.environ["EXPORT_RUNS_AMQP_URL"]) as runs:
            checked = await runs.check_claims(org_id, claim_ids)
    except ExportRunsError as problem:
        print(f"do not export: {problem}", file=sys.stderr)
        return 2
    for exported in checked.exported:
        print(f"{exported.claim_id}: has gone out in {', '.join(str(run.run_id) for run in exported.runs)}")
    for reserved in checked.reserved:
        print(f"{reserved.claim_id}: is reserved by {reserved.run_id} until {reserved.expires_at}")
    for claim_id in checked.unexported:
        print(f"{claim_id}: may be exported")
    return 1 if checked.exported or checked.reserved else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1], sys.argv[2:])))
