"""A guard for the conformance kit that is made with the Python client."""

import asyncio
import os
import sys

from export_runs_client import ExportRuns, ExportRunsError


async def main() -> int:
    """Check the claims in the environment, and print a line for each that may go out."""
    try:
        async with ExportRuns.connect(os.environ["EXPORT_RUNS_AMQP_URL"], timeout_s=3) as runs:
            claim_ids = os.environ["CONFORMANCE_CLAIM_IDS"].split(",")
            checked = await runs.check_claims(os.environ["CONFORMANCE_ORG_ID"], claim_ids)
    except ExportRunsError as problem:
        print(problem, file=sys.stderr)
        return 1
    for claim_id in checked.unexported:
        print(f"free {claim_id}")
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
