"""The results as a table for the terminal, as Markdown and as JSON."""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final

import aio_pika
import aiormq
from rich.table import Table

from benchmarks.databases import connected
from benchmarks.processes import PEERS_PYTHON, peer_versions
from benchmarks.results import Goal, Pair, Side
from benchmarks.rows import Row
from local.services import Services

BEGIN: Final = "<!-- results begin -->"
END: Final = "<!-- results end -->"
COLUMNS: Final = ("what", "ours", "other", "ratio", "goal", "")

Measured = Sequence[tuple[Row, Pair]]


@dataclass(frozen=True, slots=True)
class Setting:
    """Where and when it was measured, and with which versions."""

    date: str
    machine: dict[str, str]
    versions: dict[str, str]

    def lines(self) -> list[str]:
        """As a person reads it."""
        machine = ", ".join(f"{name} {value}" for name, value in self.machine.items())
        versions = ", ".join(f"{name} {value}" for name, value in self.versions.items())
        return [f"{self.date}: {machine}.", f"{versions}."]


async def setting(services: Services) -> Setting:
    """Find out."""
    async with connected(services.database_url) as connection:
        postgresql = connection.get_server_version()
    async with await aio_pika.connect(services.amqp_url) as broker:
        assert broker.transport is not None
        underlay = broker.transport.connection
        assert isinstance(underlay, aiormq.Connection)
        rabbitmq = str(underlay.server_properties["version"])
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    peers = peer_versions("faststream", "nameko", "psycopg2-binary") if PEERS_PYTHON.exists() else {}
    return Setting(
        date=datetime.now(UTC).date().isoformat(),
        machine={
            "cores": str(os.cpu_count()),
            "memory": f"{memory_gib:.0f} GiB",
            "kernel": f"{platform.system()} {platform.release()}",
        },
        versions={
            "Python": platform.python_version(),
            "RabbitMQ": rabbitmq,
            "PostgreSQL": f"{postgresql.major}.{postgresql.minor}",
            "aio-pika": version("aio-pika"),
            "asyncpg": version("asyncpg"),
            **peers,
        },
    )


def cells(row: Row, pair: Pair) -> list[list[str]]:
    """The lines of a row: the ratio, then what else has a goal."""
    found = [[row.what, side(pair.ours), side(pair.other), f"{number(pair.ratio)}x", *judged(row.goal, pair.ratio)]]
    for also in pair.also:
        value = f"{number(also.value)}{also.goal.unit}"
        found.append([also.what, value, "", "", *judged(also.goal, also.value)])
    return found


def side(side: Side) -> str:
    """The median of a side, with its spread."""
    spread = f"{number(min(side.samples))} to {number(max(side.samples))}"
    return f"{side.name}: {number(side.median)} {side.unit} ({spread})"


def judged(goal: Goal | None, value: float) -> list[str]:
    """The goal, and whether it is reached."""
    if goal is None:
        return ["", "reported"]
    return [str(goal), "reached" if goal.reached(value) else "missed"]


def number(value: float) -> str:
    """Three digits are enough."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def table(measured: Measured, setting: Setting) -> Table:
    """For the terminal."""
    made = Table(*COLUMNS, caption="\n".join(setting.lines()), caption_justify="left", show_lines=True)
    for row, pair in measured:
        for line in cells(row, pair):
            colour = {"reached": "green", "missed": "red"}.get(line[-1], "")
            made.add_row(*line[:-1], f"[{colour}]{line[-1]}" if colour else line[-1])
    return made


def markdown(measured: Measured, setting: Setting) -> str:
    """For benchmarks/README.md."""
    lines = [COLUMNS, ["---"] * len(COLUMNS), *(line for row, pair in measured for line in cells(row, pair))]
    return "\n".join([*setting.lines(), "", *(f"| {' | '.join(line)} |" for line in lines)])


def write_readme(path: Path, text: str) -> None:
    """Put a text between the markers of a file."""
    before, _, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    path.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", encoding="utf-8")


def write_json(path: Path, measured: Measured, setting: Setting, sizes: Mapping[str, float]) -> None:
    """Everything, all samples included."""
    rows = {row.name: {"what": row.what, "ratio": pair.ratio, **asdict(pair)} for row, pair in measured}
    whole = {**asdict(setting), "sizes": dict(sizes), "rows": rows}
    path.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
