"""A process keeps to the SQL that it began with."""

import shutil
import subprocess
import sys
from pathlib import Path

import sql

READ_WITHOUT_FILES = """
import shutil, sys
import sql
shutil.rmtree(sys.argv[1])
print(sql.query("get_time"), end="")
"""


def test_a_process_goes_on_while_its_files_are_replaced(tmp_path: Path) -> None:
    """Otherwise an upgrade under a running worker gives old Python new SQL."""
    package = Path(sql.__file__).parent
    shutil.copytree(package, tmp_path / "sql", ignore=shutil.ignore_patterns("__pycache__"))
    command = (sys.executable, "-c", READ_WITHOUT_FILES, str(tmp_path / "sql" / "queries"))
    done = subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, sql.query("get_time")), done.stderr
