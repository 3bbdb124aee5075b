"""What tests of reversals share: how to take an export back, and what is stored of that."""

from typing import Any
from uuid import UUID

import pytest

from handlers.reversals import reverse_export
from schema.requests import ReverseExport
from sql.connection import Connection
from tests.integration.requests import decoded

FACTS = {"reason": "the ledger refused the batch", "reversedBy": "bob", "approvedBy": "carol"}


@pytest.fixture
def database_url(emptied_url: str) -> str:
    """One database per file, empty at the start of each test."""
    return emptied_url


async def reverse(connection: Connection, run_id: UUID, *claim_ids: str, **fields: Any) -> list[str]:
    """Take back what a run exported, these claims or all; returns the claims of the answer."""
    least = {"orgId": "org-1", "runId": run_id, "claimIds": claim_ids or None, **FACTS}
    answer = await reverse_export(connection, decoded(ReverseExport, **(least | fields)))
    assert answer.run_id == run_id
    return answer.reversed


async def outcomes(connection: Connection, run_id: UUID) -> dict[str, str]:
    """What is stored of the claims of a run."""
    rows = await connection.fetch(
        "SELECT claim_id, outcome FROM export_run_claims WHERE run_id = $1 ORDER BY claim_id", run_id
    )
    return {row["claim_id"]: row["outcome"] for row in rows}
