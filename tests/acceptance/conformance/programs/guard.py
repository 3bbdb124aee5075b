"""A guard that makes the mistake of its argument, and no other."""

import asyncio
import os
import sys

from tests.acceptance.conformance.programs.wire import Wire


async def main(mistake: str) -> None:
    """Check the claims in the environment, and print a line for each that may go out."""
    if mistake == "never-asks":
        return
    wire = Wire(mistake)
    await wire.connect()
    claim_ids = os.environ["CONFORMANCE_CLAIM_IDS"].split(",")
    reply = await wire.ask("check-claims", orgId=os.environ["CONFORMANCE_ORG_ID"], claimIds=claim_ids)
    if mistake == "repeats-errors" and reply is not None and not reply["ok"]:
        await wire.ask("check-claims", orgId=os.environ["CONFORMANCE_ORG_ID"], claimIds=claim_ids)
    if mistake == "breaks-a-channel":
        await wire.break_a_channel()
    free: list[str] = []
    if reply is None:
        free = claim_ids if mistake == "silence-is-free" else []
    elif not reply["ok"]:
        free = claim_ids if mistake == "error-is-free" else []
    elif mistake == "reserved-is-free":
        free = [*reply["result"]["unexported"], *(each["claimId"] for each in reply["result"]["reserved"])]
    elif mistake != "nothing-is-free":
        free = reply["result"]["unexported"]
    for claim_id in free:
        print(f"free {claim_id}", flush=True)
    if mistake == "never-ends":
        await asyncio.sleep(600)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
