"""What the README shows works as shown."""

import asyncio
import re
import sys
from pathlib import Path

import pytest

from tests.commands import COMMAND_TIMEOUT_S, environment
from tests.wire import Wire
from worker.routes import DATABASE_CONNECTIONS_MAX
from worker.settings import WorkerSettings

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


async def run_example(settings: WorkerSettings, heading: str) -> str:
    """Run the Python under a heading, and return what it printed."""
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
async def test_the_guard_asks(settings: WorkerSettings) -> None:
    answer = await run_example(settings, "The guard asks")
    assert answer == "{'ok': True, 'result': {'exported': [], 'reserved': [], 'unexported': ['taxi-17', 'hotel-4']}}\n"


def test_the_number_of_connections() -> None:
    assert f"up to {DATABASE_CONNECTIONS_MAX} connections to PostgreSQL" in README


def test_every_setting_is_in_the_table() -> None:
    rows = dict(re.findall(r"^\| `EXPORT_RUNS_(\w+)` \| ([^|]+) \|", README, re.MULTILINE))
    expected = {}
    for name, field in WorkerSettings.model_fields.items():
        default = "required" if field.is_required() else field.default
        if isinstance(default, tuple):
            default = f"`{','.join(default)}`"
        expected[name.upper()] = str(default).lower() if isinstance(default, bool) else str(default)
    assert rows.keys() == expected.keys()
    assert {name: shown.strip() for name, shown in rows.items()} == expected
