"""Prometheus takes the alert rules, and finds what they and the dashboard ask for at a worker that works."""

import asyncio
import json
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from local.debian import install
from local.processes import free_ports
from sql.connection import Connection
from tests.commands import worker_process
from tests.pages import ROOT, read
from tests.resilience.observing import RECOVERY_S, until
from tests.storing import UNPUBLISHED_ALERT
from tests.wire import Wire, run_created, run_finished
from worker.settings import WorkerSettings

RULES = ROOT / "deploy/prometheus"
HOST = "127.0.0.1"
ANSWER_TIMEOUT_S = 10

QUICK = """
from worker.limits import WorkerLimits
from worker.session import WorkerParts
parts = WorkerParts(limits=WorkerLimits(backlog_interval_s=0.2))
"""
"""A worker in one process that looks up often what waits."""


@pytest.fixture(scope="module")
def prometheus() -> None:
    """The programs prometheus and promtool."""
    if not shutil.which("promtool"):
        install("prometheus", "install prometheus and promtool", print)


@pytest.mark.usefixtures("prometheus")
def test_each_alert_is_raised_when_it_should_be() -> None:
    subprocess.run(["promtool", "test", "rules", "alerts_test.yml"], cwd=RULES, check=True)
    subprocess.run(["promtool", "check", "config", "--syntax-only", "prometheus.yml"], cwd=RULES, check=True)


async def query(port: int, expression: str) -> list[dict[str, Any]]:
    """What Prometheus answers: one entry for each series."""

    def ask() -> list[dict[str, Any]]:
        parameters = urllib.parse.urlencode({"query": expression})
        with urllib.request.urlopen(f"http://{HOST}:{port}/api/v1/query?{parameters}", timeout=ANSWER_TIMEOUT_S) as got:
            answer = json.load(got)
        assert answer["status"] == "success"
        series: list[dict[str, Any]] = answer["data"]["result"]
        return series

    return await asyncio.to_thread(ask)


@asynccontextmanager
async def prometheus_of(worker_port: int, folder: Path) -> AsyncIterator[int]:
    """A Prometheus that scrapes a worker every half second, with the alert rules. Yields its port."""
    [port] = free_ports(1)
    config = yaml.safe_load((RULES / "prometheus.yml").read_text(encoding="utf-8"))
    config["global"] = {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "500ms"}
    config["rule_files"] = [str(RULES / "alerts.yml")]
    [job] = config["scrape_configs"]
    del job["dns_sd_configs"]
    job["static_configs"] = [{"targets": [f"{HOST}:{worker_port}"]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    process = await asyncio.create_subprocess_exec(
        "prometheus",
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address={HOST}:{port}",
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield port
    finally:
        process.kill()
        await process.wait()


@pytest.mark.usefixtures("prometheus")
async def test_every_panel_has_numbers_and_every_rule_works(
    settings: WorkerSettings, wire: Wire, connection: Connection, tmp_path: Path
) -> None:
    [worker_port] = free_ports(1)
    async with (
        worker_process(settings, parts=QUICK, EXPORT_RUNS_HTTP_PORT=str(worker_port)),
        prometheus_of(worker_port, tmp_path) as port,
    ):

        async def is_scraped() -> bool:
            try:
                return bool(await query(port, 'up{job="export-runs"} == 1'))
            except OSError:
                return False

        await until(is_scraped, RECOVERY_S)
        await connection.execute(UNPUBLISHED_ALERT)
        panels = json.loads(read("deploy/grafana/export-runs.json"))["panels"]
        targets = [target for panel in panels for target in panel.get("targets", ())]
        expected = [target["expr"].replace("$__rate_interval", "1m") for target in targets]
        assert len(expected) > 25

        async def without_numbers() -> list[str]:
            return [each for each in expected if not await query(port, each)]

        async def all_have_numbers() -> bool:
            for event in (run_created(), run_finished(claimIds=["c-1"])):
                await wire.publish("run-finished" if "status" in event else "run-created", event)
            await wire.publish("run-created", {"no": "event"})
            await wire.ask("check-claims", {"orgId": "acme", "claimIds": ["c-1"]})
            await wire.ask("check-claims", {"orgId": "acme"})
            return not await without_numbers()

        try:
            await until(all_have_numbers, RECOVERY_S)
        except TimeoutError:
            pytest.fail(f"without numbers: {await without_numbers()}")

        async def are_raised() -> bool:
            names = {each["metric"]["alertname"] for each in await query(port, "ALERTS")}
            return names == {"ExportRunsDeadLetters", "ExportRunsDoubleExports", "ExportRunsAlertsUnpublished"}

        await until(are_raised, RECOVERY_S)
