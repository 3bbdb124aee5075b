"""A campaign that this machine cannot run is refused in a sentence, before anything is broken."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.cluster_faults import NETWORK_CUT

REFUSAL_TIMEOUT_S = 60


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--only", "broker node killed"], "--only 'broker node killed' needs --cluster"),
        (["--cluster", "--only", NETWORK_CUT], "a network of its own"),
    ],
)
def test_what_cannot_be_broken_is_named(tmp_path: Path, options: list[str], sentence: str) -> None:
    refused = subprocess.run(
        [sys.executable, "-m", "tests.chaos", "--directory", str(tmp_path), *options],
        env={"PATH": str(tmp_path)},  # where there is none of the programs that make a network
        capture_output=True,
        text=True,
        timeout=REFUSAL_TIMEOUT_S,
    )
    assert refused.returncode == 2
    assert sentence in refused.stderr.splitlines()[-1]
    assert "Traceback" not in refused.stderr
