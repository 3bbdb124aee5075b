"""What the operator's command prints of results."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from cli.result_tables import LISTED_REVERSALS_MAX, show_double_export, show_double_exports, show_run, show_run_claims
from cli.terminal import ONE_LINE_COLUMNS_MIN, Terminal
from export_runs_client.schema.events import ClaimOutcome, RunStatus
from export_runs_client.schema.results import (
    DoubleExport,
    DoubleExportRun,
    DoubleExports,
    ExportRunWithClaims,
    RunClaim,
    RunClaimReversal,
    RunClaimsPage,
    RunReversal,
)

RUN, OTHER = UUID(int=1), UUID(int=2)
TIME = datetime(2026, 1, 31, 9, 30, tzinfo=UTC)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("COLUMNS", str(ONE_LINE_COLUMNS_MIN + 100))
    return Terminal(is_error=False)


def test_a_run_shows_its_newest_reversals(terminal: Terminal, capsys: pytest.CaptureFixture[str]) -> None:
    reversal = RunReversal(
        event_id=OTHER,
        reversed_at=TIME,
        reason="voided\x1b[2J",
        reversed_by="bob",
        approved_by="carol",
        external_reversal_id="void-88",
        claim_count=1,
    )
    unsaid: dict[str, Any] = dict.fromkeys(ExportRunWithClaims.model_fields)
    lists = {"claim_ids": ["c-1"], "skipped_claims": [], "claim_overrides": [], "reversals": [reversal]}
    run = ExportRunWithClaims.model_construct(**(unsaid | {"run_id": RUN, "reversed_count": 1} | lists))
    show_run(terminal, run)
    text = "1 claim on 2026-01-31 09:30:00 by bob, approved by carol, void-88: voided\\x1b[2J"
    assert text in capsys.readouterr().out
    show_run(terminal, run.model_copy(update={"reversals": [reversal] * (LISTED_REVERSALS_MAX + 1)}))
    printed = " ".join(capsys.readouterr().out.split())  # the field has several lines
    assert printed.count(text) == LISTED_REVERSALS_MAX
    assert "claims list --outcome reversed" in printed


def test_a_claim_shows_who_took_it_back(terminal: Terminal, capsys: pytest.CaptureFixture[str]) -> None:
    reversal = RunClaimReversal(TIME, "voided", "bob", "carol", "void-88")
    claim = RunClaim("c-1", ClaimOutcome.REVERSED, None, None, None, None, None, None, [], reversal)
    show_run_claims(terminal, RunClaimsPage(claims=[claim], next_cursor=None))
    [row] = [line for line in capsys.readouterr().out.splitlines() if "c-1" in line]
    assert row.split() == ["c-1", "voided", "reversed", "bob", "on", "2026-01-31", "09:30:00", "(void-88)"]


def test_a_double_export_shows_what_was_taken_back(terminal: Terminal, capsys: pytest.CaptureFixture[str]) -> None:
    double_export = DoubleExport.model_construct(
        org_id="acme",
        claim_id="c-1",
        runs=[
            DoubleExportRun(RUN, RunStatus.COMPLETED, TIME, TIME),
            DoubleExportRun(OTHER, RunStatus.COMPLETED, TIME, None),
        ],
        run_count=2,
        repeated_in_runs=[],
        detected_at=TIME,
        last_joined_at=TIME,
        ended_at=datetime(2026, 2, 1, tzinfo=UTC),
        resolved_at=None,
        resolved_by=None,
        note=None,
    )
    show_double_exports(terminal, DoubleExports(double_exports=[double_export], next_cursor=None))
    assert "2026-02-01 00:00:00" in capsys.readouterr().out
    show_double_export(terminal, double_export)
    printed = capsys.readouterr().out
    assert f"{RUN} (taken back on 2026-01-31 09:30:00), {OTHER} (completed)" in printed
    assert "2026-02-01" in printed
