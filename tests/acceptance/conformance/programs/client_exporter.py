"""An exporter for the conformance kit that is made with the Python client."""

import asyncio
import os
import sys

from export_runs_client import ExportRuns, ExportRunsError


async def main() -> int:
    """Export what the environment says, and print a line for each payment."""
    pay_s = float(os.environ["CONFORMANCE_PAY_S"])
    claim_ids = os.environ["CONFORMANCE_CLAIM_IDS"].split(",")
    try:
        async with (
            ExportRuns.connect(os.environ["EXPORT_RUNS_AMQP_URL"], spool=os.environ["CONFORMANCE_FOLDER"]) as runs,
            runs.export(
                os.environ["CONFORMANCE_ORG_ID"],
                triggered_by="alice",
                format="csv",
                claim_ids=claim_ids,
                lease_s=int(os.environ["CONFORMANCE_LEASE_S"]),
            ) as export,
        ):
            for claim_id in export.granted:
                await export.paying(claim_id)
                await asyncio.sleep(pay_s)
                print(f"paid {claim_id}", flush=True)
                await export.exported(claim_id)
    except ExportRunsError as problem:
        print(problem, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
