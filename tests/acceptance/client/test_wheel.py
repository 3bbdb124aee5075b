"""The wheel of the client, in an environment that has nothing of the product."""

import asyncio
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from cli.contract.pages import blocks
from tests.commands import COMMAND_TIMEOUT_S, environment
from tests.pages import ROOT, read
from worker.settings import WorkerSettings

INSTALL_TIMEOUT_S = 300

README_PROGRAMS = [block.text for block in blocks(read("client/README.md")) if block.info[:1] == ("python",)]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, as `make client` builds it."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(["make", "-C", str(ROOT), "client", f"DIST={folder}"], check=True, timeout=INSTALL_TIMEOUT_S)
    [wheel] = folder.iterdir()
    return wheel


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The interpreter of an environment with the wheel, and what the wheel needs."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True, timeout=INSTALL_TIMEOUT_S)
    python = str(folder / "bin" / "python")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--python", python]
    subprocess.run([*pip, "install", str(wheel)], check=True, timeout=INSTALL_TIMEOUT_S)
    return python


def test_the_wheel_has_the_schema_of_the_service(wheel: Path) -> None:
    shipped = ROOT / "schema"
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        models = {name for name in names if name.startswith("export_runs_client/schema/")}
        assert models == {f"export_runs_client/schema/{path.name}" for path in shipped.glob("*.py")}
        for path in shipped.glob("*.py"):
            assert archive.read(f"export_runs_client/schema/{path.name}") == path.read_bytes()
    assert "export_runs_client/py.typed" in names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"export_runs_client"}


def test_the_wheel_needs_aio_pika_and_pydantic_only(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        [metadata] = [name for name in archive.namelist() if name.endswith("METADATA")]
        text = archive.read(metadata).decode()
    assert re.findall(r"^Requires-Dist: ([\w-]+)", text, re.MULTILINE) == ["aio-pika", "pydantic"]


def test_a_program_that_uses_it_is_type_checked(python: str, tmp_path: Path) -> None:
    for number, program in enumerate(README_PROGRAMS):
        (tmp_path / f"program_{number}.py").write_text(program, encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--strict", "--python-executable", python, "--config-file", "", "."]
    checked = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S)
    assert checked.returncode == 0, checked.stdout


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("program", README_PROGRAMS, ids=lambda program: program.splitlines()[0].strip("# "))
async def test_a_program_of_its_readme_runs(
    python: str, settings: WorkerSettings, program: str, tmp_path: Path
) -> None:
    process = await asyncio.create_subprocess_exec(
        python,
        "-W",
        "error",
        "-c",
        program,
        cwd=tmp_path,
        env=environment(settings),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), COMMAND_TIMEOUT_S)
    shown = re.findall(r"^.*# prints: (.*)$", program, re.MULTILINE)
    assert shown
    assert (process.returncode, out.decode().splitlines()) == (0, shown), err.decode()
