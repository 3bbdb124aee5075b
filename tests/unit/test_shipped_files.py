"""What is shipped is pinned and locked down: the compose file, the image, the wheels."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.pages import ROOT, read
from tests.source import PRODUCT

COMPOSE: Final[dict[str, Any]] = yaml.safe_load(read("docker-compose.yml"))
SERVICES: Final[dict[str, dict[str, Any]]] = COMPOSE["services"]
OURS: Final = ("migrate", "worker")

PINNED: Final = re.compile(r"[a-z0-9./-]+:v?\d+\.\d+(\.\d+)?(-[a-z0-9.]+)?(@sha256:[0-9a-f]{64})?")
"""An image by an exact version: a tag such as `rabbitmq:4` means another one tomorrow."""

BUILD_TIMEOUT_S: Final = 120


def test_images_are_pinned() -> None:
    images = {name: service["image"] for name, service in SERVICES.items() if "build" not in service}
    assert {"rabbitmq", "postgres"} <= set(images)
    bases = re.findall(r"^FROM (\S+)", read("Dockerfile"), re.MULTILINE)
    assert bases
    assert [image for image in [*images.values(), *bases] if not PINNED.fullmatch(image)] == []


@pytest.mark.parametrize("name", OURS)
def test_our_containers_may_do_nothing_but_their_work(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service.keys().isdisjoint({"privileged", "cap_add", "user", "volumes", "devices", "network_mode", "pid"})
    [user] = re.findall(r"^USER (\d+):(\d+)$", read("Dockerfile"), re.MULTILINE)
    assert "0" not in user


def test_nothing_uses_a_superuser_and_no_port_is_open_to_other_machines() -> None:
    urls = {name: SERVICES[name]["environment"]["EXPORT_RUNS_DATABASE_URL"] for name in OURS}
    users = {name: url.removeprefix("postgresql://").partition(":")[0] for name, url in urls.items()}
    assert users == {"migrate": "export_runs_owner", "worker": "export_runs_worker"}
    assert "EXPORT_RUNS_OWNER_PASSWORD" not in str(SERVICES["worker"])
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_every_password_is_asked_for_and_none_is_written_down() -> None:
    text = read("docker-compose.yml")
    asked = set(re.findall(r"\$\{(\w+PASSWORD):\?", text))
    assert asked == set(re.findall(r"^(\w+PASSWORD)=$", read(".env.example"), re.MULTILINE))
    assert re.findall(r"\$\{\w+PASSWORD[}:-](?!\?)", text) == []


def built_wheel(project: Path, folder: Path) -> Path:
    """Build the wheel of a project."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder],
        cwd=project,
        check=True,
        capture_output=True,
        timeout=BUILD_TIMEOUT_S,
    )
    [wheel] = folder.iterdir()
    return wheel


def digests(wheel: Path, folder: str = "") -> dict[str, str]:
    """The digest of each file in a folder of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.startswith(folder)]
        return {name: hashlib.sha256(archive.read(name)).hexdigest() for name in names}


def test_wheels_that_are_built_twice_have_the_same_bytes(tmp_path: Path) -> None:
    """The second time from a copy with other times and another mask for permissions. Both have the client."""
    copy = tmp_path / "copy"
    without_caches = shutil.ignore_patterns("__pycache__", "*.pyc", "dist", "build")
    for name in (*PRODUCT, "client"):
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=without_caches, copy_function=shutil.copyfile)
    for name in ("pyproject.toml", "README.md", "CHANGELOG.md"):
        shutil.copyfile(ROOT / name, copy / name)
    for path in copy.rglob("*"):
        os.utime(path, (1, 1), follow_symlinks=False)
    wheels: list[Path] = []
    for project in (Path(), Path("client")):
        first = built_wheel(ROOT / project, tmp_path / "first" / project / "dist")
        second = built_wheel(copy / project, tmp_path / "second" / project / "dist")
        assert digests(first) == digests(second)
        assert first.read_bytes() == second.read_bytes()
        wheels.append(first)
    service, client = (digests(wheel, "export_runs_client/") for wheel in wheels)
    assert service == client
    assert "export_runs_client/schema/operations.py" in client


def test_what_looks_for_weaknesses_is_locked_with_its_hashes() -> None:
    lock = read("local/requirements-security.lock")
    for line in read("local/requirements-security.in").splitlines():
        if re.match(r"\w", line):
            name = re.split(r"[<>=\[]", line)[0]
            assert re.search(rf"^{re.escape(name)}==\S+ \\\n    --hash=sha256:", lock, re.MULTILINE), name
