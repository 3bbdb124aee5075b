"""A short campaign of faults; `make chaos` runs long ones."""

from pathlib import Path

from tests.chaos.__main__ import text_of
from tests.chaos.campaign import Options, run
from tests.chaos.faults import Faults


async def test_nothing_is_lost_nothing_counts_twice_whatever_breaks(tmp_path: Path) -> None:
    """Every kind of fault at least once, some in pairs."""
    options = Options(
        seed=3,
        directory=tmp_path,
        faults=26,
        quick=True,
        rate=100,
        longest_fault_s=0.6,
        calm_s=0.1,
        pair_share=0.6,
        recovery_max_s=30,  # of a machine that runs other tests beside it
    )
    report = await run(options)
    print(text_of(report))
    assert report.failures == []
    assert sum(report.verdict.facts["faults"].values()) == options.faults
    assert report.verdict.facts["faults"].keys() == Faults.kinds.keys()
    assert report.verdict.facts["pairs of faults"] > 0
    assert report.verdict.facts["events confirmed"] > 500
    assert report.verdict.facts["answered"] > 100
    assert report.poison > 10
