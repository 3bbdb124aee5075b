"""The exporter and the guard in examples/javascript/ break no rule of the contract."""

import shutil
import subprocess
from pathlib import Path

import pytest

from cli.conformance.playing import play_all
from cli.conformance.scenarios import SCENARIOS, Role
from local.debian import install
from tests.acceptance.conformance.conftest import TIMEOUT_S
from tests.pages import ROOT
from worker.settings import BrokerSettings

EXAMPLE = ROOT / "examples/javascript"
INSTALL_TIMEOUT_S = 300


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the example, with the packages of its lock."""
    if not shutil.which("npm"):
        install("npm", "install Node.js and npm", print)
    folder = tmp_path_factory.mktemp("example") / "javascript"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("node_modules"))
    subprocess.run(["npm", "ci"], cwd=folder, check=True, capture_output=True, timeout=INSTALL_TIMEOUT_S)
    return folder


@pytest.mark.parametrize("role", Role)
async def test_it_breaks_no_rule(kit_url: str, example: Path, role: Role) -> None:
    settings = BrokerSettings.model_validate({"amqp_url": kit_url})
    command = ("node", str(example / "conformance.mjs"), role)
    played = [each async for each in play_all(settings, SCENARIOS[role], command, TIMEOUT_S)]
    assert [(each.scenario.name, each.findings) for each in played] == [(each.name, []) for each in SCENARIOS[role]]
