"""The pages of `export-runs report` in a real browser: what it says of them, who can read them, and on paper."""

import asyncio
import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from local.debian import install
from sql.connection import Connection
from tests.forked import forked_export_runs
from tests.log_history import finish, write_history
from tests.pages import ROOT
from worker.settings import WorkerSettings

PACKAGES = ROOT / "tests/browser"
INSTALL_TIMEOUT_S = 300
BROWSER_TIMEOUT_S = 120
PICTURE_BYTES_MIN = 20_000
"""A picture of an empty page is smaller."""

AXE = """
<pre id="axe"></pre><script>
axe.run().then(result => { document.getElementById("axe").textContent = JSON.stringify(
    {violations: result.violations.map(each => [each.id, each.nodes.map(node => node.html)]),
     passed: result.passes.length}
); });
</script>
"""


@pytest.fixture(scope="module")
def axe() -> str:
    """The program of axe-core, in the version of the lock. Chromium and npm are there, too, afterwards."""
    for package in ("chromium", "npm"):
        if not shutil.which(package):
            install(package, f"install {package}", print)
    subprocess.run(["npm", "ci"], cwd=PACKAGES, check=True, capture_output=True, timeout=INSTALL_TIMEOUT_S)
    return (PACKAGES / "node_modules/axe-core/axe.min.js").read_text()


async def chromium(folder: Path, page: Path, *options: str) -> tuple[str, list[str]]:
    """Show a page; what the browser prints, and what it has to complain of in its console."""
    process = await asyncio.create_subprocess_exec(
        "chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}",
        "--enable-logging=stderr", *options, page.as_uri(),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), BROWSER_TIMEOUT_S)
    assert process.returncode == 0
    return out.decode(), [line for line in err.decode().splitlines() if "CONSOLE" in line]


async def axe_result(folder: Path, page: Path, axe: str) -> dict[str, Any]:
    """What axe-core says of a page, which itself allows no script."""
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text())
    page = page.with_name(f"axe-{page.name}")
    page.write_text(text.replace("</body>", f"<script>{axe}</script>{AXE}</body>"))
    shown, complaints = await chromium(folder, page, "--virtual-time-budget=60000", "--dump-dom")
    assert complaints == []
    match = re.search(r'<pre id="axe">(\{.*?\})</pre>', shown, re.DOTALL)
    assert match is not None
    result: dict[str, Any] = json.loads(html.unescape(match[1]))
    return result


def page_count(pdf: Path) -> int:
    return len(re.findall(rb"/Type\s*/Page\b", pdf.read_bytes()))


async def test_pages_are_shown_without_complaint_read_by_everybody_and_printed(
    settings: WorkerSettings, connection: Connection, axe: str, tmp_path: Path
) -> None:
    await write_history(connection)
    await finish(connection, "org-<script>alert(1)</script>", "c-1", "\u202eclaim")
    pages = {name: tmp_path / f"{name}.html" for name in ("report", "certificate")}
    for name, page in pages.items():
        options = ["--certificate"] if name == "certificate" else []
        finished = await forked_export_runs("report", "--output", str(page), *options, settings=settings)
        assert finished.code == 0, finished.err
        assert re.findall(r"https?://[^\"'<\s)]+", page.read_text()) in ([], ["http://www.w3.org/2000/svg"] * 4)
    picture, printed, certified = (tmp_path / name for name in ("report.png", "report.pdf", "certificate.pdf"))
    results = asyncio.gather(*(axe_result(tmp_path / f"axe-{name}", page, axe) for name, page in pages.items()))
    shows = await asyncio.gather(
        chromium(tmp_path / "b1", pages["report"], "--window-size=1300,2600", f"--screenshot={picture}"),
        chromium(tmp_path / "b2", pages["report"], "--no-pdf-header-footer", f"--print-to-pdf={printed}"),
        chromium(tmp_path / "b3", pages["certificate"], "--no-pdf-header-footer", f"--print-to-pdf={certified}"),
    )
    assert [(result["violations"], result["passed"] > 0) for result in await results] == [([], True)] * 2
    assert [complaints for _, complaints in shows] == [[]] * 3
    assert picture.stat().st_size > PICTURE_BYTES_MIN
    assert page_count(certified) == 1
    assert page_count(printed) > 1
