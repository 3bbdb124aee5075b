"""An exporter that pays no claim twice, and forgets nothing that it paid.

    python examples/export_with_reservation.py acme taxi-17 hotel-4

The client reserves the claims, renews the lease, and reports how the run ended. If the lease cannot be renewed, it
stops this program at two thirds. What must be reported is in the folder `--spool`: after a crash the next start reports
it.
Exit code 0: everything went out. 1: not everything did.
"""

import argparse
import asyncio
import getpass
import os
import sys

from export_runs_client import ExportRuns, ExportRunsError, ReservationMode


async def pay(claim_id: str, fencing_token: int | None, pause_s: float) -> None:
    """Stands for the accounting system. One claim must take far less than a third of the lease."""
    await asyncio.sleep(pause_s)
    print(f"exported {claim_id} with token {fencing_token}", flush=True)


async def main(org_id: str, claim_ids: list[str], spool: str, lease_s: int, pause_s: float) -> int:
    """Export the claims, all or none, as one run."""
    async with ExportRuns.connect(os.environ["EXPORT_RUNS_AMQP_URL"], spool=spool) as runs:
        try:
            async with runs.export(
                org_id, getpass.getuser(), "csv", claim_ids, lease_s=lease_s, mode=ReservationMode.ALL_OR_NOTHING
            ) as export:
                for conflict in export.conflicts:
                    print(f"{conflict.claim_id} is {conflict.reason} by {conflict.run_id}", file=sys.stderr)
                for claim_id in export.granted:
                    await export.paying(claim_id)  # from here on it may be out
                    await pay(claim_id, export.fencing_token, pause_s)
                    await export.exported(claim_id)
        except ExportRunsError as problem:
            print(f"stopped: {problem}", file=sys.stderr)
            return 1
    print(f"run {export.run_id}: {len(export.granted)} claims")
    return 0 if export.granted else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("org")
    parser.add_argument("claims", nargs="+")
    parser.add_argument("--spool", default="export-runs-spool", help="a folder that outlives this program")
    parser.add_argument("--lease-s", type=int, default=900, help="how long claims are reserved, in seconds")
    parser.add_argument("--pause-s", type=float, default=0.0, help="how long one claim takes, to try it out")
    given = parser.parse_args()
    sys.exit(asyncio.run(main(given.org, given.claims, given.spool, given.lease_s, given.pause_s)))
