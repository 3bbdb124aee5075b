"""`export-runs contract` writes the files, checks them, and needs no service."""

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cli.console import Exit
from cli.main import app
from tests.pages import ROOT


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "docs/CONTRACT.md", tmp_path)
    return tmp_path


def contract(folder: Path, *options: str) -> Result:
    return CliRunner().invoke(app, ["contract", str(folder), *options], env={"COLUMNS": "400"})


def test_it_writes_what_is_committed(folder: Path) -> None:
    assert contract(folder, "--check").exit_code == Exit.REFUSED
    assert list(folder.iterdir()) == [folder / "CONTRACT.md"]
    assert contract(folder).exit_code == Exit.DONE
    for path in [folder / "asyncapi.yaml", *(folder / "schemas").iterdir()]:
        assert path.read_text("utf-8") == (ROOT / "docs" / path.relative_to(folder)).read_text("utf-8")
    assert contract(folder, "--check").exit_code == Exit.DONE


def test_it_names_each_file_that_is_not_current_and_puts_it_right(folder: Path) -> None:
    assert contract(folder).exit_code == Exit.DONE
    (folder / "schemas/run-created.json").write_text("{}", encoding="utf-8")
    (folder / "schemas/former.request.json").write_text("{}", encoding="utf-8")
    checked = contract(folder, "--check")
    assert checked.exit_code == Exit.REFUSED
    assert [line.split("/")[-1] for line in checked.output.splitlines()] == [
        "former.request.json is not current",
        "run-created.json is not current",
        "run `export-runs contract` to write them anew",
    ]
    assert contract(folder).exit_code == Exit.DONE
    assert not (folder / "schemas/former.request.json").exists()
    assert contract(folder, "--check").exit_code == Exit.DONE


@pytest.mark.parametrize("page", [None, b"```json event run-created\n{\n```\n", b"\xff"])
def test_a_folder_without_a_page_that_can_be_read_is_refused_in_one_line(page: bytes | None, tmp_path: Path) -> None:
    if page is not None:
        (tmp_path / "CONTRACT.md").write_bytes(page)
    refused = contract(tmp_path)
    assert refused.exit_code == Exit.REFUSED
    [line] = refused.output.splitlines()
    assert line.startswith(f"{tmp_path}: ")
