"""A port that was given out is given to no other process, even while nobody listens on it yet."""

import subprocess
import sys

import pytest

from local import processes
from local.processes import ServiceError, free_ports


def test_no_port_is_given_out_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    (port,) = free_ports(1)
    monkeypatch.setattr(processes, "_PORTS", range(port, port + 1))
    with pytest.raises(ServiceError, match="no 1 free ports"):
        free_ports(1)
    program = f"from local import processes; processes._PORTS = range({port}, {port + 1}); processes.free_ports(1)"
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "ServiceError: no 1 free ports" in other.stderr
