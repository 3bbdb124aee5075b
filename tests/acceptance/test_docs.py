"""The examples in README.md and docs/MIGRATION.md work as shown."""

import asyncio
import json
import re
import sys

import pytest

from cli.contract.pages import blocks
from tests.commands import COMMAND_TIMEOUT_S, environment, export_runs
from tests.pages import read
from tests.wire import Wire
from worker.settings import WorkerSettings

README = read("README.md")


async def run_example(settings: WorkerSettings, heading: str) -> str:
    """Run the Python code under a heading. Returns its output."""
    code = re.search(rf"### {heading}\n\n```python\n(.*?)```", README, re.DOTALL)
    assert code is not None
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        code[1],
        env=environment(settings),
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await asyncio.wait_for(process.communicate(), COMMAND_TIMEOUT_S)
    assert process.returncode == 0
    return out.decode()


@pytest.mark.usefixtures("worker")
async def test_an_exporter_publishes(settings: WorkerSettings, wire: Wire) -> None:
    run_id = (await run_example(settings, "An exporter publishes")).strip()
    assert (await wire.until_run(run_id))["triggeredBy"] == "alice"


@pytest.mark.usefixtures("worker")
async def test_the_guard_checks_claims(settings: WorkerSettings) -> None:
    answer = await run_example(settings, "The guard asks")
    found = "{'ok': True, 'result': {'exported': [], 'reserved': [], 'unexported': ['taxi-17', 'hotel-4'], 'asOf': '"
    assert answer.startswith(found)


@pytest.mark.usefixtures("worker")
async def test_old_records_are_imported_as_shown(settings: WorkerSettings, wire: Wire) -> None:
    [lines] = [block for block in blocks(read("docs/MIGRATION.md")) if block.info == ("jsonl", "lines")]
    for _ in range(2):  # it is safe to repeat
        published = await export_runs("publish", "-", settings=settings, stdin=lines.text.encode())
        assert (published.code, published.out) == (0, "2 published, 0 invalid\n")
    run = await wire.until_run(json.loads(lines.text.splitlines()[0])["runId"], status="completed", triggeredBy="alice")
    assert (run["claimIds"], run["hasConflict"]) == (["taxi-3"], False)
