"""The benchmarks run as a command, with services of their own. Only the limits of the rows about events are tried."""

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.sizes import QUICK
from tests.pages import ROOT

TIMEOUT_S = 500


def test_the_benchmarks_measure_rabbitmq_and_postgresql_alone(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "benchmarks",
            "--quick",
            "--json",
            file,
            "--only",
            "events-rabbitmq",
            "events-postgresql",
            "double-exports-postgresql",
        ],
        cwd=ROOT,
        timeout=TIMEOUT_S,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    rows = json.loads(file.read_text(encoding="utf-8"))["rows"]
    assert set(rows) == {"events-rabbitmq", "events-postgresql", "double-exports-postgresql"}, done.stdout
    for row in rows.values():
        for side in (row["ours"], row["other"]):
            assert len(side["samples"]) == QUICK.rounds
            assert min(side["samples"]) > 0
