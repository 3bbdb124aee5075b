"""The history panel: all runs of an organisation, newest first.

python examples/history_panel.py acme
"""

import asyncio
import os
import sys

from export_runs_client import ExportRuns, ExportRunsError


async def main(org_id: str) -> int:
    """Print one line per run. No run is left out or repeated because others arrive meanwhile."""
    try:
        async with ExportRuns.connect(os.environ["EXPORT_RUNS_AMQP_URL"]) as runs:
            async for run in runs.history(org_id):
                who = run.triggered_by or "start not known yet"
                print(f"{run.created_at.isoformat()} {run.run_id} {run.status:<9} {run.claim_count:>6} claims, {who}")
    except ExportRunsError as problem:
        print(f"the history is not complete: {problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1])))
