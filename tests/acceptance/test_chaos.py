"""A short campaign of faults. `make chaos` runs long ones."""

from pathlib import Path

import pytest

from tests.chaos.__main__ import text_of
from tests.chaos.campaign import Options, run
from tests.chaos.faults import Faults


@pytest.mark.campaign
@pytest.mark.timeout(1200)
async def test_no_fault_loses_or_doubles_an_event(tmp_path: Path) -> None:
    """Every kind of fault comes at least once, some in pairs. Few clients at a low rate: what a slow machine
    falls behind with makes each recovery longer than the one before.
    """
    options = Options(
        seed=3,
        directory=tmp_path,
        faults=27,
        quick=True,
        rate=30,
        exporters=2,
        guards=2,
        poisoners=2,
        reservers=2,
        longest_fault_s=0.6,
        calm_s=0.1,
        pair_share=0.6,
        recovery_max_s=30,  # the machine may be slow
    )
    report = await run(options)
    print(text_of(report))
    assert report.failures == []
    assert sum(report.verdict.figures["faults"].values()) == options.faults
    assert report.verdict.figures["faults"].keys() == Faults.kinds.keys()
    assert report.verdict.figures["pairs of faults"] > 0
    assert report.verdict.figures["events confirmed"] > 500
    assert report.verdict.figures["answered"] > 100
    assert report.poison > 10
