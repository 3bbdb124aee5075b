"""`export-runs compare` finds what only a list or only the service says was exported, and where amounts differ."""

import csv
import json
from pathlib import Path
from typing import Any
from uuid import uuid4

from sql.connection import Connection
from tests.forked import forked_export_runs
from tests.storing import created_event, finished_event, store_created, store_finished
from worker.settings import WorkerSettings

MAPPING = """
run_key = ["at"]
time_zone = "Europe/Berlin"
claim_digits = 4
[columns]
orgId = "org"
claimId = "claim"
createdAt = "at"
amount = "amount"
outcome = "outcome"
[constants]
triggeredBy = "u-1"
format = "csv"
currency = "EUR"
"""


async def export(connection: Connection, org_id: str, at: str, **amounts: str) -> None:
    """A run of the service with claims and what they come to."""
    run = {"runId": str(uuid4()), "orgId": org_id, "occurredAt": at}
    claims = [name.removeprefix("c_") for name in amounts]
    details = [
        {"claimId": claim, "amount": amount, "currency": "EUR"}
        for claim, amount in zip(claims, amounts.values(), strict=True)
        if amount
    ]
    await store_created(connection, [created_event(**run)])
    await store_finished(connection, [finished_event(**run, claimIds=claims, claimDetails=details)])


async def compared(
    settings: WorkerSettings, folder: Path, *options: str, lines: list[str], code: int
) -> dict[str, Any]:
    """The result of a comparison of these lines, as JSON."""
    (folder / "mapping.toml").write_text(MAPPING)
    (folder / "list.csv").write_text("\n".join(["org;claim;at;amount;outcome", *lines]) + "\n")
    finished = await forked_export_runs(
        "compare", str(folder / "list.csv"), "--mapping", str(folder / "mapping.toml"), "--json", *options,
        settings=settings,
    )  # fmt: skip
    assert finished.code == code, finished.err
    facts: dict[str, Any] = json.loads(finished.out)
    return facts


async def test_a_list_is_compared_with_the_service(
    settings: WorkerSettings, connection: Connection, tmp_path: Path
) -> None:
    # In Berlin the last of these runs began in the period, and the first before it.
    await export(connection, "org-1", "2026-01-30T22:30:00Z", c_before="", c_0009="9.00")
    await export(connection, "org-1", "2026-02-01T09:00:00Z", c_0001="1.50", c_0002="2.00", c_z="", c_lost="5.00")
    await export(connection, "org-1", "2026-01-31T23:30:00Z", c_late="")
    await export(connection, "org-3", "2026-02-01T09:00:00Z", c_0001="1.50")
    lines = [
        "org-1;1;2026-02-01;1.50;exported",  # the same
        "org-1;2;2026-02-01;2.50;exported",  # another amount
        "org-1;9;2026-02-01;9.00;exported",  # the service exported it before the period
        "org-1;z;2026-02-01;7.00;exported",  # the service knows no amount
        "org-1;ghost;2026-02-02;3.00;exported",
        "org-1;kept;2026-02-02;3.00;skipped",
        "org-1;old;2026-01-30;3.00;exported",  # before the period
        "org-2;0001;2026-02-01;1.50;exported",  # the service does not know the organisation
    ]
    output = tmp_path / "differences.csv"
    part = ("--from", "2026-02-01", "--output", str(output))
    facts = await compared(settings, tmp_path, *part, lines=lines, code=1)
    assert facts["period"] == {"first": "2026-02-01", "last": "2026-02-02"}
    assert [(each["orgId"], each["claimId"], each["difference"]) for each in facts["differences"]] == [
        ("org-1", "0002", "AMOUNT"),
        ("org-1", "ghost", "NOT_IN_SERVICE"),
        ("org-1", "late", "NOT_IN_FILE"),
        ("org-1", "lost", "NOT_IN_FILE"),
        ("org-2", "0001", "NOT_IN_SERVICE"),
    ]
    assert (facts["counts"], facts["claims"]) == (
        {"NOT_IN_SERVICE": 2, "NOT_IN_FILE": 2, "AMOUNT": 1},
        {"file": 6, "service": 5},
    )
    with output.open(encoding="utf-8-sig", newline="") as file:
        written = list(csv.reader(file))
    assert len(written) == 6
    assert written[1] == ["org-1", "0002", "another amount", "EUR 2.50", "EUR 2.00"]

    same = await compared(settings, tmp_path, lines=["org-3;1;2026-02-01;1.50;exported"], code=0)
    assert (same["differences"], same["claims"]) == ([], {"file": 1, "service": 1})
    unreadable = ["org-3;1;2026-02-01;1.50;exported", "org-3;1;soon;1.50;exported"]
    assert (await compared(settings, tmp_path, lines=unreadable, code=1))["rows"] == {"read": 2, "unreadable": 1}


async def test_differences_are_never_written_over_a_file(
    settings: WorkerSettings, connection: Connection, tmp_path: Path
) -> None:
    """It may be the list that is compared, or differences that somebody has gone through."""
    lines = ["org-1;1;2026-02-01;1.50;exported"]
    await compared(settings, tmp_path, lines=lines, code=1)
    path = tmp_path / "list.csv"
    before = path.read_text()
    arguments = ["compare", str(path), "--mapping", str(tmp_path / "mapping.toml"), "--output", str(path)]
    refused = await forked_export_runs(*arguments, settings=settings)
    assert (refused.code, refused.out, path.read_text()) == (2, "", before)
    assert "list.csv is there already" in refused.err
